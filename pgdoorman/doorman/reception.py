"""What a login may ask of the house: who may come in, what is stored for whom, and where a client goes."""

import logging
import os
import pwd
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, Protocol

from pgdoorman.admin.console import Console
from pgdoorman.admin.flavour import Flavour, is_console
from pgdoorman.auth.client_login import ONLY_SCRAM, LoginDenied, LoginKnobs, LoginRefused, SecretMix, secret_mix
from pgdoorman.auth.found_user import FoundUser
from pgdoorman.auth.hba import HbaRules
from pgdoorman.auth.secrets import NoSecret, StoredSecret, parse_secret
from pgdoorman.backend.connection import next_number
from pgdoorman.client.cancel_keys import CancelKeys
from pgdoorman.client.closing import error_message, turn_away
from pgdoorman.client.failed_logins import FailedLogins
from pgdoorman.client.login import Arrived, Login
from pgdoorman.client.moving import Removal, session_of
from pgdoorman.client.passage import Passage
from pgdoorman.client.records import ClientRecord
from pgdoorman.client.services import Services
from pgdoorman.client.session import Session
from pgdoorman.client.welcome import Welcome
from pgdoorman.config.settings import GeneralSettings, Settings
from pgdoorman.control import Control
from pgdoorman.doorman.console_session import ConsoleSession
from pgdoorman.doorman.lookups import Lookups
from pgdoorman.errors import (
    AuthorizationDenied,
    ConfigError,
    PgDoormanError,
    ShuttingDown,
    TooManyClients,
    UnknownDatabase,
)
from pgdoorman.logs.events import Event
from pgdoorman.pool.auth_query import AuthQuery, LookupFailed, Pending
from pgdoorman.pool.pool import Pool
from pgdoorman.pool.registry import Registry
from pgdoorman.prepared.statement import Carried
from pgdoorman.protocol import authentication as wire
from pgdoorman.protocol.dialogue import FindSecret
from pgdoorman.protocol.startup import CancelRequest, Replication, StartupMessage
from pgdoorman.runtime.helpers import Helpers
from pgdoorman.runtime.worker import Worker
from pgdoorman.transport.handshake_rate import HandshakeRate
from pgdoorman.transport.peer import Peer
from pgdoorman.transport.sockets import DONT_WAIT

if TYPE_CHECKING:
    from pgdoorman.transport.tls_accept import TlsDoor

log = logging.getLogger(__name__)
_CONNECTED: Final = Event(log, logging.INFO, "[%s@%s #c%d] client connected from %s%s")
_DISCONNECTED: Final = Event(log, logging.INFO, "[%s@%s #c%d] client disconnected")
_TAKEN_OVER: Final = Event(log, logging.INFO, "[%s@%s #c%d] client at %s taken over")
_HANDED_OVER: Final = Event(log, logging.INFO, "[%s@%s #c%d] client handed over")

_ANY: Final[SecretMix] = ()

SHUT_DOWN = ShuttingDown("pooler is shut down now")
NOT_THE_OPERATOR = AuthorizationDenied("only root and the user that pgdoorman runs as may come in here")


class GoingDown(PgDoormanError):
    """A login while the house goes down. Not 57P01: at 57P03 libpq tries the next host of its list."""

    sqlstate = "57P03"


GOING_DOWN = GoingDown("pooler is shutting down")


class DisabledDatabase(PgDoormanError):
    """DISABLE was asked for."""

    sqlstate = "55000"


class House(Protocol):
    """What the reception needs of the house."""

    @property
    def general(self) -> GeneralSettings: ...

    @property
    def control(self) -> Control: ...

    def prepare(self, pool: Pool) -> None:
        """A pool was made that nobody had asked for: what was asked of its database holds for it too."""


