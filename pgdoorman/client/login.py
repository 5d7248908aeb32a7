"""From the first byte of a connection to a proved identity; on a login worker.

The conversation itself is a dialogue of the auth room; here are its socket, its deadline, the helper threads for what is
heavy, and the decision where the client goes: to the console, to a pool (`welcome`), or away. A cancel request is a
connection of its own and ends here too.
"""

import logging
import pwd
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol

from pgdoorman.auth.client_login import (
    ClientCertificate,
    ClientIdentity,
    LoginAttempt,
    LoginKnobs,
    TlsFacts,
    authenticate,
)
from pgdoorman.auth.hba import HbaRules
from pgdoorman.auth.secrets import StoredSecret
from pgdoorman.client.closing import error_before_version_3, error_message
from pgdoorman.client.lingering import close_gently
from pgdoorman.errors import PgDoormanError, ProtocolViolation, TooManyClients
from pgdoorman.pool.auth_query import PENDING, Pending
from pgdoorman.protocol import codes
from pgdoorman.protocol.dialogue import FindSecret, Offload, Receive, Runner
from pgdoorman.protocol.startup import (
    TLS_HANDSHAKE,
    CancelRequest,
    GssEncRequest,
    SslRequest,
    StartupMessage,
    first_packet_size,
    negotiate,
    parse_first_packet,
)
from pgdoorman.runtime.helpers import Helpers
from pgdoorman.runtime.worker import Worker
from pgdoorman.transport.handshake_rate import HandshakeRate
from pgdoorman.transport.peer import Peer
from pgdoorman.transport.sockets import DONT_WAIT, close_quietly

if TYPE_CHECKING:
    # Loaded with the door: a house without TLS does without OpenSSL.
    from pgdoorman.client.securing import Securing
    from pgdoorman.transport.tls_accept import ClientHandshake, TlsDoor

log = logging.getLogger(__name__)

# More than this is not taken from a client before it has proved who it is.
MOST_BEFORE_LOGIN: Final = 200_000

# Seconds for a TLS handshake where a login has no time limit.
HANDSHAKE_PATIENCE: Final = 60.0


@dataclass(frozen=True, slots=True)
class Arrived:
    """A client that has proved who it is."""

    sock: Any
    peer: Peer
    message: StartupMessage
    version: int
    identity: ClientIdentity
    rest: bytes
    tls: str = ""


class Reception(Protocol):
    """What a login asks of the house."""

    login_timeout: float
    rules: HbaRules
    patient_helpers: Helpers  # for work that waits for others
    tls: "TlsDoor | None"
    handshakes: HandshakeRate

    @property
    def has_room(self) -> bool:
        """Whether one more may begin a TLS handshake: each takes 50 kB until it is done."""

    def admit(self, message: StartupMessage, peer: Peer, *, encrypted: bool = False) -> None:
        """Whether a client for this database may be let in at all. Raises the refusal."""

    def knobs_for(self, database: str) -> LoginKnobs:
        """How clients of a database prove themselves."""

    def find_secret(self, wanted: FindSecret, told: Callable[..., Any]) -> StoredSecret | Pending | None:
        """What is stored for the user. PENDING: `told(secret, error)` will be called, once, on any thread."""

    def welcome(self, arrived: Arrived) -> None:
        """Take the client over. Raises the refusal."""

    def cancel(self, request: CancelRequest, done: Callable[[], Any]) -> None:
        """Deliver a cancel request; `done` is called on any thread when that has been dealt with."""

    def login_failed(self, peer: Peer, user: str, database: str, error: PgDoormanError) -> None:
        """Count and log it."""

    def login_ended(self, login: "Login") -> None:
        """The login is over, however."""


