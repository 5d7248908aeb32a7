"""One pool: a ledger, and the hands that do what it decides.

The hot calls are `Ledger.checkout` and `Ledger.checkin`, made by the client room directly; what they want done comes
here (`run`). Everything here happens outside the ledger's lock.
"""

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from time import monotonic
from typing import Any, Protocol, TypedDict

from pgdoorman import __version__
from pgdoorman.auth.backend_login import BackendCredentials
from pgdoorman.auth.client_login import ClientIdentity
from pgdoorman.auth.found_user import FoundUser
from pgdoorman.auth.secrets import (
    NoSecret,
    PamSecret,
    ScramKeys,
    StoredSecret,
    encode_password,
    parse_secret,
    password_fits,
    verifier_of,
)
from pgdoorman.auth.tokens import PRIVATE_KEY_PREFIX
from pgdoorman.backend.connection import Backend
from pgdoorman.backend.inquiry import note_parameter
from pgdoorman.backend.lookup import wait_raw_answer
from pgdoorman.backend.patroni import Clusters
from pgdoorman.backend.settings import Reported, SessionSettings, clean_ascii, reported_of
from pgdoorman.backend.startup import OpeningPlan, wait_opened
from pgdoorman.config.settings import PoolMode, TcpSettings, UserPoolSettings
from pgdoorman.constants import bind_constants
from pgdoorman.errors import BackendRefused, BackendUnavailable, CheckoutTimeout, PgDoormanError, ShuttingDown
from pgdoorman.pool.check_query import CheckQuery
from pgdoorman.pool.errands import Errands
from pgdoorman.pool.fallback import Fallback
from pgdoorman.pool.ledger import Ledger, LedgerStatistics
from pgdoorman.pool.quota import RETRY, Quota, terms_of
from pgdoorman.pool.switchboard import Switchboard
from pgdoorman.prepared.functions import Functions
from pgdoorman.prepared.statement import StatementBook
from pgdoorman.protocol import codes
from pgdoorman.protocol.framing import FrameReader
from pgdoorman.runtime.helpers import Helpers
from pgdoorman.runtime.worker import Worker
from pgdoorman.stats.counters import Period, TrafficCounters
from pgdoorman.stats.rows import TrafficReport
from pgdoorman.transport.connect import Address
from pgdoorman.transport.sockets import DONT_WAIT, SocketOptions
from pgdoorman.transport.tls_connect import Connectors

log = logging.getLogger(__name__)

# SQLSTATEs that pass by themselves while a server starts or recovers: those who wait may go on waiting.
STARTING_UP = "57P03"

LIFETIME_JITTER = 0.2
MOST_PROVEN = 1000
MOST_UNFOLDED = 1000  # durations that a worker may have added before it is asked to count them by bucket


class PoolWaiter(Protocol):
    """A client that waits for a backend. Called on its own worker's thread."""

    worker: Worker
    worker_index: int
    waiting_since: float
    in_line: bool

    def move_to(self, worker: Worker) -> bool:
        """The grant is made on this worker's thread, which is not the waiter's: the waiter may come here to take it.
        Nobody else touches it now, for it no longer waits. False if it would rather be told at home."""

    def granted(self, backend: Backend) -> Any:
        """Here is one; it is the waiter's now, even if it does not want it any more."""

    def refused(self, reason: PgDoormanError) -> Any:
        """There will be none."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every pool shares."""

    workers: Sequence[Worker]
    helpers: Helpers
    connectors: Connectors = field(default_factory=Connectors)
    clusters: Clusters = field(default_factory=Clusters)


