"""The pools of the house, by (database, user)."""

import random
import sys
from collections.abc import Callable, Iterable, Mapping
from threading import Lock
from types import MappingProxyType

from pgdoorman.auth.found_user import FoundUser
from pgdoorman.config.settings import UserPoolSettings
from pgdoorman.pool.pool import Pool, Surroundings
from pgdoorman.pool.quota import Quota, terms_of


def retire(pools: Iterable[Pool], now: float, at_most: int) -> int:
    """Close backends that are too old, or were idle for too long, of all these pools: at most so many (0: all of them).
    Returns how many."""
    left = at_most or sys.maxsize
    shuffled = list(pools)
    random.shuffle(shuffled)  # so that no pool has to wait behind the same others every time
    for pool in shuffled:
        if left <= 0:
            break
        left -= pool.expire(now, left)
    return (at_most or sys.maxsize) - left


class Registry:
    """Finds pools. Changed by reloads, read at logins and by the janitor; never on the hot path."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings = surroundings
        self._lock = Lock()
        self._pools: dict[tuple[str, str], Pool] = {}
        self._databases: frozenset[str] = frozenset()
        self._shared: frozenset[tuple[str, str]] = frozenset()
        self._leaving: list[Pool] = []
        self._quotas: dict[str, Quota] = {}

    def _make_locked(self, settings: UserPoolSettings) -> Pool:
        quota = self._quotas.setdefault(settings.pool, Quota(settings.pool))
        quota.apply(terms_of(settings))
        return Pool(settings, self._surroundings, quota)

    def quotas(self) -> list[Quota]:
        """What the users of each database share, where there is a limit."""
        with self._lock:
            return [quota for quota in self._quotas.values() if quota.terms.maximum]

    def find(self, database: str, user: str) -> Pool | None:
        """The pool of this user in this database."""
        try:  # `get` would lock the table against others, who wait with sched_yield
            return self._pools[database, user]
        except KeyError:
            return None

    def listed(self, database: str, user: str) -> Pool | None:
        """The same, if it is a user of the file: not one that a look-up has found, nor the one that such users share."""
        pool = self.find(database, user)
        return pool if pool is not None and pool.found is None and (database, user) not in self._shared else None

    def has_database(self, database: str) -> bool:
        """Whether any pool, or an empty section, bears this name."""
        return database in self._databases

    def all(self) -> list[Pool]:
        """Every pool."""
        with self._lock:
            return list(self._pools.values())

    def of_database(self, database: str | None) -> list[Pool]:
        """The pools of one database, or all."""
        return [pool for pool in self.all() if database is None or pool.database == database]

    def leaving(self) -> list[Pool]:
        """Pools that were removed and still have backends in use."""
        with self._lock:
            self._leaving = [pool for pool in self._leaving if not pool.ledger.is_empty]
            return list(self._leaving)

    @property
    def databases(self) -> list[str]:
        return sorted(self._databases)

    def obtain(self, settings: UserPoolSettings, found: FoundUser) -> tuple[Pool, bool]:
        """The pool of a user that a look-up has found, and whether it is new. One that is there takes what changed."""
        with self._lock:
            pool = self._pools.get(settings.identity)
            is_new = pool is None
            if pool is None:
                pool = self._pools[settings.identity] = self._make_locked(settings)
                pool.found = found
        if not is_new and pool.found is not None:
            pool.found = found
            if pool.settings != settings:
                pool.apply(settings)
        return pool, is_new

    def remove_unused(self) -> list[Pool]:
        """Take out the pools of looked-up users whom nobody uses: no client, no backend, none to be kept. Nobody may be
        on the way into one of them meanwhile."""
        with self._lock:
            unused = [
                pool
                for pool in self._pools.values()
                if pool.found is not None
                and not pool.clients
                and not pool.settings.min_pool_size
                and pool.ledger.is_empty
                and not pool.statistics().paused
            ]
            for pool in unused:
                pool.removed = True
                pool.quota.leave(pool)
                del self._pools[pool.database, pool.user]
        return unused

    def apply(
        self,
        wanted: Mapping[tuple[str, str], UserPoolSettings],
        databases: frozenset[str],
        shared: Mapping[tuple[str, str], UserPoolSettings] = MappingProxyType({}),
        remake: Callable[[Pool], UserPoolSettings | None] = lambda pool: None,
        made: Callable[[Pool], None] = lambda pool: None,
    ) -> list[str]:
        """Make the pools be those that are wanted: add, change, remove. `shared` are wanted too, but nobody can log in
        under their names; `remake` says what holds for a user that was looked up, None if its pool is to go; `made`
        is called with each new pool before anybody can find it. Returns what was done, for people."""
        wanted = {**wanted, **shared}
        done: list[str] = []
        removed: list[Pool] = []
        changed: list[tuple[Pool, UserPoolSettings]] = []
        with self._lock:
            for identity, pool in list(self._pools.items()):
                settings = wanted.get(identity)
                if settings is not None:
                    pool.found = None
                elif pool.found is not None:
                    settings = remake(pool)
                if settings is None:
                    del self._pools[identity]
                    removed.append(pool)
                elif settings != pool.settings:
                    changed.append((pool, settings))
            for identity, settings in wanted.items():
                if identity not in self._pools:
                    pool = self._make_locked(settings)
                    made(pool)
                    self._pools[identity] = pool
                    done.append(f"pool {identity[1]}@{identity[0]} added")
            self._leaving += removed
            self._databases = databases
            self._shared = frozenset(shared)
        for pool in removed:
            pool.close()
            done.append(f"pool {pool.user}@{pool.database} removed")
        with self._lock:
            self._quotas = {name: quota for name, quota in self._quotas.items() if not quota.is_unused}
        for pool, settings in changed:
            pool.quota.apply(terms_of(settings))
            pool.apply(settings)
            done.append(f"pool {pool.user}@{pool.database} changed")
        return done
