"""Making a backend: connect, log in, read the greeting. Blocking, with one deadline; for helper threads."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic

from pgdoorman.auth.backend_login import BackendCredentials, BackendGreeting, log_in
from pgdoorman.backend.connection import Backend, next_number
from pgdoorman.backend.settings import reported_of
from pgdoorman.errors import BackendUnavailable, ProtocolViolation
from pgdoorman.protocol import codes
from pgdoorman.protocol.dialogue import FindSecret, Offload, Receive, Runner
from pgdoorman.protocol.startup import startup_message
from pgdoorman.transport.connect import Address, wait_connected
from pgdoorman.transport.sockets import SocketOptions, close_quietly


@dataclass(frozen=True, slots=True)
class OpeningPlan:
    """Everything that it takes to open one backend. `timeout` in seconds covers connecting and logging in."""

    address: Address
    database: str
    credentials: BackendCredentials
    parameters: Sequence[tuple[str, str]] = ()
    timeout: float = 3.0
    version: int = codes.PROTOCOL_3_0
    socket_options: SocketOptions = field(default_factory=SocketOptions)


def wait_opened(plan: OpeningPlan) -> Backend:
    """A backend that is logged in, idle, and watched by nobody yet.

    Raises BackendUnavailable (not reached, lost, too slow), BackendRefused (the server's own error), CredentialsMissing,
    ProtocolViolation (what answered is no PostgreSQL).
    """
    deadline = monotonic() + plan.timeout
    sock = wait_connected(plan.address, plan.timeout, plan.socket_options)
    try:
        greeting = _wait_greeting(sock, plan, deadline)
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
    )


def _wait_greeting(sock: socket.socket, plan: OpeningPlan, deadline: float) -> BackendGreeting:
    pairs = [("user", plan.credentials.user), ("database", plan.database), *plan.parameters]
    runner = Runner(log_in(startup_message(pairs, plan.version), plan.credentials))
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