class Pool:
    """The backends for one (database, user). Built by the registry; lives until it is removed and empty."""

    def __init__(self, settings: UserPoolSettings, surroundings: Surroundings, quota: Quota | None = None) -> None:
        self.settings = settings
        self.quota = quota if quota is not None else Quota(settings.pool, terms_of(settings))
        self.quota.join(self)
        self.database = settings.pool
        self.user = settings.username
        self._workers = surroundings.workers
        self._helpers = surroundings.helpers
        self._connectors = surroundings.connectors
        self._clusters = surroundings.clusters
        self.fallback = self._make_fallback()
        self._tls_first = False  # where TLS is only allowed: whether the server has turned out to want it
        self.ledger: Ledger[Backend, PoolWaiter] = Ledger(
            settings.pool_size,
            len(surroundings.workers),
            minimum=settings.min_pool_size,
            **_manners(settings),
        )
        # Bound once for all clients, each of which keeps them: 240 bytes of each that are saved.
        self.take, self.stand, self.swap = self.ledger.take, self.ledger.stand, self.ledger.swap
        self.book = StatementBook(settings.prepared_statements_cache_size)
        self.check = CheckQuery(settings.pooler_check_query)
        self.functions = Functions()
        self.counters = [TrafficCounters() for _ in surroundings.workers]
        self.period = Period(monotonic())
        self.reported: Reported | None = None  # of the newest backend: what a client is told at login
        # Settings that a backend took, and what it reported then; application_name apart, which cannot be refused.
        self._proven: dict[frozenset[tuple[str, str]], Reported] = {}
        # What clients with these settings were told lately, made of this.
        self._told: dict[SessionSettings, tuple[Reported, Reported]] = {}
        self.clients = 0
        self.last_error = ""
        self.openings = 0
        self.disabled = False
        self.removed = False
        self.found: FoundUser | None = None  # of users that are not in the file: what the look-up gave
        self._scram_keys: ScramKeys | None = None
        self._proved_password: bytes | None = None
        self._next_home = next(_pools) % len(surroundings.workers)
        self.switchboard = Switchboard(
            surroundings.workers[self._next_home],
            surroundings.helpers,
            self._wait_open_listening,
            f"{self.user}@{self.database}",
        )
        self._version = codes.PROTOCOL_3_0
        self._secret = parse_secret(settings.password.reveal()) if settings.password.reveal() else None

    def __repr__(self) -> str:
        return f"<Pool {self.user}@{self.database}>"

    # Errands.

    def run(self, errands: Errands[Backend, PoolWaiter], worker: Worker | None) -> None:
        """Do what the ledger decided. `worker` is the one whose thread this is, None for other threads."""
        for _ in range(errands.openings):
            now = monotonic()
            if not self.quota.admit(self, now):
                self.ledger.opening_not_permitted(now + RETRY)
            elif not self._helpers.submit(self._wait_open):
                self.quota.released()
                self.ledger.opening_postponed(now + 1.0)
        for waiter, backend in errands.grants:
            if waiter.worker is worker or (worker is not None and waiter.move_to(worker)):
                waiter.granted(backend)
            elif not waiter.worker.post(partial(waiter.granted, backend)):
                self.discard(backend, worker)
        for waiter, reason in errands.refusals:
            waiter.worker.post(partial(waiter.refused, reason))
        for backend in errands.closings:
            backend.close()

    def grant(self, waiter: PoolWaiter, backend: Backend, worker: Worker) -> None:
        """Give a backend that came free on this worker's thread to who waited for it."""
        if waiter.worker is worker or waiter.move_to(worker):
            waiter.granted(backend)
        elif not waiter.worker.post(partial(waiter.granted, backend)):
            self.discard(backend, worker)

    def discard(self, backend: Backend, worker: Worker | None) -> None:
        """Close a backend that must not be used again; its place may be taken by a new one. From its owner's thread."""
        polite = backend.is_clean
        backend.close(polite=polite)
        self.run(self.ledger.discard(backend, monotonic()), worker)

    def checkin(self, backend: Backend, worker: Worker) -> None:
        """Give back a clean backend that is held for care (`Ledger.hold`) or leased."""
        backend.holder = None
        errands = self.ledger.release(backend, worker.index, monotonic())
        if errands is not None:
            self.run(errands, worker)

    # Opening.

    @property
    def stored_secret(self) -> StoredSecret:
        """What a client has to prove."""
        service = self.settings.auth_pam_service
        return PamSecret(service) if service else self._secret or NoSecret()

    def learn_keys(self, keys: ScramKeys) -> None:
        """A client has logged in by SCRAM: its keys open backends as well."""
        self._scram_keys = keys

    def learn(self, identity: ClientIdentity) -> None:
        """A client has proved who it is. What it gave away thereby, keys or a password in clear, opens backends as well;
        it is held in memory only."""
        if identity.scram_keys is not None:
            self.learn_keys(identity.scram_keys)
        elif identity.password is not None:
            self._proved_password = identity.password

    @property
    def learnt(self) -> tuple[ScramKeys | None, bytes | None]:
        """What clients have given away: keys, and a password in clear."""
        return self._scram_keys, self._proved_password

    def learn_again(self, keys: ScramKeys | None, password: bytes | None) -> None:
        """What the process before us had learnt, as far as we do not know it and it still fits what is stored. Heavy for a
        password where a SCRAM verifier is stored."""
        secret = self._secret
        if keys is not None and self._scram_keys is None and secret in (None, verifier_of(keys)):
            self._scram_keys = keys
        if password is None or self._proved_password is not None:
            return
        if secret is None or password_fits(secret, self.user, password):
            self._proved_password = password

    def credentials(self) -> BackendCredentials:
        """What we have to log in at the server with."""
        settings = self.settings
        if settings.server_password is not None:
            text = settings.server_password.reveal()
            if text.startswith(PRIVATE_KEY_PREFIX):
                mint = partial(_mint, text.removeprefix(PRIVATE_KEY_PREFIX), settings.server_username)
                return BackendCredentials(settings.server_username, make_token=mint)
            return BackendCredentials(settings.server_username, password=encode_password(text))
        if settings.server_username != settings.username:
            return BackendCredentials(settings.server_username)
        found = BackendCredentials.from_secret(settings.server_username, self._secret, self._scram_keys)
        return found if found.password is not None else replace(found, password=self._proved_password)

    @property
    def may_open_unasked(self) -> bool:
        """Whether backends can be opened before any client has logged in: with pass-through SCRAM they cannot."""
        return self._secret is None or self.credentials().can_log_in

    def opening_plan(self) -> OpeningPlan:
        """How a backend of this pool is opened."""
        settings = self.settings
        parameters = dict(settings.startup_parameters)
        parameters.setdefault("application_name", settings.application_name)
        return OpeningPlan(
            address=Address(settings.server_host, settings.server_port),
            database=settings.server_database,
            credentials=self.credentials(),
            parameters=list(parameters.items()),
            timeout=settings.connect_timeout,
            version=self._version,
            socket_options=socket_options(settings.tcp),
            tls=self._connectors.find(settings.server_tls),
            tls_first=self._tls_first,
        )

    def _make_fallback(self) -> Fallback | None:
        settings = self.settings.fallback
        return None if settings is None else Fallback(f"{self.user}@{self.database}", settings, self._clusters)

    def wait_backend(self, plan: OpeningPlan) -> Backend:
        """Open a backend by this plan, or elsewhere while the server is down and Patroni knows another. Blocking; raises
        what `wait_opened` does."""
        fallback = self.fallback
        if fallback is None:
            return wait_opened(plan)
        backend = fallback.wait_opened(plan, self.settings.query_wait_timeout)
        backend.expires_at = self._end_of(backend)
        return backend

    def _wait_open(self) -> None:
        """One opening, on a helper thread."""
        self.openings += 1
        epoch = self.ledger.epoch
        try:
            backend = self.wait_backend(self.opening_plan())
            if self.check.is_wanted:
                self._wait_check_answered(backend)
        except PgDoormanError as error:
            self._opening_failed(error)
            return
        except Exception as error:
            self._opening_failed(BackendUnavailable(f"could not open a connection to the server: {error}"))
            raise
        self._adopt(backend, epoch)

    def _wait_check_answered(self, backend: Backend) -> None:
        check = self.check
        try:
            check.learn(wait_raw_answer(backend, check.text, monotonic() + self.settings.connect_timeout))
        except PgDoormanError:
            check.learn(None)
            backend.close(polite=False)
            raise

    def _wait_open_listening(self) -> Backend:
        """The connection that listens for all clients, on a helper thread. In UTF-8, whatever they speak."""
        plan = self.opening_plan()
        parameters = {**dict(plan.parameters), "client_encoding": "UTF8"}
        parameters["application_name"] = f"{parameters.get('application_name', '')} listen".strip()
        return self.wait_backend(replace(plan, parameters=list(parameters.items())))

    def _adopt(self, backend: Backend, epoch: int) -> None:
        now = monotonic()
        backend.expires_at = self._end_of(backend)
        backend.epoch = epoch
        backend.pool = self
        backend.on_close = self.quota.released
        backend.on_idle_event = self._on_idle_event
        self.reported = backend.reported
        self._tls_first = bool(backend.tls)
        self.last_error = ""
        if _major_version(backend.reported) >= 18:
            self._version = codes.PROTOCOL_3_2
        home = self._workers[self._next_home % len(self._workers)]
        self._next_home += 1
        backend.home = home.index
        backend.move_to(home)
        self.run(self.ledger.opened(backend, home.index, now), None)

    def _end_of(self, backend: Backend) -> float:
        settings = self.settings
        lifetime = settings.server_lifetime
        end = backend.opened_at + lifetime * jitter(1 + LIFETIME_JITTER) if lifetime else float("inf")
        if settings.fallback is not None and backend.address != Address(settings.server_host, settings.server_port):
            return min(end, backend.opened_at + settings.fallback.lifetime)
        return end

    def _opening_failed(self, error: PgDoormanError) -> None:
        self.quota.released()
        text = str(error)
        if text != self.last_error:  # said once, not at every retry
            log.warning("[%s@%s] cannot open a connection to the server: %s", self.user, self.database, text)
        self.last_error = text
        final = not (isinstance(error, BackendRefused) and error.sqlstate_of_server == STARTING_UP)
        self.run(self.ledger.opening_failed(error, monotonic(), final=final), None)

    # What clients are told.

    @property
    def startup_parameters(self) -> Sequence[tuple[str, str]]:
        """What the operator sets on every backend of this pool."""
        return self.settings.startup_parameters

    def is_proven(self, settings: SessionSettings) -> bool:
        """Whether a backend of this pool has taken these settings before."""
        return not settings.to_prove or settings.to_prove in self._proven

    def prove(self, settings: SessionSettings, reported: Reported) -> None:
        """A backend took them, and reports this."""
        if len(self._proven) >= MOST_PROVEN:
            self._proven.pop(list(self._proven)[0], None)  # noqa: RUF015  # a list: others may add one meanwhile
        self._proven[settings.to_prove] = reported

    def told_for(self, settings: SessionSettings) -> Reported | None:
        """What a new client with these settings is told; None if only a backend can say."""
        base = self._proven.get(settings.to_prove) if settings.to_prove else self.reported
        if base is None:
            return None
        name = settings.by_name.get("application_name")
        if name is None and not settings.to_prove:
            return base
        before = self._told.get(settings)
        if before is not None and before[0] is base:
            return before[1]
        own = self.settings.application_name if name is None else clean_ascii(name)
        told = reported_of({**base.by_name, "application_name": own})
        if len(self._told) >= MOST_PROVEN:
            self._told.clear()
        self._told[settings] = base, told
        return told

    def pooler_parameters(self) -> dict[str, str]:
        """What clients are told of us, if the owner wants that."""
        mode = self.settings.pool_mode.value
        return {
            "pgdoorman.pool_mode": mode,
            "pgdoorman.version": __version__,
            "pgbouncer.pool_mode": mode,
            "pgbouncer.max_prepared_statements": str(self.settings.server_prepared_statements_cache_size),
        }

    # Idle backends.

    def _on_idle_event(self, backend: Backend, worker: Worker) -> None:
        """The socket of a backend that nobody holds became readable: it hung up, or says something unasked."""
        if not self.ledger.examine(backend, worker.index):
            return  # a stale event: another worker has it by now
        if idle_messages_are_harmless(backend):
            self.checkin(backend, worker)
        else:
            self.discard(backend, worker)

    # The janitor's part.

    def tick(self, now: float) -> None:
        """Every fraction of a second: waiters that waited too long, openings that may be tried again, the minimum."""
        timeout = self.settings.query_wait_timeout
        if timeout:
            errands = self.ledger.expire_waiters(now, timeout, self._why_nothing_came())
            if errands:
                self.quota.exhausted(self, len(errands.refusals))
                self.run(errands, None)
        errands = self.ledger.tick(now) if self.may_open_unasked else self.ledger.settle(now)
        if errands:
            self.run(errands, None)
        if self.settings.server_idle_check_timeout:
            self.ledger.mark_stale(now, self.settings.server_idle_check_timeout)
        if self.settings.pool_mode is PoolMode.SESSION and self.ledger.someone_waits:
            for backend in self.ledger.members():
                # Looked at from outside first: those who have said something, nearly all, need not be woken for it.
                holder: Any = backend.holder
                worker = backend.worker
                if getattr(holder, "said_nothing", False) and worker is not None:
                    worker.post(holder.give_way)
        self.functions.age(now)
        self.book.doubt(now)
        if self.fallback is not None and self.fallback.came_back():
            self.reconnect()

    def fold_counters(self) -> None:
        """Have the durations of a busy pool put into their buckets, by the workers that have counted them."""
        for worker, counters in zip(self._workers, self.counters, strict=True):
            if counters.unfolded > MOST_UNFOLDED:
                worker.post(counters.fold)

    def expire(self, now: float, at_most: int = 1000) -> int:
        """Close idle backends that are too old or idle for too long. Returns how many."""
        limit = self.settings.idle_timeout * jitter(1.0)
        taken = self.ledger.take_idle(now, limit, at_most)
        for backend in taken:
            backend.close()
        if taken:
            self.run(self.ledger.tick(now), None)
        return len(taken)

    # Sharing the connections of a database (see `quota`).

    @property
    def minimum(self) -> int:
        return self.settings.min_pool_size

    @property
    def slowness(self) -> int:
        return self.period.percentiles[1].p95

    def give_up_idle(self, keep: int, *, age: float = 0.0, idle: float = 0.0) -> bool:
        now = monotonic()
        backend = self.ledger.evict(
            keep, lambda backend: now - backend.opened_at >= age and now - backend.idle_since >= idle
        )
        if backend is not None:
            backend.close()
        return backend is not None

    def give_up_busy(self, keep: int, *, age: float) -> bool:
        now = monotonic()
        return self.ledger.doom(keep, lambda backend: now - backend.opened_at >= age)

    @property
    def giving_up(self) -> int:
        return self.ledger.doomed

    def open_again(self) -> None:
        self._helpers.submit(self._open_again)

    def _open_again(self) -> None:
        self.ledger.openings_permitted()
        self.run(self.ledger.settle(monotonic()), None)

    def _why_nothing_came(self) -> CheckoutTimeout:
        if not self.quota.is_hungry(self):
            return WAITED_TOO_LONG
        terms = self.quota.terms
        return CheckoutTimeout(
            f"Could not get a database connection from the pool: all server connections to database '{self.database}' "
            f"are in use (max_db_connections={terms.maximum}, reserve_pool_size={terms.reserve}, user='{self.user}'). "
            "Please try again later."
        )

    # The operator's part.

    def apply(self, settings: UserPoolSettings) -> None:
        """New settings of the same pool (reload). What they need is done: sizes at once, connections when they differ."""
        before, self.settings = self.settings, settings
        self._told.clear()
        if before.password != settings.password:
            self._scram_keys = self._proved_password = None
        self._secret = parse_secret(settings.password.reveal()) if settings.password.reveal() else None
        now = monotonic()
        if before.pooler_check_query != settings.pooler_check_query:
            self.check = CheckQuery(settings.pooler_check_query)
        self.ledger.configure(**_manners(settings))
        self.run(self.ledger.resize(settings.pool_size, settings.min_pool_size, now), None)
        self.book.resize(settings.prepared_statements_cache_size)
        if before.server_lifetime != settings.server_lifetime:
            self.ledger.renew_lifetimes(self._end_of)
        is_renewed = connection_part(before) != connection_part(settings)
        if is_renewed or before.fallback != settings.fallback:
            is_renewed = is_renewed or (self.fallback is not None and self.fallback.host is not None)
            self.fallback = self._make_fallback()
        if is_renewed:
            self.reconnect()

    def reconnect(self) -> None:
        """Replace every backend as soon as nobody holds it."""
        self._proven.clear()
        self.reported = None
        self.run(self.ledger.reconnect(monotonic()), None)
        self.switchboard.reconnect()

    def run_down(self) -> None:
        """Close every backend as soon as nobody holds it, and keep none ready: the clients are leaving. One that is needed
        again is opened again."""
        now = monotonic()
        self.run(self.ledger.resize(self.settings.pool_size, 0, now), None)
        self.run(self.ledger.reconnect(now), None)

    def pause(self) -> None:
        self.ledger.pause()

    def resume(self) -> None:
        self.run(self.ledger.resume(monotonic()), None)

    def close(self) -> None:
        """No more: waiters are refused, idle backends closed, leased ones when they come back."""
        self.removed = True
        self.quota.leave(self)
        self.run(self.ledger.close(ShuttingDown("the connection pool has been closed")), None)
        self.switchboard.close()

    def statistics(self) -> LedgerStatistics:
        return self.ledger.statistics(monotonic())

    def traffic(self) -> TrafficReport:
        """What was counted so far, and in the last whole period."""
        return self.period.report(self.counters)


