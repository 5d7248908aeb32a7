"""Delivering a CancelRequest (protocol, "Canceling Requests in Progress"): blocking, on a helper thread."""

from time import monotonic
from typing import Any

from pgdoorman.errors import BackendUnavailable
from pgdoorman.protocol.codes import CANCEL_REQUEST
from pgdoorman.protocol.framing import INT32, UINT32
from pgdoorman.transport.connect import Address, wait_connected
from pgdoorman.transport.sockets import SocketOptions, close_quietly
from pgdoorman.transport.tls_connect import TlsConnector


class CancelAdrift(BackendUnavailable):
    """The request was sent, but whether and when the server acts on it is not known: it may hit whatever runs then."""


def cancel_message(process_id: int, secret: bytes) -> bytes:
    """The CancelRequest packet; secrets have 4 bytes in protocol 3.0 and 4 to 256 in 3.2."""
    return INT32.pack(12 + len(secret)) + INT32.pack(CANCEL_REQUEST) + UINT32.pack(process_id) + secret


def wait_cancelled(
    address: Address,
    process_id: int,
    secret: bytes,
    timeout: float,
    options: SocketOptions,
    connector: TlsConnector | None = None,
) -> None:
    """Deliver the request and wait until the server has closed the connection, i.e. has sent the signal.

    From then on no later query can be hit: the signal is pending at the server process before the bytes of a query that is
    sent now reach it, and PostgreSQL forgets a cancel that comes while it waits for a command.

    With a `connector` it goes by TLS or not at all: a key that was given under TLS is not shown to the network.

    Raises BackendUnavailable if the server cannot be reached within `timeout` seconds, and CancelAdrift if it does not close
    the connection in time: a busy server takes the request from its backlog later, even if we have gone by then.
    """
    deadline = monotonic() + timeout
    sock: Any = wait_connected(address, timeout, options)
    if connector is not None:
        sock = _wait_secured(sock, connector, address, deadline)
    try:
        # One deadline for all of it: what answers need not be a PostgreSQL, and could go on talking.
        sock.settimeout(max(0.001, deadline - monotonic()))
        sock.sendall(cancel_message(process_id, secret))
        while sock.recv(64):
            sock.settimeout(max(0.001, deadline - monotonic()))
    except TimeoutError as error:
        raise CancelAdrift("the server did not take the cancel request in time") from error
    except (ConnectionResetError, BrokenPipeError):
        return  # reset instead of closed: it was read all the same
    except OSError as error:
        raise CancelAdrift(f"the cancel request may be lost: {error.strerror}") from error
    finally:
        close_quietly(sock)


def _wait_secured(sock: Any, connector: TlsConnector, address: Address, deadline: float) -> Any:
    try:
        return connector.wait_secured(sock, address, deadline, insist=True)
    except OSError as error:
        close_quietly(sock)
        raise BackendUnavailable(f"the server at {address} cannot be reached by TLS: {error}") from error
    except BaseException:
        close_quietly(sock)
        raise