class Desk:
    """The reception. Its methods are called by login workers; what they share is behind one lock, touched once per
    login."""

    def __init__(
        self,
        house: House,
        registry: Registry,
        services: Services,
        cancel_keys: CancelKeys,
        serving: list[Worker],
        logins: list[Worker],
        helpers: Helpers,
        lookups: Lookups,
        patient_helpers: Helpers,
    ) -> None:
        self._house = house
        self._registry = registry
        self._services = services
        self._cancel_keys = cancel_keys
        self._serving = serving
        self._logins = logins
        self._helpers = helpers
        self._lookups = lookups
        self._lock = Lock()
        self._next_worker = count()
        self._next_login = count()
        self.login_timeout = 60.0
        self.rules: HbaRules = HbaRules(())
        self._knobs: dict[
            SecretMix, LoginKnobs
        ] = {}  # as they are for databases with this mix of secrets; _ANY for all
        self.patient_helpers = patient_helpers
        self.failed = FailedLogins()
        self._mixes: dict[str, SecretMix] = {}
        self.tls: TlsDoor | None = None  # how clients get TLS
        self.handshakes = HandshakeRate()
        self.closed = False
        self.removal: Removal | None = None  # the way out to a successor, once there is one
        self._carried = Carried()
        self.pass_cancel_on: Callable[[CancelRequest, Callable[[], Any]], Any] | None = None
        self.drained = False
        self.sessions: dict[int, Session] = {}
        self.passages: dict[int, Passage] = {}  # of replication clients
        self.consoles: dict[int, ConsoleSession] = {}
        self.logging_in: set[Login] = set()
        self.connections: Counter[str] = Counter()
        self._clients = 0
        self._by_user: Counter[str] = Counter()
        self._by_database: Counter[str] = Counter()

    # Arrivals.

    def take(self, sock: Any, peer: Peer) -> None:
        """A connection was accepted; from the acceptor's thread."""
        worker = self._logins[next(self._next_login) % len(self._logins)]
        login = Login(sock, peer, worker, self, self._helpers)
        with self._lock:
            self.connections["total"] += 1
            self.logging_in.add(login)
        try:
            login.begin()
        except (OSError, ValueError):  # the worker has ended, and its poller with it
            sock.close()
            self.login_ended(login)

    def expire_logins(self, now: float) -> None:
        """Give up those that have taken too long, by monotonic time. From any thread."""
        with self._lock:
            late = [login for login in self.logging_in if now > login.deadline]
        for login in late:
            login.give_up()

    @property
    def has_room(self) -> bool:
        """Whether no more are logging in than may be connected: those who have proved nothing cannot fill the memory."""
        return len(self.logging_in) <= self._house.general.max_connections

    def admit(self, message: StartupMessage, peer: Peer, *, encrypted: bool = False) -> None:
        """Raises the refusal, if the client is to be refused before it is asked for anything."""
        database = message.database
        with self._lock:
            self.connections["tls" if encrypted else "plain"] += 1
        if not peer.is_unix:
            self.failed.check(peer.address)
        if is_console(database):
            return
        if self.closed and self.removal is None:
            raise GOING_DOWN
        if len(self.sessions) >= self._house.general.max_connections:
            raise TooManyClients("sorry, too many clients already")
        if not self._registry.has_database(database):
            raise UnknownDatabase(
                f"No connection pool configured for database: {database}, user: {message.user}. "
                "Please check your connection parameters."
            )

    def knobs_for(self, database: str) -> LoginKnobs:
        """As for all, and users that do not exist are asked as this database's are."""
        mix = self._mixes.get(database)
        if mix is None:
            # Of those who are looked up only some are known, now these and now those: with their shares the same name
            # would be asked in different ways.
            query = self._lookups.of(database)
            mix = ((query.usual_secret, 1),) if query is not None else ONLY_SCRAM
        variants = self._knobs
        knobs = variants.get(mix)
        if knobs is None:
            knobs = variants[mix] = replace(variants[_ANY], unknown_users=mix)
        return knobs

    @property
    def knobs(self) -> LoginKnobs:
        """How clients prove themselves."""
        return self._knobs[_ANY]

    @knobs.setter
    def knobs(self, knobs: LoginKnobs) -> None:
        self._knobs = {_ANY: knobs}

    def learn_secrets(self, settings: Settings) -> None:
        """See what the users of each database have for secrets."""
        self._mixes = {
            name: secret_mix(parse_secret(user.password.reveal()) for user in pool.users)
            for name, pool in settings.pools.items()
            if any(user.password for user in pool.users)
        }

    def find_secret(self, wanted: FindSecret, told: Callable[..., Any]) -> StoredSecret | Pending | None:
        """The stored secret of a user of a pool, or of the console's. PENDING: `told` will be called with it."""
        user, database = wanted.user, wanted.database
        if is_console(database):
            general = self._house.general
            return parse_secret(general.admin_password.reveal()) if user == general.admin_username else None
        pool = self._registry.listed(database, user)
        if pool is not None:
            return pool.stored_secret
        query = self._lookups.of(database)
        if query is None:
            return None

        def tell(found: FoundUser | None, error: PgDoormanError | None) -> None:
            told(found.secret if found is not None else None, error)

        found = query.find(user, tell, stale=wanted.stale)
        return found.secret if isinstance(found, FoundUser) else found

    def welcome(self, arrived: Arrived) -> None:
        """The client has proved who it is: to the console or to its pool with it."""
        if not arrived.peer.is_unix:
            # Again: who came in a crowd, all of them before the first had failed, must not profit from that.
            self.failed.check(arrived.peer.address)
        message = arrived.message
        if is_console(message.database):
            name = message.last("application_name")
            self._open_console(arrived.sock, arrived.peer, Flavour(message.database), message.user, name, arrived.rest)
            return
        pool = self._enter(arrived)
        worker = self._serving[next(self._next_worker) % len(self._serving)]
        if message.replication is not Replication.NONE:
            self._let_pass(Passage(arrived, pool, self._services, worker, self._passage_ended))
            return
        welcome = Welcome(arrived, pool, self._services, worker, partial(self._settled, pool))
        if not worker.post(welcome.begin):
            self._count_out(pool)
            raise SHUT_DOWN

    def _let_pass(self, passage: Passage) -> None:
        self.passages[passage.id] = passage
        if self._house.general.log_client_connections:
            where = f"{passage.pool.user}@{passage.pool.database}"
            log.info(
                "[%s #c%d] %s replication client connected from %s",
                where,
                passage.id,
                passage.kind.name.lower(),
                passage.address,
            )
        if not passage.worker.post(passage.begin):
            self._passage_ended(passage)
            raise SHUT_DOWN

    def _passage_ended(self, passage: Passage) -> None:
        if self.passages.pop(passage.id, None) is not None:
            self._count_out(passage.pool)

    def _enter(self, arrived: Arrived) -> Pool:
        """The pool that the client goes to, with the client counted in. Raises the refusal."""
        message, identity = arrived.message, arrived.identity
        while True:
            pool = self._registry.listed(message.database, identity.user)
            query = self._lookups.of(message.database) if pool is None else None
            if query is not None and identity.secret is not None:
                pool = self._pool_of_found(query, identity.user, identity.secret)
            if pool is None:
                raise UnknownDatabase(f"No pool configured for database: {message.database}, user: {identity.user}")
            if pool.disabled:
                raise DisabledDatabase(f'database "{message.database}" is disabled')
            if self._count_in(pool):
                if query is not None:
                    query.count_login(True)
                return pool

    def _pool_of_found(self, query: AuthQuery, user: str, secret: StoredSecret) -> Pool:
        """The pool of a user that a look-up has found: made at the first login, changed if the look-up says so."""
        known = query.last_found(user)
        return self._obtain(query, user, FoundUser(secret, parameters=known.parameters if known is not None else ()))

    def _obtain(self, query: AuthQuery, user: str, found: FoundUser) -> Pool:
        settings = query.settings_of(user, found)
        if query.is_shared:
            shared = self._registry.find(*settings.identity)
            if shared is not None:
                return shared
        pool, is_new = self._registry.obtain(settings, found)
        if is_new:
            query.count_pools(created=1)
            self._house.prepare(pool)
            log.info("[%s@%s] pool made for a user that auth_query has found", pool.user, pool.database)
        return pool

    def collect_pools(self) -> None:
        """Remove the pools of looked-up users whom nobody uses any more."""
        with self._lock:
            # Under the lock by which clients are counted in: none comes into a pool that is being taken out.
            unused = self._registry.remove_unused()
        for pool in unused:
            pool.close()
            query = self._lookups.of(pool.database)
            if query is not None:
                query.count_pools(destroyed=1)
            log.info("[%s@%s] unused pool removed", pool.user, pool.database)

    def _count_in(self, pool: Pool, *, unlimited: bool = False) -> bool:
        """False if the pool has just been removed. Raises TooManyClients, unless `unlimited`."""
        settings = pool.settings
        with self._lock:
            if pool.removed:
                return False
            if unlimited:
                self._count_in_locked(pool)
                return True
            if self._clients >= self._house.general.max_connections:
                raise TooManyClients("sorry, too many clients already")
            for limit, present, what in (
                (settings.max_user_client_connections, self._by_user[pool.user], f'user "{pool.user}"'),
                (settings.max_db_client_connections, self._by_database[pool.database], f'database "{pool.database}"'),
            ):
                if limit and present >= limit:
                    raise TooManyClients(f"too many client connections for {what}")
            self._count_in_locked(pool)
        return True

    def _count_in_locked(self, pool: Pool) -> None:
        self._clients += 1
        self._by_user[pool.user] += 1
        self._by_database[pool.database] += 1
        pool.clients += 1

    def _count_out(self, pool: Pool) -> None:
        with self._lock:
            self._clients -= 1
            for counter, name in ((self._by_user, pool.user), (self._by_database, pool.database)):
                counter[name] -= 1
                if not counter[name]:
                    del counter[name]  # users that look-ups find come and go: no trace of each is kept
            pool.clients -= 1

    def _settled(self, pool: Pool, session: Session | None) -> None:
        if session is None:
            self._count_out(pool)
            return
        self.sessions[session.id] = session
        if self._house.general.log_client_connections:
            tls = f" by {session.tls}" if session.tls else ""
            _CONNECTED.say(pool.user, pool.database, session.id, session.address, tls)
        if self.removal is not None:
            session.worker.post(partial(session.dismiss, self.removal))
        elif self.closed:
            session.dismissed = SHUT_DOWN

    def session_ended(self, session: Session) -> None:
        """A session is over; from its worker's thread."""
        self._session_over(session, _DISCONNECTED)

    def _session_over(self, session: Session, how: Event) -> None:
        if self.sessions.pop(session.id, None) is None:
            return
        if session.cancel_key is not None:
            self._cancel_keys.withdraw(session.cancel_key)
        self._count_out(session.pool)
        if self._house.general.log_client_disconnections:
            how.say(session.pool.user, session.pool.database, session.id)

    def login_ended(self, login: Login) -> None:
        """A login is over, in whatever way."""
        with self._lock:
            self.logging_in.discard(login)

    def login_failed(self, peer: Peer, user: str, database: str, error: PgDoormanError) -> None:
        """Say so in the log, with the reason that the client is not told."""
        with self._lock:
            self.connections["failed"] += 1
        if isinstance(error, LoginRefused | LoginDenied) and not peer.is_unix:
            self.failed.note(peer.address)
        query = self._lookups.of(database)
        if query is not None and self._registry.listed(database, user) is None:
            query.count_login(False)
        reason = f" ({error.reason})" if isinstance(error, LoginRefused | LoginDenied | LookupFailed) else ""
        log.warning("[%s@%s] login from %s failed: %s%s", user, database, peer, error.message, reason)

    # Changing house.

    @property
    def is_empty(self) -> bool:
        """Whether nobody is in, and nobody on the way in."""
        with self._lock:
            return not self._clients and not self.logging_in

    def take_over(self, record: ClientRecord, sock: Any) -> None:
        """A client comes from the process before us, which has let it in: it is not asked again. From any one thread."""
        try:
            pool = self._enter_again(record)
        except PgDoormanError as refusal:
            log.warning("[%s@%s] a client cannot be taken over: %s", record.user, record.database, refusal.message)
            turn_away(sock, refusal)
            return
        settings = pool.settings
        try:
            pool.learn_again(record.keys, record.password)
            session = session_of(record, sock, pool, self._services, self._carried)
        except BaseException:
            self._count_out(pool)
            raise
        worker = self._serving[next(self._next_worker) % len(self._serving)]
        session.worker = worker
        assert session.cancel_key is not None
        self._cancel_keys.assign(session.cancel_key, session)
        self.sessions[session.id] = session
        if self._house.general.log_client_connections:
            _TAKEN_OVER.say(pool.user, pool.database, session.id, session.address)

        def begin() -> None:
            try:
                session.begin_serving(worker, b"", record.input)
            except Exception as error:
                session.on_crash(error)  # it is counted and listed: it has to end like any other
                raise
            if pool.removed or pool.settings is not settings:
                session.follow()
            if self.removal is not None:
                session.dismiss(self.removal)  # we are being replaced ourselves

        if not worker.post(begin):
            self._session_over(session, _DISCONNECTED)
            sock.close()

    def _enter_again(self, record: ClientRecord) -> Pool:
        """The pool of a client that comes from another process. Raises the refusal."""
        while True:
            pool = self._registry.find(record.database, record.user)
            query = self._lookups.of(record.database) if pool is None else None
            if query is not None and not query.is_shared and record.found_secret is not None:
                try:
                    secret = parse_secret(record.found_secret)
                except ConfigError:
                    secret = NoSecret()
                pool = self._obtain(query, record.user, FoundUser(secret, parameters=record.found_parameters))
            if pool is None:
                raise UnknownDatabase(f"No pool configured for database: {record.database}, user: {record.user}")
            if self._count_in(pool, unlimited=True):
                return pool

    def hand_over_all(self, removal: Removal) -> None:
        """Have every client leave by this way, at the end of its transaction, and all that are still coming in."""
        self.removal = removal
        self.dismiss_all(removal)

    def stop_handing_over(self) -> None:
        """There is nobody any more to hand clients over to."""
        self.removal = None

    def session_moved(self, session: Session) -> None:
        """A client is on its way to another process; from its worker's thread."""
        self._session_over(session, _HANDED_OVER)

    # The console.

    def take_operator(self, sock: Any, peer: Peer) -> None:
        """A connection at the operator's own door: the kernel says who it is, and it is greeted without a word."""
        # A process that the kernel cannot name for us lives in another container of the same network: its root is not ours.
        if not peer.process_id or peer.user_id not in (0, os.geteuid()):
            sock.send(error_message(NOT_THE_OPERATOR), DONT_WAIT)
            sock.close()
            return
        try:
            user = pwd.getpwuid(peer.user_id).pw_name
        except KeyError:
            user = str(peer.user_id)
        self._open_console(sock, peer, Flavour.PGDOORMAN, user, "pgdoorman")

    def _open_console(
        self, sock: Any, peer: Peer, flavour: Flavour, user: str, application_name: str, rest: bytes = b""
    ) -> None:
        number = next_number()
        worker = self._logins[number % len(self._logins)]

        def begin() -> None:
            key = self._cancel_keys.issue(None, 4)
            console = Console(self._house.control, flavour=flavour, user=user, admin=True, process_id=key.process_id)
            session = ConsoleSession(
                number,
                sock,
                peer,
                console,
                user=user,
                database=flavour.value,
                application_name=application_name,
                ended=self._console_ended,
            )
            session.cancel_key = key
            self._cancel_keys.assign(key, session)
            self.consoles[number] = session
            greeting = wire.ok() + console.greeting(key.secret, {"application_name": application_name})
            session.begin(worker, greeting, rest)

        worker.post(begin)

    def _console_ended(self, session: ConsoleSession) -> None:
        self.consoles.pop(session.id, None)
        if session.cancel_key is not None:
            self._cancel_keys.withdraw(session.cancel_key)

    # Cancel.

    def cancel(self, request: CancelRequest, done: Callable[[], Any]) -> None:
        """Find whose key it is and have its worker see to it. A key that nobody has is no news to anyone, but perhaps to the
        process whose place we have taken."""
        with self._lock:
            self.connections["cancel"] += 1
        owner = self._cancel_keys.find(request.process_id, request.secret)
        if owner is None and self.pass_cancel_on is not None:
            self.pass_cancel_on(request, done)
        elif owner is None or not owner.worker.post(partial(owner.cancel, done)):
            done()

    # Going down.

    def dismiss_all(self, reason: PgDoormanError = SHUT_DOWN, *, idle_too: bool = True) -> None:
        """Send every client away at the end of its transaction: those that are in none at once, or after their next."""
        for session in list(self.sessions.values()):
            dismiss = session.dismiss if idle_too else session.dismiss_later
            session.worker.post(partial(dismiss, reason))
        self._expel_passages()

    def expel_all(self) -> None:
        """Send every client away now."""
        for session in list(self.sessions.values()):
            session.worker.post(partial(session.expel, SHUT_DOWN))
        self._expel_passages()

    def _expel_passages(self) -> None:
        for passage in list(self.passages.values()):
            passage.worker.post(partial(passage.expel, SHUT_DOWN))