_pools = count()


def _mint(key_path: str, user: str) -> bytes:
    from pgdoorman.auth.jwt import mint_token  # noqa: PLC0415 - heavy, and most houses have no tokens

    return mint_token(key_path, user)


def jitter(upper: float) -> float:
    """A factor that keeps backends opened together from ending together; no secret depends on it."""
    return random.uniform(1 - LIFETIME_JITTER, upper)  # noqa: S311


WAITED_TOO_LONG = CheckoutTimeout(
    "Could not get a database connection from the pool. All servers may be busy or down. Error details: "
    "Timeout occurred while waiting free connection from pool (query_wait_timeout). Please try again later."
)


def idle_messages_are_harmless(backend: Backend) -> bool:
    """Read what an idle backend says. True if it lives on: notices and parameter changes are all that it may say."""
    reader = FrameReader(65536)
    while True:
        try:
            data = backend.recv(16384, DONT_WAIT)
        except BlockingIOError:
            return len(reader) == 0
        except OSError:
            return False
        if not data:
            return False
        reader.feed(data)
        try:
            while (found := reader.next()) is not None:
                kind, body = found
                if kind == codes.PARAMETER_STATUS:
                    note_parameter(backend, body)
                elif kind != codes.NOTICE_RESPONSE:
                    return False
        except PgDoormanError:
            return False


