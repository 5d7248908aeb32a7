"""The pools of the house, by (database, user)."""

from collections.abc import Mapping
from threading import Lock

from pgdoorman.config.settings import UserPoolSettings
from pgdoorman.pool.pool import Pool, Surroundings


class Registry:
    """Finds pools. Changed by reloads, read at logins and by the janitor; never on the hot path."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings = surroundings
        self._lock = Lock()
        self._pools: dict[tuple[str, str], Pool] = {}
        self._databases: frozenset[str] = frozenset()
        self._leaving: list[Pool] = []

    def find(self, database: str, user: str) -> Pool | None:
        """The pool of this user in this database."""
        return self._pools.get((database, user))

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

    def apply(self, wanted: Mapping[tuple[str, str], UserPoolSettings], databases: frozenset[str]) -> list[str]:
        """Make the pools be those that are wanted: add, change, remove. Returns what was done, for people."""
        done: list[str] = []
        removed: list[Pool] = []
        changed: list[tuple[Pool, UserPoolSettings]] = []
        with self._lock:
            for identity, pool in list(self._pools.items()):
                settings = wanted.get(identity)
                if settings is None:
                    del self._pools[identity]
                    removed.append(pool)
                elif settings != pool.settings:
                    changed.append((pool, settings))
            for identity, settings in wanted.items():
                if identity not in self._pools:
                    self._pools[identity] = Pool(settings, self._surroundings)
                    done.append(f"pool {identity[1]}@{identity[0]} added")
            self._leaving += removed
            self._databases = databases
        for pool in removed:
            pool.close()
            done.append(f"pool {pool.user}@{pool.database} removed")
        for pool, settings in changed:
            pool.apply(settings)
            done.append(f"pool {pool.user}@{pool.database} changed")
        return done
