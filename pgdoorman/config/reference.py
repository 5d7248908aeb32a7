"""Texts made from the table of keys: the reference page, and files with every key in them.

`python -m pgdoorman.config.reference DIRECTORY` writes them into a source tree; a test says when that is due.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pgdoorman.config.keys import ENDLESS, GROUPS, KEYS, REQUIRED, Change, Derived, Key, Section, Since
from pgdoorman.config.kinds import Integer, Size
from pgdoorman.config.schema import json_schema
from pgdoorman.config.units import format_size

_POOL_NAME = "shop"
_WIDTH = 110

_INTRODUCTION = """\
# Settings

<!-- Made from pgdoorman/config/keys.py by `python -m pgdoorman.config.reference .`; edit there. -->

A configuration file is TOML, or YAML if its name ends in `.yaml` or `.yml`. Both say the same things:

```toml
[general]
admin_username = "admin"
admin_password = "${PGDOORMAN_ADMIN_PASSWORD}"

[pools.shop]
server_host = "127.0.0.1"

[[pools.shop.users]]
username = "shop"
password = "${SHOP_PASSWORD}"
pool_size = 40
```

```yaml
general:
  admin_username: admin
  admin_password: ${PGDOORMAN_ADMIN_PASSWORD}
pools:
  shop:
    server_host: 127.0.0.1
    users:
      - username: shop
        password: ${SHOP_PASSWORD}
        pool_size: 40
```

`pools.NAME` is the database that clients ask for. `config/` has more examples; `config/reference.toml` and
`config/reference.yaml` have every key with its default, and `config/pgdoorman.schema.json` teaches an editor.
An unknown key is an error, never silence, and all errors of a file are reported at once, each with its line.

## What stands behind a key

| type | what may stand there |
|---|---|
| duration | an integer in milliseconds, or a text such as `"250ms"`, `"1.5s"`, `"10m"`, `"1h30m"`, `"7d"` |
| seconds | an integer in seconds, or such a text that comes out as whole seconds |
| size | an integer in bytes, or a text such as `"64KB"`, `"1.5GB"`; units B, K, M, G, T in powers of 1024 |
| secret | a text, `"${NAME}"` for an environment variable, or `"file:/path"` for a file's content |
| path | a file; if relative, beside the configuration file, else in the working directory |
| octal text | permissions in quotes, such as `"0600"` |

A secret that itself begins with `file:`, or that is `${`, a name and `}`, must be given by one of the two references.

## Sections

| section | holds |
|---|---|
| `[include]` | `files`, a list of further files that are merged over this one |
| `[general]` | the whole program |
| `[pools.NAME]` | one database |
| `[[pools.NAME.users]]` | one user of it; `[pools.NAME.users.0]`, `.1` ... is an older way to write the same |
| `[pools.NAME.auth_query]` | how to find users that are not in the file |
| `[web]` | metrics, probes, pages; `[prometheus]` is another name of it |
| `[talos]` | logins with a role token |

Included files are merged in the order of the list: tables merge deeply, lists are appended, and of two values of one
key the later one wins. They may be of either format, and include no others.

Where a key may stand in several sections, a user's setting beats the pool's and the pool's beats the general one.
`startup_parameters` are merged instead, parameter by parameter.

## What a change needs