def connection_part(settings: UserPoolSettings) -> tuple[Any, ...]:
    """The settings that a backend is opened with."""
    return (
        settings.server_host,
        settings.server_port,
        settings.server_database,
        settings.server_username,
        settings.application_name,
        settings.startup_parameters,
        settings.server_tls,
        settings.tcp,
    )


def socket_options(tcp: TcpSettings) -> SocketOptions:
    """The transport's options from the settings."""
    return SocketOptions(
        keepalive_idle=tcp.keepalives_idle,
        keepalive_interval=tcp.keepalives_interval,
        keepalive_count=tcp.keepalives_count,
        no_delay=tcp.no_delay,
        user_timeout=int(tcp.user_timeout),
        buffer_size=tcp.socket_buffer_size,
        unix_buffer_size=tcp.unix_socket_buffer_size,
    )


class _Manners(TypedDict):
    parallel_openings: int
    eager_openings: int
    warm: float
    round_robin: bool
    retry_delay: float


def _manners(settings: UserPoolSettings) -> _Manners:
    """What the ledger goes by beside the limits."""
    return {
        "parallel_openings": max(1, min(settings.scaling_max_parallel_creates, settings.max_concurrent_creates)),
        "eager_openings": settings.max_concurrent_creates,
        "warm": settings.scaling_warm_pool_ratio / 100,
        "round_robin": settings.server_round_robin,
        "retry_delay": settings.server_login_retry,
    }


def _major_version(reported: Reported) -> int:
    digits = reported.by_name.get("server_version", "").split(".")[0].split(" ")[0]
    return int(digits) if digits.isdigit() else 0


bind_constants(__name__)
