"""Users that are not in the file are looked up in the database: the cache, the connections that ask, the figures.

A look-up runs on a helper thread, on a connection that does nothing else; a login that waits for one is told by a call
and costs no thread. Who asks for a name that is being looked up waits for that answer.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import Enum
from threading import Lock
from time import monotonic
from typing import Any, ClassVar, Final

from pgdoorman.auth.client_login import UsualSecret, usual_secret
from pgdoorman.auth.found_user import FACTS_SQL, MAX_NAME, FoundUser, LookupRefused, read_user
from pgdoorman.auth.secrets import StoredSecret, secret_text
from pgdoorman.backend.connection import Backend
from pgdoorman.backend.lookup import wait_answers
from pgdoorman.backend.startup import OpeningPlan
from pgdoorman.config.settings import (
    AuthQuerySettings,
    Parameters,
    PoolSettings,
    Secret,
    Settings,
    UserPoolSettings,
    merge_parameters,
)
from pgdoorman.config.startup_parameters import (
    LONGEST_MESSAGE,
    canonical_name,
    message_length,
    refuse_parameter,
)
from pgdoorman.errors import BackendRefused, BackendUnavailable, PgDoormanError
from pgdoorman.pool.pool import Pool, Surroundings
from pgdoorman.pool.secret_cache import SecretCache
from pgdoorman.runtime.helpers import Helpers

log = logging.getLogger(__name__)

TIMEOUT: Final = 5.0
"""Seconds that opening a connection may take, and one look-up."""

MOST_WAITING: Final = 10_000
"""Names that may wait for a look-up at once."""

_SESSION: Final = (
    ("application_name", "pgdoorman auth_query"),
    ("client_encoding", "UTF8"),
    # Nothing that a schema of somebody's could put in the way of the query's own words is found.
    ("search_path", "pg_catalog"),
    ("statement_timeout", str(int(TIMEOUT * 1000))),
)


class LookupFailed(PgDoormanError):
    """Nobody knows whether the user exists: the database cannot be asked. `reason` is for the log."""

    sqlstate: ClassVar[str] = "58000"

    def __init__(self, reason: str) -> None:
        super().__init__("Authentication service unavailable. Please try again later.")
        self.reason = reason


class Pending(Enum):
    """Stands for an answer that will come by a call."""

    PENDING = "pending"


PENDING: Final = Pending.PENDING

type Told = Callable[[FoundUser | None, PgDoormanError | None], Any]


@dataclass(slots=True)
class LookupCounters:
    """Written under the lock of their owner."""

    hits: int = 0
    misses: int = 0
    refetches: int = 0
    rate_limited: int = 0
    queries: int = 0
    errors: int = 0
    successes: int = 0
    failures: int = 0
    pools_created: int = 0
    pools_destroyed: int = 0


class AuthQuery:
    """The look-ups of one database. Thread-safe; lives as long as its section stands in the file."""

    def __init__(self, settings: Settings, pool: PoolSettings, surroundings: Surroundings, helpers: Helpers) -> None:
        self.database = pool.name
        self.counters = LookupCounters()
        self._helpers = helpers
        self._surroundings = surroundings
        self._lock = Lock()
        self._waiting: dict[str, list[tuple[Told, bool]]] = {}  # by name: who, and whether an old answer will do
        self._queue: deque[str] = deque()
        self._idle: list[Backend] = []
        self._busy = 0
        self._open = 0
        self._generation = 0
        self._closed = False
        self._last_error = ""
        self._recent: deque[StoredSecret] = deque(maxlen=50)
        self._take_settings(settings, pool)
        self._cache = SecretCache(self._query.cache_ttl, self._query.cache_failure_ttl)

    def __repr__(self) -> str:
        return f"<AuthQuery of {self.database}>"

    def _take_settings(self, settings: Settings, pool: PoolSettings) -> None:
        assert pool.auth_query is not None
        self._settings = settings
        self._pool = pool
        self._query: AuthQuerySettings = pool.auth_query
        self._role = _role_of(settings, pool, pool.auth_query)
        # Never registered and never opened: it knows how a connection of this role is opened.
        self._opener = Pool(self._role, self._surroundings)

    # Asking.

    def find(self, user: str, told: Told, *, stale: bool = False) -> FoundUser | Pending | None:
        """What is known of a user; PENDING if `told` will be called with it, once, on any thread.

        With `stale` what was answered before did not fit: the truth is looked up, but for one name at most every
        `min_interval`; sooner, and where the database cannot be asked, the answer is the old one.

        Raises LookupFailed where nobody can be asked now; `told` may be called with it, too."""
        if len(user.encode(errors="replace")) > MAX_NAME:
            return None
        now = monotonic()
        with self._lock:
            counters = self.counters
            known = self._cache.get(user)
            if known is not None and (now < known.expires_at if not stale else not self._may_refetch(known.fetched_at)):
                if stale:
                    counters.rate_limited += 1
                else:
                    counters.hits += 1
                return known.found
            if stale:
                counters.refetches += 1
            else:
                counters.misses += 1
            waiting = self._waiting.get(user)
            if waiting is not None:
                waiting.append((told, stale))
                return PENDING
            if self._closed or len(self._waiting) >= MOST_WAITING:
                raise LookupFailed("too many look-ups are waiting")
            self._waiting[user] = [(told, stale)]
            self._queue.append(user)
            if self._busy >= self._query.workers:
                return PENDING
            self._busy += 1
        self._begin()
        return PENDING

    def _may_refetch(self, fetched_at: float) -> bool:
        return monotonic() - fetched_at >= self._query.min_interval

    def last_found(self, user: str) -> FoundUser | None:
        """What was found last for a user that has just logged in."""
        with self._lock:
            known = self._cache.get(user)
        return known.found if known is not None else None

    # Looking up: on helper threads, at most `workers` of them.

    def _run(self) -> None:
        backend: Backend | None = None
        generation = 0
        while (task := self._next(backend, generation)) is not None:
            user, backend, generation = task
            try:
                backend = self._look_up(user, backend, generation)
            except Exception:
                self._failed(user, "internal error")
                self._end()
                raise

    def _next(self, backend: Backend | None, generation: int) -> tuple[str, Backend | None, int] | None:
        """Put a connection back, take the next name and a connection, if there is one. None: this thread is done."""
        stray = backend
        with self._lock:
            if backend is not None and generation == self._generation and not self._closed:
                backend.idle_since = monotonic()
                self._idle.append(backend)
                stray = None
            task = None
            if self._queue and not self._closed:
                task = self._queue.popleft(), self._idle.pop() if self._idle else None, self._generation
            else:
                self._busy -= 1
        if stray is not None:
            self._close(stray)
        return task

    def _end(self) -> None:
        """This thread ends early: another one goes on, or nobody would answer those who wait."""
        with self._lock:
            self._busy -= 1
            again = bool(self._queue) and not self._busy and not self._closed
            self._busy += again
        if again:
            self._begin()

    def _begin(self) -> None:
        if self._helpers.submit(self._run):
            return
        with self._lock:
            self._busy -= 1
            names = [] if self._busy else list(self._queue)
            if names:
                self._queue.clear()
        for name in names:
            self._failed(name, "no helper thread can be had")

    def _look_up(self, user: str, backend: Backend | None, generation: int) -> Backend | None:
        """Look one user up and tell. Returns the connection if it may be used again."""
        if backend is not None and monotonic() >= backend.expires_at:
            self._close(backend)
            backend = None
        if backend is not None:
            try:
                return self._ask(user, backend, generation)
            except BackendUnavailable:
                # It may have died long ago, unseen. Others that are idle will have died with it.
                self._close(backend)
                self._close_idle()
        try:
            backend = self._wait_connected()
        except PgDoormanError as error:
            self._cannot_connect(user, f"cannot connect: {error}")
            return None
        try:
            return self._ask(user, backend, generation)
        except BackendUnavailable as error:
            self._close(backend)
            self._failed(user, error.message)
            return None

    def _ask(self, user: str, backend: Backend, generation: int) -> Backend | None:
        """Raises BackendUnavailable; whatever else goes wrong has been told."""
        try:
            found = self._wait_found(backend, user)
        except LookupRefused as refused:
            self._failed(user, refused.message)
            return backend
        except BackendRefused as error:
            self._close(backend)
            self._failed(user, error.message)
            return None
        self._settle(user, found, generation)
        return backend

    def _cannot_connect(self, user: str, reason: str) -> None:
        """With no connection at all the others that wait need not find out one by one."""
        with self._lock:
            names = [user]
            if not self._open:
                names += self._queue
                self._queue.clear()
        for name in names:
            self._failed(name, reason)

    def _close(self, backend: Backend) -> None:
        with self._lock:
            self._open -= 1
        backend.close()

    def _close_idle(self) -> None:
        with self._lock:
            closing, self._idle = self._idle, []
        for backend in closing:
            self._close(backend)

    def _wait_connected(self) -> Backend:
        backend = self._opener.wait_backend(self.opening_plan())
        with self._lock:
            self._open += 1
        return backend

    def opening_plan(self) -> OpeningPlan:
        """How the connections that ask are opened: as those of a pool, but with a session that only we have set up."""
        return replace(self._opener.opening_plan(), parameters=_SESSION, timeout=TIMEOUT)

    def _wait_found(self, backend: Backend, user: str) -> FoundUser | None:
        with self._lock:
            self.counters.queries += 1
        answer, facts = wait_answers(backend, (self._query.query, FACTS_SQL), user, monotonic() + TIMEOUT)
        for part in (answer, facts):
            if part.error is not None:
                raise LookupRefused(_explained(part.error.message, part.error.sqlstate_of_server))
        found = read_user(user, answer.columns, answer.rows, facts.rows)
        return self._with_usable_parameters(user, found) if found is not None and found.parameters else found

    def _with_usable_parameters(self, user: str, found: FoundUser) -> FoundUser:
        """Said once for each look-up, not at each log-in: parameters that cannot be sent are left out."""
        usable = _usable_parameters(user, found.parameters)
        if self.is_shared:
            log.warning('startup_parameters of user "%s" are ignored: with server_user all share one pool', user)
            usable = ()
        role = self._role
        own = merge_parameters(role.startup_parameters, usable)
        if message_length(user, self._pool.database, own) > LONGEST_MESSAGE:
            log.warning('startup_parameters of user "%s" are ignored: they do not fit the message', user)
            usable = ()
        return replace(found, parameters=usable)

    def _settle(self, user: str, found: FoundUser | None, generation: int) -> None:
        with self._lock:
            if generation == self._generation:
                self._cache.put(user, found, monotonic())
            if found is not None:
                self._recent.append(found.secret)
            waiting = self._waiting.pop(user, [])
            self._last_error = ""
        for told, _ in waiting:
            told(found, None)

    def _failed(self, user: str, reason: str) -> None:
        with self._lock:
            self.counters.errors += 1
            waiting = self._waiting.pop(user, [])
            known = self._cache.get(user)
            is_news, self._last_error = self._last_error != reason, reason
        if is_news:
            log.error("[%s] auth_query failed: %s", self.database, reason)
        error = LookupFailed(reason)
        for told, stale in waiting:
            if stale and known is not None:
                told(known.found, None)
            else:
                told(None, error)

    # The users' pools.

    def settings_of(self, user: str, found: FoundUser) -> UserPoolSettings:
        """What holds for a user that was found: of the one pool for all, or of its own."""
        if self._query.server_user is not None:
            return shared_settings(self._settings, self._pool, self._query)
        plain = self._settings.effective(self._pool, self._pool.dynamic_user(user, Secret(secret_text(found.secret))))
        if not found.parameters:
            return plain
        name = dict(found.parameters).get("application_name", plain.application_name)
        own = merge_parameters(plain.startup_parameters, found.parameters)
        return replace(plain, startup_parameters=own, application_name=name)

    @property
    def pool_of_nobody(self) -> UserPoolSettings:
        """What would hold for the first user."""
        return self._settings.effective(self._pool, self._pool.dynamic_user("", Secret("")))

    @property
    def is_shared(self) -> bool:
        """Whether all users found here use one pool."""
        return self._query.server_user is not None

    @property
    def usual_secret(self) -> UsualSecret:
        """The kind of secret that most users have who were found of late."""
        with self._lock:
            return usual_secret(self._recent)

    def count_login(self, succeeded: bool) -> None:
        """A user of ours has logged in, or failed to."""
        with self._lock:
            if succeeded:
                self.counters.successes += 1
            else:
                self.counters.failures += 1

    def count_pools(self, created: int = 0, destroyed: int = 0) -> None:
        """Pools that came and went."""
        with self._lock:
            self.counters.pools_created += created
            self.counters.pools_destroyed += destroyed

    @property
    def entries(self) -> int:
        """Answers that are remembered."""
        return len(self._cache)

    # The operator's part.

    def apply(self, settings: Settings, pool: PoolSettings) -> None:
        """New settings: what was remembered stays unless it could have another answer now."""
        with self._lock:
            before = (self._role, self._query.query)
            self._take_settings(settings, pool)
            self._cache.ttl, self._cache.failure_ttl = self._query.cache_ttl, self._query.cache_failure_ttl
            if before == (self._role, self._query.query):
                return
            self._generation += 1
            self._cache.clear()
            closing, self._idle = self._idle, []
        for backend in closing:
            self._close(backend)

    def reconnect(self) -> None:
        """Use new connections from now on."""
        with self._lock:
            self._generation += 1
            closing, self._idle = self._idle, []
        for backend in closing:
            self._close(backend)

    def let_go(self, now: float) -> None:
        """Close connections that have had nothing to do for as long as a pool's may."""
        limit = self._role.idle_timeout
        with self._lock:
            old = [backend for backend in self._idle if limit and now - backend.idle_since > limit]
            self._idle = [backend for backend in self._idle if backend not in old]
        for backend in old:
            self._close(backend)

    def close(self) -> None:
        """No more look-ups; who waits is refused."""
        with self._lock:
            self._closed = True
            waiting = [told for tolds in self._waiting.values() for told, _ in tolds]
            self._waiting.clear()
            self._queue.clear()
        self._close_idle()
        for told in waiting:
            told(None, LookupFailed("the pooler is shutting down"))


