"""The table of keys as JSON Schema (2020-12), with which editors complete and check configuration files."""

from typing import Any

from pgdoorman.config.keys import REQUIRED, Derived, Key, Section, Since, keys_of

_TEXTS = {"type": "array", "items": {"type": "string"}}


def json_schema() -> dict[str, Any]:
    """The schema of a whole file, TOML or YAML. Keys that this version refuses are not in it."""
    sections: dict[str, Any] = {
        "include": {
            "type": "object",
            "description": "Files that are merged over this one, in this order.",
            "properties": {"files": _TEXTS},
            "additionalProperties": False,
        },
        "general": _section(Section.GENERAL),
        "pools": {
            "type": "object",
            "description": "The databases that clients may ask for, by name.",
            "additionalProperties": _pool(),
        },
    }
    for section, names in ((Section.WEB, ("web", "prometheus")), (Section.TALOS, ("talos",))):
        if _keys(section):
            sections |= {name: _section(section) for name in names}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "pgdoorman's configuration file",
        "type": "object",
        "properties": sections,
        "required": ["general", "pools"],
        "additionalProperties": False,
    }


def _pool() -> dict[str, Any]:
    pool = _section(Section.POOL)
    user = _section(Section.USER)
    numbered = {"type": "object", "patternProperties": {"^[0-9]+$": user}, "additionalProperties": False}
    pool["properties"]["users"] = {"anyOf": [{"type": "array", "items": user}, numbered]}
    if _keys(Section.AUTH_QUERY):
        pool["properties"]["auth_query"] = _section(Section.AUTH_QUERY)
    return pool


def _keys(section: Section) -> list[Key]:
    return [key for key in keys_of(section).values() if key.since is Since.AVAILABLE]


def _section(section: Section) -> dict[str, Any]:
    keys = _keys(section)
    properties = {key.name: _property(key, section) for key in keys}
    for key in keys:
        properties |= {alias: _property(key, section) | {"deprecated": True} for alias in key.aliases}
    schema: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    required = [key.name for key in keys if key.default is REQUIRED]
    return schema | {"required": required} if required else schema


def _property(key: Key, section: Section) -> dict[str, Any]:
    schema = key.kind.schema() | {"description": key.meaning}
    known = not isinstance(key.default, Derived) and key.default not in (None, REQUIRED)
    if known and not key.inherits(section):
        schema["default"] = key.kind.plain(key.default)
    if key.ignored:
        schema["deprecated"] = True
    return schema