class Login:
    """One connection before it is a session. Belongs to one login worker."""

    def __init__(self, sock: Any, peer: Peer, worker: Worker, reception: Reception, helpers: Helpers) -> None:
        self.sock = sock
        self.fd: int = sock.fileno()
        self.peer = peer
        self._worker = worker
        self._reception = reception
        self._helpers = helpers
        self._buffer = bytearray()
        self._message: StartupMessage | None = None
        self._version = 0
        self._runner: Runner[ClientIdentity] | None = None
        self._asking = False
        self._refused_encryption: set[str] = set()
        self._securing: Securing | None = None
        self._handshake: ClientHandshake | None = None
        self._untouched = True  # nothing has come yet
        self._over = False
        self.deadline = monotonic() + reception.login_timeout if reception.login_timeout else inf
        """When it will have taken too long, in monotonic seconds. Looked at by the house: a timer of each login's own would be
        set and cancelled for nothing nearly always."""

    def __repr__(self) -> str:
        return f"<Login of {self.peer}>"

    def begin(self) -> None:
        """Have the worker listen. From any thread; from then on everything happens on the worker's. Raises OSError or
        ValueError if the worker has ended."""
        self._worker.watch(self.fd, self.on_event)

    def give_up(self) -> None:
        """It has taken too long. From any thread."""
        self.deadline = inf
        self._worker.post(self._out_of_time)

    def on_event(self, worker: Worker, events: int) -> None:
        """The poller's handler."""
        if self._securing is not None:
            self._securing.go_on(events)
            return
        try:
            if self._untouched and self._begins_with_tls():
                if self._reception.has_room:
                    self._secure(direct=True)
                else:
                    self._close()
                return
            data = self.sock.recv(16384, DONT_WAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close()
            return
        try:
            self._hear(data)
        except PgDoormanError as error:
            self._fail(error)

    def on_crash(self, error: Exception) -> None:
        """The worker's guard."""
        self._close()

    # TLS.

    def _begins_with_tls(self) -> bool:
        """Whether the client skips the request (PostgreSQL 17's direct TLS). Only looked at: OpenSSL has to read it."""
        self._untouched = False
        if self._reception.tls is None or self.peer.is_unix:
            return False
        first: bytes = self.sock.recv(1, DONT_WAIT | socket.MSG_PEEK)
        return first[:1] == bytes((TLS_HANDSHAKE,))

    def _secure(self, *, direct: bool) -> None:
        from pgdoorman.client.securing import Securing  # noqa: PLC0415 - see above

        door = self._reception.tls
        assert door is not None
        securing = self._securing = Securing(
            self.sock, door, self._worker, direct=direct, done=self._secured, failed=self._fail
        )
        self.sock = securing.sock
        if self.deadline == inf:
            self.deadline = monotonic() + HANDSHAKE_PATIENCE
        securing.begin(self._reception.handshakes.delay())

    def _secured(self, handshake: "ClientHandshake") -> None:
        self._securing = None
        self._handshake = handshake
        if not self._reception.login_timeout:
            self.deadline = inf

    def _tls_facts(self) -> TlsFacts | None:
        handshake = self._handshake
        if handshake is None:
            return None
        names = handshake.names
        return TlsFacts(handshake.bindings, None if names is None else ClientCertificate(*names))

    def _hear(self, data: bytes) -> None:
        runner = self._runner
        if runner is not None:
            if len(data) + self._pending_bytes > MOST_BEFORE_LOGIN:
                raise ProtocolViolation("too much data before the login is complete")
            if self._asking:
                self._buffer += data
                return
            runner.feed(data)
            self._advance()
            return
        if not self._buffer and len(data) >= 4 and first_packet_size(data) == len(data):
            self._first_packet(data)  # as nearly always: one packet, whole, and nothing behind it
            return
        self._buffer += data
        while self._runner is None and not self._over and len(self._buffer) >= 4:
            size = first_packet_size(bytes(self._buffer[:4]))
            if len(self._buffer) < size:
                return
            packet = bytes(self._buffer[:size])
            del self._buffer[:size]
            self._first_packet(packet)

    @property
    def _pending_bytes(self) -> int:
        return len(self._buffer)

    def _first_packet(self, packet: bytes) -> None:
        first = parse_first_packet(packet)
        if isinstance(first, CancelRequest):
            self._cancel(first)
        elif isinstance(first, StartupMessage):
            self._start(first)
        else:
            self._answer_encryption(first)

    def _answer_encryption(self, request: SslRequest | GssEncRequest) -> None:
        kind = type(request).__name__
        if kind in self._refused_encryption or self._handshake is not None:
            raise ProtocolViolation("encryption was asked for twice")
        if self._buffer:
            # Whatever it is, it was sent before the answer: it could be taken for encrypted by one side only.
            raise ProtocolViolation("received unencrypted data after an encryption request")
        if isinstance(request, SslRequest) and self._reception.tls is not None and not self.peer.is_unix:
            if not self._reception.has_room:
                raise TooManyClients("sorry, too many clients already")
            self._send(b"S")
            if not self._over:
                self._secure(direct=False)
            return
        self._refused_encryption.add(kind)
        self._send(b"N")

    def _cancel(self, request: CancelRequest) -> None:
        self._stop_listening()
        # libpq takes the closing of this connection for the delivery: close when it has been delivered.
        self._reception.cancel(request, lambda: self._worker.post(self._close))

    def _start(self, message: StartupMessage) -> None:
        self._message = message
        negotiation = negotiate(message)
        self._version = negotiation.version
        door, encrypted = self._reception.tls, self._handshake is not None
        if door is not None and door.is_needed and not encrypted and not self.peer.is_unix:
            raise TlsNeeded("Connection without SSL is not allowed by tls_mode.")
        if not message.user:
            raise NoUser("no PostgreSQL user name specified in startup packet")
        message.settings()  # malformed options are an error before anything else is said
        replication = message.replication
        self._reception.admit(message, self.peer, encrypted=encrypted)
        if negotiation.reply:
            self._send(negotiation.reply)
            if self._over:
                return
        attempt = LoginAttempt(
            user=message.user,
            database=message.database,
            replication=replication,
            address=None if self.peer.is_unix else self.peer.address,
            rules=self._reception.rules,
            knobs=self._reception.knobs_for(message.database),
            tls=self._tls_facts(),
            find_os_user=partial(_user_name, self.peer.user_id),
        )
        runner = self._runner = Runner(authenticate(attempt))
        if self._buffer:
            data = bytes(self._buffer)
            self._buffer.clear()
            runner.feed(data)
        self._advance()

    def _advance(self) -> None:
        runner = self._runner
        assert runner is not None
        assert self._message is not None
        while True:
            output = runner.take_output()
            if output:
                self._send(output)
                if self._over:
                    return  # gone, and the runner closed: what it had made of the client's last words is nobody's
            wanted = runner.wants
            if wanted is None:
                self._proved(runner)
                return
            if isinstance(wanted, Receive):
                return
            if isinstance(wanted, FindSecret):
                found = self._reception.find_secret(wanted, self._found)
                if found is PENDING:
                    self._asking = True
                    return
                runner.answer(found)
                continue
            self._asking = True
            helpers = self._reception.patient_helpers if wanted.waits else self._helpers
            if not helpers.submit(partial(self._do, wanted)):
                self._close()
            return

    def _found(self, secret: StoredSecret | None, error: PgDoormanError | None) -> None:
        """A secret that had to be looked up; on any thread."""
        self._worker.post(partial(self._done, secret, error))

    def _do(self, offload: Offload[Any]) -> None:
        """Heavy work of a login, on a helper thread."""
        try:
            answer = offload.work()
        except Exception as error:  # noqa: BLE001 - whatever it is belongs to this login
            self._worker.post(partial(self._done, None, error))
            return
        self._worker.post(partial(self._done, answer, None))

    def _done(self, answer: Any, error: Exception | None) -> None:
        if self._over:
            return
        self._asking = False
        runner = self._runner
        assert runner is not None
        try:
            if error is not None:
                runner.fail(error)
            else:
                runner.answer(answer)
            if self._buffer:
                data = bytes(self._buffer)
                self._buffer.clear()
                runner.feed(data)
            self._advance()
        except PgDoormanError as failure:
            self._fail(failure)

    def _proved(self, runner: Runner[ClientIdentity]) -> None:
        identity = runner.result()
        message = self._message
        assert message is not None
        if identity.application_name:
            named = (*message.parameters, ("application_name", identity.application_name))
            message = replace(message, parameters=named)
        tls = self._handshake.description if self._handshake is not None else ""
        arrived = Arrived(self.sock, self.peer, message, self._version, identity, runner.take_input(), tls)
        self._stop_listening()
        self._over = True
        try:
            self._reception.welcome(arrived)
        except PgDoormanError as error:
            self._over = False
            self._fail(error)
            return
        self._reception.login_ended(self)

    def _send(self, data: bytes) -> None:
        try:
            sent = self.sock.send(data, DONT_WAIT)
        except OSError:
            sent = 0
        if sent != len(data):
            # Some hundred bytes into the empty buffer of a new socket: one that does not take them is gone or hostile.
            self._close()

    def _fail(self, error: PgDoormanError) -> None:
        if self._over:
            return
        message = self._message
        self._reception.login_failed(
            self.peer, message.user if message else "", message.database if message else "", error
        )
        if message is not None and 0 < message.version < codes.PROTOCOL_3_0:
            self._send(error_before_version_3(error))
        elif self._securing is None:  # in the middle of a handshake there is nobody who would understand
            self._send(error_message(error, "FATAL"))
        self._close(gently=True)

    def _out_of_time(self) -> None:
        self._fail(LoginTimeout("canceling authentication due to timeout"))

    def _stop_listening(self) -> None:
        self.deadline = inf
        self._worker.unwatch(self.fd)

    def _close(self, *, gently: bool = False) -> None:
        if self._over:
            return
        self._over = True
        self._stop_listening()
        if self._securing is not None:
            self._securing.stop()
            self._securing = None  # a circle, and 50 kB of OpenSSL's in it
        if self._runner is not None:
            self._runner.close()
        if gently:
            close_gently(self.sock, self._worker)
        else:
            close_quietly(self.sock)
        self._reception.login_ended(self)


class NoUser(PgDoormanError):
    """The start-up packet names no user."""

    sqlstate = "28000"


class TlsNeeded(PgDoormanError):
    """tls_mode does not let clients in without TLS."""

    sqlstate = "28000"


class LoginTimeout(PgDoormanError):
    """client_login_timeout passed."""

    sqlstate = "57014"


def _user_name(user_id: int) -> str:
    if user_id < 0:
        return ""
    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:
        return ""