def shared_settings(settings: Settings, pool: PoolSettings, query: AuthQuerySettings) -> UserPoolSettings:
    """The one pool of all users that this query finds. Requires `server_user`."""
    assert query.server_user is not None
    return settings.effective(pool, pool.dynamic_user(query.server_user, Secret("")))


def _role_of(settings: Settings, pool: PoolSettings, query: AuthQuerySettings) -> UserPoolSettings:
    """The settings of the role that asks. Of the many it needs those that say where the server is and how to log in."""
    user = replace(
        pool.dynamic_user(query.user, Secret("")),
        server_username=query.user,
        server_password=query.password or None,
        pool_size=1,
        min_pool_size=0,
    )
    return replace(settings.effective(pool, user), server_database=query.database or pool.database)


def _usable_parameters(user: str, parameters: Iterable[tuple[str, str]]) -> Parameters:
    usable: list[tuple[str, str]] = []
    for name, value in parameters:
        problem = refuse_parameter(name, value, [known for known, _ in usable])
        if problem:
            log.warning('startup_parameters of user "%s": %s; it is ignored', user, problem)
        else:
            usable.append((canonical_name(name), value))
    return tuple(usable)


def _explained(message: str, sqlstate: str) -> str:
    if sqlstate in ("42P01", "42883", "42704"):
        return f"{message} (the query runs with search_path pg_catalog: other names need their schema)"
    return message