| | |
|---|---|
| nothing | in force after a reload, for connected clients at their next checkout at the latest |
| new clients | holds for connections that are made after the reload |
| new backends | backends of the old kind are closed as they come back to the pool |
| new pool | the pool is built anew and its old backends go |
| restart | a reload says that it takes a restart |
"""

_FILE_HEAD = """\
Every key of pgdoorman with its default. A line without a value, or whose value is only an example, is commented out.
Durations: 250ms, 1.5s, 10m, 1h30m, or milliseconds. Sizes: 64KB, 1.5GB, or bytes.
Made from the table of keys; docs/settings.md has the same as a page.
"""


def settings_page() -> str:
    """docs/settings.md."""
    parts = [_INTRODUCTION]
    for title, keys in GROUPS:
        available = [key for key in keys if key.since is Since.AVAILABLE]
        if available:
            parts.append(f"\n## {title}\n\n" + _table(available))
    later = [key for key in KEYS if key.since is Since.LATER]
    if later:
        parts.append(
            "\n## Not in this version\n\nThese keys have their place already; a file that uses one is refused.\n\n"
        )
        parts += _later_lines(later)
    return "".join(parts)


def _table(keys: Iterable[Key]) -> str:
    lines = ["| key | where | type | default | a change needs | meaning |", "|---|---|---|---|---|---|"]
    lines += [
        f"| `{key.name}` | {_where(key)} | {_type(key)} | {_default(key)} | {key.change.words} | {_meaning(key)} |"
        for key in keys
    ]
    return "\n".join(lines) + "\n"


def _later_lines(keys: Iterable[Key]) -> Iterator[str]:
    by_feature: dict[str, list[str]] = {}
    for key in keys:
        feature = key.feature.value if key.feature is not None else ""
        by_feature.setdefault(feature, []).append(f"`{key.name}`")
    for feature, names in by_feature.items():
        yield f"- {feature}: {', '.join(names)}\n"


def _where(key: Key) -> str:
    short = {Section.GENERAL: "general", Section.POOL: "pool", Section.USER: "user"}
    return ", ".join(short.get(section, section.value) for section in key.sections)


def _type(key: Key) -> str:
    kind = key.kind
    if isinstance(kind, Integer):
        limits = f"at least {kind.low}" if kind.high == ENDLESS else f"{kind.low} to {kind.high}"
        return kind.label if (kind.low, kind.high) == (0, ENDLESS) else f"{kind.label}, {limits}"
    if isinstance(kind, Size):
        return f"{kind.label}, {format_size(kind.low)} to {format_size(kind.high)}"
    return kind.label


def _default(key: Key) -> str:
    words = key.default_words
    if isinstance(key.default, Derived) or words in ("none", "required"):
        return words
    return f"`{words}`" if words else "empty"


def _meaning(key: Key) -> str:
    zero = f" 0: {key.zero}." if key.zero else ""
    aliases = f" Old name: `{'`, `'.join(key.aliases)}`." if key.aliases else ""
    ignored = " Has no effect, and says so in a warning." if key.ignored else ""
    return (key.meaning + zero + aliases + ignored).replace("|", "\\|")


def reference_file(language: str) -> str:
    """A file with every key of this version, `toml` or `yaml`. Its active lines load and mean the defaults."""
    return {"toml": _reference_toml, "yaml": _reference_yaml}[language]()


def _reference_toml() -> str:
    lines = [*_comment(_FILE_HEAD), "#:schema ./pgdoorman.schema.json"]
    for section, header in (
        (Section.GENERAL, "[general]"),
        (Section.WEB, "[web]"),
        (Section.TALOS, "[talos]"),
        (Section.POOL, f"[pools.{_POOL_NAME}]"),
        (Section.AUTH_QUERY, f"[pools.{_POOL_NAME}.auth_query]"),
        (Section.USER, f"[[pools.{_POOL_NAME}.users]]"),
    ):
        if _keys_with_titles(section):
            lines += ["", header, *_entries(section, "", " = ", _toml_value)]
    return "\n".join(lines) + "\n"


def _reference_yaml() -> str:
    lines = [*_comment(_FILE_HEAD), "# yaml-language-server: $schema=./pgdoorman.schema.json"]
    for section in (Section.GENERAL, Section.WEB, Section.TALOS):
        if _keys_with_titles(section):
            lines += ["", f"{section}:", *_entries(section, "  ", ": ", _yaml_value)]
    lines += ["", "pools:", f"  {_POOL_NAME}:", *_entries(Section.POOL, "    ", ": ", _yaml_value)]
    if _keys_with_titles(Section.AUTH_QUERY):
        lines += ["", "    auth_query:", *_entries(Section.AUTH_QUERY, "      ", ": ", _yaml_value)]
    lines += ["", "    users:", "      -", *_entries(Section.USER, "        ", ": ", _yaml_value)]
    return "\n".join(lines) + "\n"


def _keys_with_titles(section: Section) -> list[tuple[str, list[Key]]]:
    """The section's usable keys, by group."""
    groups = []
    # A user begins with who it is, although its keys come late in the table.
    for title, keys in sorted(GROUPS, key=lambda group: group[0] != "Users") if section is Section.USER else GROUPS:
        usable = [key for key in keys if section in key.sections and key.since is Since.AVAILABLE and not key.ignored]
        if usable:
            groups.append((title, usable))
    return groups


def _entries(section: Section, indent: str, equals: str, write: Any) -> Iterator[str]:
    groups = _keys_with_titles(section)
    for title, keys in groups:
        if len(groups) > 1:
            yield from ("", f"{indent}# --- {title} ---")
        for key in keys:
            yield ""
            for line in _comment(_about(key, section)):
                yield indent + line
            value, active = _value(key, section)
            yield f"{indent}{'' if active else '# '}{key.name}{equals}{write(value)}"


def _about(key: Key, section: Section) -> str:
    zero = f" 0: {key.zero}." if key.zero else ""
    needs = "" if key.change is Change.NOTHING else f" A change needs: {key.change.words}."
    default = ""
    if key.default is REQUIRED:
        default = " Required."
    elif key.inherits(section):
        default = f" Default: as in {key.sections[key.sections.index(section) - 1]}."
    elif key.default is None or isinstance(key.default, Derived):
        default = f" Default: {key.default_words}."
    return key.meaning + zero + default + needs


def _value(key: Key, section: Section) -> tuple[Any, bool]:
    """What to write behind a key, and whether the line is active."""
    if key.default is REQUIRED:
        return key.example, True
    if key.inherits(section) or key.default is None or isinstance(key.default, Derived):
        plain = key.kind.plain(key.default) if key.example is None else key.example
        return plain, False
    return key.kind.plain(key.default), True


def _comment(text: str) -> Iterator[str]:
    for paragraph in text.strip().split("\n"):
        line = "#"
        for word in paragraph.split():
            if len(line) + 1 + len(word) > _WIDTH:
                yield line
                line = "#"
            line += f" {word}"
        yield line


def file_value(value: Any, language: str) -> str:
    """A text, number, list or table as a file of this language has it, `toml` or `yaml`."""
    return _toml_value(value) if language == "toml" else _yaml_value(value)


def _toml_value(value: Any) -> str:
    if isinstance(value, dict):
        inside = ", ".join(f"{name} = {_toml_value(item)}" for name, item in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    return _yaml_value(value)


def _yaml_value(value: Any) -> str:
    # JSON is YAML, and TOML but for its tables: both take its texts, numbers and lists.
    return json.dumps(value, ensure_ascii=False)


def texts() -> dict[str, str]:
    """Every text that stands in the source tree, by its path there."""
    return {
        "docs/settings.md": settings_page(),
        "config/reference.toml": reference_file("toml"),
        "config/reference.yaml": reference_file("yaml"),
        "config/pgdoorman.schema.json": json.dumps(json_schema(), indent=2) + "\n",
    }


def write(root: Path) -> None:
    """Writes all of them under `root`."""
    for name, text in texts().items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
