"""Changing one general setting while the program runs, without a file: what the console's SET and RESET do."""

from dataclasses import replace
from pathlib import Path

from pgdoorman.config.document import Node
from pgdoorman.config.findings import Findings
from pgdoorman.config.keys import Change, Key, Section, Since, keys_of
from pgdoorman.config.kinds import Choice, Duration, Flag, Integer, Refused, Size, Text, suggest
from pgdoorman.config.names import as_typed
from pgdoorman.config.references import Surroundings
from pgdoorman.config.settings import Settings
from pgdoorman.config.validate import validate
from pgdoorman.errors import ConfigError

# What can be said in a word. The others (secrets, files, rules, lists) belong into the file.
_PLAIN = (Choice, Duration, Flag, Integer, Size, Text)


def with_setting(settings: Settings, name: str, text: str) -> Settings:
    """The settings with the general key `name` as `text` says: `5s`, `on`, `transaction`. Pools and users that have a
    value of their own keep it.

    Raises ConfigError for a key or a value that is not allowed, or one that does not go with the others.
    """
    key = settable(name)
    where = Surroundings({}, Path("."), [])
    try:
        value = key.kind.read(Node(as_typed(key.kind, text), "", 0), where)
    except Refused as refused:
        raise ConfigError("; ".join(message for message, _ in refused.complaints), key=name) from None
    changed = replace(settings, general=replace(settings.general, **{name: value}))
    # What the file itself was warned of, and was allowed, is no news.
    findings = Findings([])
    findings.stand_on(Node({}, "", 0))
    validate(changed, findings)
    findings.finish()
    return changed


def without_setting(settings: Settings, name: str, origin: Settings) -> Settings:
    """The settings with the general key `name` as `origin` has it. Raises ConfigError for a key that cannot be set."""
    key = settable(name)
    return replace(settings, general=replace(settings.general, **{key.name: getattr(origin.general, key.name)}))


def settable(name: str) -> Key:
    """The general key of this name. Raises ConfigError if there is none, or it cannot be changed while running."""
    keys = keys_of(Section.GENERAL)
    key = keys.get(name)
    if key is None:
        raise ConfigError(f"there is no such setting{suggest(name, keys)}", key=name)
    if key.since is Since.LATER or key.ignored:
        raise ConfigError("has no effect in this version", key=name)
    if key.change is Change.RESTART:
        raise ConfigError("takes a restart; change it in the file", key=name)
    if not isinstance(key.kind, _PLAIN):
        raise ConfigError("cannot be changed here; change it in the file and RELOAD", key=name)
    return key
