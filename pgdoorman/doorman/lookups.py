"""The look-ups of all databases that have `auth_query`, as the settings in force want them."""

from threading import Lock

from pgdoorman.config.settings import Settings, UserPoolSettings
from pgdoorman.pool.auth_query import AuthQuery, shared_settings
from pgdoorman.pool.pool import Pool, Surroundings
from pgdoorman.runtime.helpers import Helpers


class Lookups:
    """Finds the `AuthQuery` of a database. Changed by reloads; what stays keeps its figures and its memory."""

    def __init__(self, surroundings: Surroundings, helpers: Helpers) -> None:
        self._surroundings = surroundings
        self._helpers = helpers
        self._lock = Lock()
        self._by_database: dict[str, AuthQuery] = {}

    def of(self, database: str) -> AuthQuery | None:
        """The look-ups of a database, None if it has none."""
        return self._by_database.get(database)

    def all(self) -> list[AuthQuery]:
        """Those of every database."""
        with self._lock:
            return list(self._by_database.values())

    def apply(self, settings: Settings) -> None:
        """Make them be what the settings say."""
        wanted = {name: pool for name, pool in settings.pools.items() if pool.auth_query is not None}
        with self._lock:
            gone = [query for name, query in self._by_database.items() if name not in wanted]
            staying = [(query, wanted[name]) for name, query in self._by_database.items() if name in wanted]
            for query in gone:
                del self._by_database[query.database]
            for name, pool in wanted.items():
                if name not in self._by_database:
                    self._by_database[name] = AuthQuery(settings, pool, self._surroundings, self._helpers)
        for query in gone:
            query.close()
        for query, pool in staying:
            query.apply(settings, pool)

    def settings_of(self, pool: Pool) -> UserPoolSettings | None:
        """What holds now for a pool whose user was looked up; None if there is to be no such pool any more."""
        query = self.of(pool.database)
        if query is None or query.is_shared or pool.found is None:
            return None
        return query.settings_of(pool.user, pool.found)

    def let_go(self, now: float) -> None:
        """The janitor's part: connections that have nothing to do."""
        for query in self.all():
            query.let_go(now)

    def close(self) -> None:
        """No more look-ups."""
        for query in self.all():
            query.close()


def shared_pools(settings: Settings) -> dict[tuple[str, str], UserPoolSettings]:
    """The pools that all users of one `auth_query` use, where no user of the file has that name."""
    found: dict[tuple[str, str], UserPoolSettings] = {}
    for pool in settings.pools.values():
        query = pool.auth_query
        if query is not None and query.server_user is not None and pool.user(query.server_user) is None:
            found[pool.name, query.server_user] = shared_settings(settings, pool, query)
    return found
