"""What differs between two configurations, and what each difference needs to come into force.

Values only: whoever reloads decides what to do about them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any

from pgdoorman.config.document import spell
from pgdoorman.config.keys import Change, Section, keys_of
from pgdoorman.config.kinds import human
from pgdoorman.config.settings import (
    GeneralSettings,
    PoolSettings,
    Settings,
    UserPoolSettings,
    UserSettings,
    WebSettings,
)

# Fields of UserPoolSettings that gather several keys, with what a change of any of those needs.
_GATHERED = {
    "server_tls": Change.NEW_BACKENDS,
    "fallback": Change.NOTHING,
    "tcp": Change.NEW_BACKENDS,
}


@dataclass(frozen=True, slots=True)
class Changed:
    """One key that differs. `old` and `new` are for people to read; a secret's are `***`, an absent one's `none`."""

    key: str
    old: str
    new: str
    needs: Change

    def __str__(self) -> str:
        what = "changed" if self.old == self.new else f"{self.old} -> {self.new}"
        needs = "" if self.needs is Change.NOTHING else f" (needs {self.needs.words})"
        return f"{self.key}: {what}{needs}"


@dataclass(frozen=True, slots=True)
class Changes:
    """All differences. Users are (name of the pool, user), and those of a pool that came or went are among them.

    `pools` has the users that stay and whose effective settings differ, with the most that any difference needs.
    `auth_queries` are the pools that stay and whose auth_query differs, came or went.
    """

    keys: tuple[Changed, ...]
    added_pools: tuple[str, ...]
    removed_pools: tuple[str, ...]
    added_users: tuple[tuple[str, str], ...]
    removed_users: tuple[tuple[str, str], ...]
    pools: Mapping[tuple[str, str], Change]
    auth_queries: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(
            self.keys
            or self.added_pools
            or self.removed_pools
            or self.added_users
            or self.removed_users
            or self.auth_queries
        )

    @property
    def need_restart(self) -> tuple[Changed, ...]:
        """What cannot come into force while this process runs."""
        return tuple(changed for changed in self.keys if changed.needs is Change.RESTART)

    def lines(self) -> tuple[str, ...]:
        """The differences in words, one a line."""
        return (
            *(f"pools.{name}: added" for name in self.added_pools),
            *(f"pools.{name}: removed" for name in self.removed_pools),
            *(f"pools.{pool}: user {user} added" for pool, user in self.added_users if pool not in self.added_pools),
            *(
                f"pools.{pool}: user {user} removed"
                for pool, user in self.removed_users
                if pool not in self.removed_pools
            ),
            *(str(changed) for changed in self.keys),
        )


def compare(old: Settings, new: Settings) -> Changes:
    """What it takes to get from `old` to `new`. False if nothing."""
    before, after = old.effective_pools(), new.effective_pools()
    staying = [name for name in new.pools if name in old.pools]
    return Changes(
        keys=tuple(_keys(old, new, staying)),
        added_pools=tuple(name for name in new.pools if name not in old.pools),
        removed_pools=tuple(name for name in old.pools if name not in new.pools),
        added_users=tuple(identity for identity in after if identity not in before),
        removed_users=tuple(identity for identity in before if identity not in after),
        pools=MappingProxyType(
            {
                identity: need
                for identity, settings in after.items()
                if identity in before and (need := compare_effective(before[identity], settings)) is not None
            }
        ),
        auth_queries=tuple(name for name in staying if old.pools[name].auth_query != new.pools[name].auth_query),
    )


def in_force(old: Settings, new: Settings) -> Settings:
    """What holds when `new` is read while `old` is in force: `new`, but for the keys that need a restart."""
    return replace(
        new,
        general=_but_for_restart(Section.GENERAL, old.general, new.general),
        web=_but_for_restart(Section.WEB, old.web, new.web),
    )


def _but_for_restart[T: (GeneralSettings, WebSettings)](section: Section, old: T, new: T) -> T:
    kept = {name: getattr(old, name) for name, key in keys_of(section).items() if key.change is Change.RESTART}
    return replace(new, **kept)


def compare_effective(old: UserPoolSettings, new: UserPoolSettings) -> Change | None:
    """The most that any difference between the two needs, None if there is none.

    Also for users that auth_query has found, of whom `compare` knows nothing.
    """
    needs = [_need(field.name) for field in fields(new) if getattr(old, field.name) != getattr(new, field.name)]
    return max(needs, default=None)


def _need(name: str) -> Change:
    if name in _GATHERED:
        return _GATHERED[name]
    for section in (Section.USER, Section.POOL, Section.GENERAL):
        key = keys_of(section).get(name)
        if key is not None:
            return key.change
    return Change.NEW_POOL  # the names that make up its identity


def _keys(old: Settings, new: Settings, staying: Iterable[str]) -> Iterable[Changed]:
    yield from _section(Section.GENERAL, "general", old.general, new.general)
    yield from _section(Section.WEB, "web", old.web, new.web)
    yield from _section(Section.TALOS, "talos", old.talos, new.talos)
    for name in staying:
        yield from _pool(spell(("pools", name)), old.pools[name], new.pools[name])


def _pool(path: str, old: PoolSettings, new: PoolSettings) -> Iterable[Changed]:
    yield from _section(Section.POOL, path, old, new)
    if old.auth_query is not None and new.auth_query is not None:
        yield from _section(Section.AUTH_QUERY, f"{path}.auth_query", old.auth_query, new.auth_query)
    elif old.auth_query != new.auth_query:
        yield Changed(f"{path}.auth_query", _there(old.auth_query), _there(new.auth_query), Change.NEW_POOL)
    before = {user.username: user for user in old.users}
    for user in new.users:
        if user.username in before:
            yield from _section(Section.USER, _spell_user(path, user), before[user.username], user)


def _spell_user(path: str, user: UserSettings) -> str:
    return f"{path}.users.{spell((user.username,))}"


def _there(value: object) -> str:
    return "none" if value is None else "given"


def _section(section: Section, path: str, old: Any, new: Any) -> Iterable[Changed]:
    for name, key in keys_of(section).items():
        before, after = getattr(old, name), getattr(new, name)
        if before != after:
            absent = "inherited" if key.inherits(section) else "none"
            words = [absent if value is None else human(key.kind, value) for value in (before, after)]
            yield Changed(f"{path}.{name}", words[0], words[1], key.change)
