"""The settings in force as rows: what SHOW CONFIG and the web console list."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pgdoorman.config.document import spell
from pgdoorman.config.keys import REQUIRED, Change, Derived, Key, Section, Since, keys_of
from pgdoorman.config.settings import PoolSettings, Settings


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One key. Durations are in milliseconds and sizes in bytes, except where the key itself counts in seconds;
    a secret's value is `***`. `default` is `-` where there is none."""

    key: str
    value: str
    default: str
    change: Change
    meaning: str

    @property
    def changeable(self) -> str:
        """`yes` if a reload brings a change into force."""
        return "no" if self.change is Change.RESTART else "yes"


def rows(settings: Settings) -> tuple[SettingRow, ...]:
    """Every general key by its bare name, then `web.`, `talos.`, and of pools and users what they set themselves."""
    found = list(_section(Section.GENERAL, "", settings.general))
    found += _section(Section.WEB, "web.", settings.web)
    found += _section(Section.TALOS, "talos.", settings.talos)
    for pool in settings.pools.values():
        found += _pool(pool)
    return tuple(found)


def _pool(pool: PoolSettings) -> Iterable[SettingRow]:
    path = spell(("pools", pool.name))
    yield from _section(Section.POOL, f"{path}.", pool)
    if pool.auth_query is not None:
        yield from _section(Section.AUTH_QUERY, f"{path}.auth_query.", pool.auth_query)
    for user in pool.users:
        yield from _section(Section.USER, f"{path}.users.{spell((user.username,))}.", user)


def _section(section: Section, prefix: str, values: Any) -> Iterable[SettingRow]:
    for name, key in keys_of(section).items():
        value = getattr(values, name)
        inherited = key.inherits(section) and value in (None, ())
        if inherited or key.since is Since.LATER or key.ignored:
            continue
        yield SettingRow(prefix + name, _show(key, value), _show_default(key), key.change, key.meaning)


def _show(key: Key, value: Any) -> str:
    return "" if value is None else key.kind.show(value)


def _show_default(key: Key) -> str:
    if key.default is REQUIRED or key.default is None:
        return "-"
    if isinstance(key.default, Derived):
        return key.default.words
    return key.kind.show(key.default)
