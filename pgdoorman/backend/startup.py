"""Making a backend: connect, ask for TLS, log in, read the greeting. Blocking, with one deadline; for helper threads.

What `server_tls_mode` means is libpq's `sslmode`: `allow` comes with TLS only to a server that refuses it without, `prefer`
without TLS only to one that has none, or refuses it with. Each try is a connection of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from time import monotonic
from typing import Any

from pgdoorman.auth.backend_login import DEFAULT_POLICY, BackendCredentials, BackendGreeting, LoginPolicy, log_in
from pgdoorman.backend.connection import Backend, next_number
from pgdoorman.backend.settings import reported_of
from pgdoorman.config.settings import ServerTlsMode
from pgdoorman.errors import BackendRefused, BackendUnavailable, ProtocolViolation
from pgdoorman.protocol import codes
from pgdoorman.protocol.dialogue import FindSecret, Offload, Receive, Runner
from pgdoorman.protocol.startup import startup_message
from pgdoorman.transport.connect import Address, wait_connected
from pgdoorman.transport.sockets import SocketOptions, close_quietly
from pgdoorman.transport.tls_connect import TlsConnector, TlsRejected, bindings_of

# What a server says to whom its rules do not let in (by pg_hba.conf, say): the rules may look at whether there is TLS.
_NOT_LET_IN = "28000"


@dataclass(frozen=True, slots=True)
class OpeningPlan:
    """Everything that it takes to open one backend. `timeout` in seconds covers connecting and logging in. `tls` is how
    to ask for TLS, None if that is not to be done; a unix socket never has it. With `tls_first` a server that need not be
    asked for it is asked all the same: it has turned away those who did not."""

    address: Address
    database: str
    credentials: BackendCredentials
    parameters: Sequence[tuple[str, str]] = ()
    timeout: float = 3.0
    version: int = codes.PROTOCOL_3_0
    socket_options: SocketOptions = field(default_factory=SocketOptions)
    tls: TlsConnector | None = None
    tls_first: bool = False


class _Way(Enum):
    """How one try is made."""

    PLAIN = "plain"
    IF_THERE_IS = "TLS if there is"
    TLS = "TLS"


_WAYS = {
    ServerTlsMode.ALLOW: (_Way.PLAIN, _Way.TLS),
    ServerTlsMode.PREFER: (_Way.IF_THERE_IS, _Way.PLAIN),
}


def wait_opened(plan: OpeningPlan) -> Backend:
    """A backend that is logged in, idle, and watched by nobody yet.

    Raises BackendUnavailable (not reached, lost, too slow), BackendRefused (the server's own error), CredentialsMissing,
    ProtocolViolation (what answered is no PostgreSQL).
    """
    deadline = monotonic() + plan.timeout
    connector = None if plan.address.is_unix else plan.tls
    first, *others = (_Way.PLAIN,) if connector is None else _WAYS.get(connector.mode, (_Way.TLS,))
    if others and plan.tls_first:
        first, others = _Way.IF_THERE_IS, [_Way.PLAIN]
    try:
        return _wait_opened_so(plan, first, deadline)
    except (BackendRefused, TlsRejected) as error:
        if not others or (isinstance(error, BackendRefused) and error.sqlstate_of_server != _NOT_LET_IN):
            raise
        try:
            return _wait_opened_so(plan, others[0], deadline)
        except TlsRejected:
            raise error from None  # the server has no TLS: what it said first is the reason


def _wait_opened_so(plan: OpeningPlan, way: _Way, deadline: float) -> Backend:
    sock: Any = wait_connected(plan.address, max(0.001, deadline - monotonic()), plan.socket_options)
    secured = None
    try:
        if way is not _Way.PLAIN and plan.tls is not None:
            secured = _wait_secured(sock, plan, plan.tls, deadline, insist=way is _Way.TLS)
            if secured is not None:
                sock = secured
        policy = DEFAULT_POLICY if secured is None else LoginPolicy(bindings=bindings_of(secured))
        greeting = _wait_greeting(sock, plan, policy, deadline)
        sock.settimeout(None)
    except BaseException:
        close_quietly(sock)
        raise
    return Backend(
        sock,
        plan.address,
        role=plan.credentials.user,
        process_id=greeting.process_id,
        cancel_secret=greeting.cancel_secret,
        reported=reported_of(dict(greeting.parameters)),
        number=next_number(),
        tls=secured.description if secured is not None else "",
        connector=plan.tls if secured is not None else None,
    )


def _wait_secured(sock: Any, plan: OpeningPlan, connector: TlsConnector, deadline: float, *, insist: bool) -> Any:
    try:
        return connector.wait_secured(sock, plan.address, deadline, insist=insist)
    except TimeoutError as error:
        raise BackendUnavailable(f"the server at {plan.address} did not complete the TLS handshake in time") from error
    except OSError as error:
        raise BackendUnavailable(f"the connection to {plan.address} was lost during TLS: {error.strerror}") from error


def _wait_greeting(sock: Any, plan: OpeningPlan, policy: LoginPolicy, deadline: float) -> BackendGreeting:
    pairs = [("user", plan.credentials.user), ("database", plan.database), *plan.parameters]
    runner = Runner(log_in(startup_message(pairs, plan.version), plan.credentials, policy))
    while True:
        output = runner.take_output()
        try:
            if output:
                sock.settimeout(_remaining(deadline))
                sock.sendall(output)
            wanted = runner.wants
            if wanted is None:
                break
            if isinstance(wanted, Receive):
                sock.settimeout(_remaining(deadline))
                data = sock.recv(16384)
                if not data:
                    raise BackendUnavailable("server closed the connection unexpectedly during login")
                runner.feed(data)
                continue
        except TimeoutError as error:
            raise BackendUnavailable(f"the server at {plan.address} did not complete the login in time") from error
        except OSError as error:
            raise BackendUnavailable(f"the connection to {plan.address} was lost during login: {error}") from error
        assert not isinstance(wanted, FindSecret)
        assert isinstance(wanted, Offload)
        runner.answer(wanted.work())  # we are where blocking is allowed
    greeting = runner.result()
    if greeting.status != codes.IDLE or runner.take_input():
        raise ProtocolViolation("the server has more to say after its greeting")
    return greeting


def _remaining(deadline: float) -> float:
    remaining = deadline - monotonic()
    if remaining <= 0:
        raise TimeoutError
    return remaining
