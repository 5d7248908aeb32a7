"""Encrypted sockets: what goes on between OpenSSL and one connection.

A `TlsSocket` has a socket's methods with a socket's meaning, so that whoever reads and writes need not know which of the
two it has, and a plain socket pays nothing. It is used in socket mode: OpenSSL itself reads and writes the descriptor,
which is not blocking (memory BIOs cost 40 % more per message).

After a `recv` of at least `RECORD` bytes nothing that could be read is left inside: the rest is still in the kernel, and the
poller, which is level-triggered, says so. Where OpenSSL reads one record at a time that is so by itself. It takes two system
calls for each, the header and the rest, where reading ahead takes one (0.7 us less of some 45 for a transaction); then
`AheadTlsSocket` takes out what has come in with it.
"""

import errno
import mmap
import re
import select
import socket
import threading
from time import monotonic
from typing import Any, Final

from cryptography import x509
from OpenSSL import SSL

from pgdoorman.constants import bind_constants
from pgdoorman.errors import PgDoormanError
from pgdoorman.transport import libssl
from pgdoorman.transport.sockets import DONT_WAIT, close_quietly

try:
    from OpenSSL._util import ffi as _ffi
    from OpenSSL._util import lib as _lib
except ImportError:
    _ffi = _lib = None
if not hasattr(SSL.Connection, "_raise_ssl_error"):
    _ffi = _lib = None  # a later pyOpenSSL may have moved these things: then every call goes the long way round

RECORD: Final = 16384
"""Bytes that one TLS record can hold."""

# PostgreSQL and most drivers write 8 kB or 16 kB at a time: after a record of that size there is likely another one.
_FULL: Final = 8192
# How long a peer may go without taking what TLS itself has to answer (a key update) while it goes on sending.
_PATIENCE: Final = 5.0

# Alerts by which the other side says so (RFC 8446, section 6.2), in OpenSSL's words.
_NOT_TRUSTED: Final = re.compile("alert (unknown ca|bad certificate|unsupported certificate|certificate (?!required))")

_EXPORTER: Final = b"EXPORTER-Channel-Binding"


class TlsFailed(PgDoormanError):
    """A handshake came to nothing. The text says why, for the log."""

    sqlstate = "08P01"


class Notes:
    """What callbacks of OpenSSL have to say of one connection."""

    __slots__ = ("foreign_protocol", "verify_error")

    def __init__(self) -> None:
        self.verify_error = ""
        self.foreign_protocol = False


def reason_of(error: BaseException) -> str:
    """OpenSSL's own words."""
    stack = error.args[0] if error.args else ""
    if isinstance(stack, list) and stack:
        return ", ".join(str(entry[-1]) for entry in stack if entry[-1])
    return str(error) or type(error).__name__


class TlsSocket:
    """A socket with TLS on it: `recv`, `send`, `close` and `fileno` as of a socket, blocking unless told otherwise by
    `MSG_DONTWAIT` or a timeout. Belongs to one thread at a time, and may change hands between two calls.

    A `send` that had to stop in the middle of a record raises BlockingIOError, or returns less than it was given; the
    next one must begin with the same bytes, since they are encrypted already. Whoever keeps what was not taken, and sends
    that first, does so.
    """

    __slots__ = ("_connection", "_established", "_plain", "_ssl", "_stuck_at", "_stuck_since", "_timeout")

    def __init__(self, connection: SSL.Connection, plain: socket.socket) -> None:
        self._connection = connection
        self._plain = plain
        self._ssl: Any = getattr(connection, "_ssl", None)
        self._timeout: float | None = None
        self._established = False
        self._stuck_since = self._stuck_at = 0.0

    def __repr__(self) -> str:
        return f"<TlsSocket {self._plain!r}>"

    # What is known of it.

    @property
    def family(self) -> int:
        return self._plain.family

    @property
    def description(self) -> str:
        """Version and cipher, as in TLSv1.3/TLS_AES_256_GCM_SHA384."""
        return f"{self._connection.get_protocol_version_name()}/{self._connection.get_cipher_name()}"

    @property
    def protocol(self) -> bytes:
        """The application protocol that was agreed on (ALPN); empty for none."""
        return self._connection.get_alpn_proto_negotiated()

    @property
    def server_name(self) -> str:
        """The host that the client asked for (SNI), "" for none."""
        name = self._connection.get_servername()
        return name.decode("ascii", "backslashreplace") if name else ""

    def peer_certificate(self) -> x509.Certificate | None:
        """What the other side has shown. It is verified if the context verifies."""
        return self._connection.get_peer_certificate(as_cryptography=True)

    def exported_binding(self) -> bytes:
        """Channel binding data of type tls-exporter (RFC 9266); empty before TLS 1.3, where it need not be unique."""
        if self._connection.get_protocol_version() < SSL.TLS1_3_VERSION:
            return b""
        return self._connection.export_keying_material(_EXPORTER, 32, b"")

    def fileno(self) -> int:
        return self._plain.fileno()

    def getsockname(self) -> Any:
        return self._plain.getsockname()

    def gettimeout(self) -> float | None:
        return self._timeout

    def settimeout(self, seconds: float | None) -> None:
        """How long calls without MSG_DONTWAIT wait; None for ever."""
        self._timeout = seconds

    # The handshake.

    def advance_handshake(self) -> int:
        """Go on as far as possible. Returns 0 when it is complete, else what to wait for: select.EPOLLIN or EPOLLOUT.

        Raises TlsFailed; the other side has been told by an alert where that is possible.
        """
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            return select.EPOLLIN
        except SSL.WantWriteError:
            return select.EPOLLOUT
        except SSL.Error as error:
            raise TlsFailed(self._why(error)) from error
        self._established = True
        self._begin_reading()
        if self._connection.get_app_data().foreign_protocol:
            raise TlsFailed("the client wants to speak another protocol (ALPN)")
        return 0

    def _why(self, error: SSL.Error) -> str:
        if isinstance(error, SSL.SysCallError | SSL.ZeroReturnError):
            return "the connection was closed during the TLS handshake"
        verdict = self._connection.get_app_data().verify_error
        if verdict:
            return f"certificate verify failed: {verdict}"
        reason = reason_of(error)
        return f"the other side does not accept our certificate ({reason})" if _NOT_TRUSTED.search(reason) else reason

    def wait_handshake(self, deadline: float) -> None:
        """Make the handshake, until `deadline` (monotonic). Raises TlsFailed and TimeoutError."""
        while wanted := self.advance_handshake():
            self._wait_ready(wanted, deadline)

    # Reading.

    def _begin_reading(self) -> None:
        """The handshake is complete. What the other side has sent behind it is still in the kernel."""

    def recv(self, size: int, flags: int = 0) -> bytes:
        """What has come, up to `size` bytes; b"" at the end. Raises BlockingIOError and OSError. A caller that waits by a
        poller asks for at least `RECORD` bytes (see the module)."""
        try:
            data = self._connection.recv(min(size, RECORD))
        except SSL.Error as error:
            wanted = self._reason_to_wait(error)
        else:
            return self._more(data, size) if len(data) >= _FULL and size > RECORD else data
        return self._recv_later(wanted, size, flags)

    def _recv_later(self, wanted: int, size: int, flags: int) -> bytes:
        """Nothing has come yet, or ever will (`wanted` is 0)."""
        if wanted == select.EPOLLOUT:
            self._mind_stuck()
        if wanted and flags & DONT_WAIT:
            raise BlockingIOError(errno.EAGAIN, "nothing has come")
        deadline = self._deadline()
        while wanted:
            self._wait_ready(wanted, deadline)
            try:
                return self._connection.recv(min(size, RECORD))
            except SSL.Error as error:
                wanted = self._reason_to_wait(error)
        return b""

    def _more(self, data: bytes, size: int) -> bytes:
        """The records behind a full one, as far as they have come: one event then moves more than one of them."""
        pieces = [data]
        total = len(data)
        while total + RECORD <= size and len(pieces[-1]) >= _FULL:
            try:
                piece = self._connection.recv(RECORD)
            except SSL.WantReadError:
                break
            except SSL.Error:
                self._announce_end()
                break
            pieces.append(piece)
            total += len(piece)
        return b"".join(pieces)

    def _announce_end(self) -> None:
        """What ended the connection has been read from the kernel, so the poller would stay silent about it: have it
        report an end of the data, whereupon the next `recv` finds out again."""
        try:
            self._plain.shutdown(socket.SHUT_RD)
        except OSError:
            pass

    def _reason_to_wait(self, error: SSL.Error) -> int:
        """What to wait for before the next try, 0 at the end of the data. Raises OSError if there is no next try."""
        match error:
            case SSL.WantReadError():
                return select.EPOLLIN
            case SSL.WantWriteError():
                return select.EPOLLOUT
            case SSL.ZeroReturnError():
                return 0
            case SSL.SysCallError(args=(-1, *_)):
                return 0  # closed without a farewell: every message of PostgreSQL's says how long it is, so nothing is lost
            case SSL.SysCallError(args=(int(number), *_)):
                raise OSError(number, "the TLS connection was lost")
            case SSL.Error(args=([],)):
                return 0  # what was wrong has been said before; later OpenSSLs say it once
        self._announce_end()  # OpenSSL does not say it twice
        raise ConnectionResetError(errno.ECONNRESET, f"the TLS connection is broken: {reason_of(error)}")

    # Writing.

    def send(self, data: bytes | bytearray | memoryview, flags: int = 0) -> int:
        """Send as much as is taken. Raises BlockingIOError if that is nothing, and OSError."""
        sent = 0
        with memoryview(data) as view:
            total = len(view)
            while sent < total:
                try:
                    with view[sent:] as rest:
                        sent += self._connection.send(rest)
                except SSL.Error as error:
                    if sent:
                        return sent  # if it is an end, the next call says so
                    wanted = self._reason_to_wait(error)
                    self._wait_to_send(wanted, flags)
        return sent

    def _wait_to_send(self, wanted: int, flags: int) -> None:
        if not wanted:
            raise BrokenPipeError(errno.EPIPE, "the TLS connection is closed")
        if flags & DONT_WAIT:
            raise BlockingIOError(errno.EAGAIN, "nothing is taken")
        self._wait_ready(wanted, self._deadline())

    def sendall(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of it. Raises TimeoutError and OSError."""
        sent = 0
        with memoryview(data) as view:
            while sent < len(view):
                with view[sent:] as rest:
                    sent += self.send(rest)

    # Waiting.

    def _deadline(self) -> float:
        return float("inf") if self._timeout is None else monotonic() + self._timeout

    def _mind_stuck(self) -> None:
        """To read on, TLS has to answer first (a key update), and the peer takes nothing. What it sends keeps the socket
        readable meanwhile, so the poller would have us spin for good."""
        now = monotonic()
        if now - self._stuck_at > 2 * _PATIENCE:
            self._stuck_since = now  # the last time is long over
        self._stuck_at = now
        if now - self._stuck_since > _PATIENCE:
            raise ConnectionResetError(errno.ECONNRESET, "the peer does not read what TLS has to say")

    def _wait_ready(self, wanted: int, deadline: float) -> None:
        remaining = deadline - monotonic()
        poll = select.poll()
        poll.register(self._plain, select.POLLIN if wanted == select.EPOLLIN else select.POLLOUT)
        if remaining <= 0 or not poll.poll(None if remaining == float("inf") else remaining * 1000):
            raise TimeoutError("timed out")

    # The end.

    def close(self) -> None:
        """Say goodbye if that is possible at once, and close."""
        self._say_goodbye()
        close_quietly(self._plain)

    def part(self) -> socket.socket:
        """Say goodbye if that is possible at once. What is left is the plain socket, which is the caller's."""
        self._say_goodbye()
        return self._plain

    def _say_goodbye(self) -> None:
        if self._established:
            self._established = False
            try:
                self._connection.shutdown()
            except (SSL.Error, OSError):
                pass


class _Scratch(threading.local):
    """Where OpenSSL puts what it decrypts, one place for each thread: for OpenSSL a pointer, for us memory whose slices are
    bytes (a slice costs half of what cffi's own ways to copy do)."""

    def __init__(self) -> None:
        memory = mmap.mmap(-1, RECORD)
        self.both = (_ffi.from_buffer(memory), memory)


_scratch: Any = None if _lib is None else _Scratch()
_read: Any = getattr(_lib, "SSL_read", None)
_write: Any = getattr(_lib, "SSL_write", None)


class FastTlsSocket(TlsSocket):
    """The same with two shortcuts past pyOpenSSL, for what is hot."""

    __slots__ = ()

    def recv(self, size: int, flags: int = 0) -> bytes:
        pointer, memory = _scratch.both
        count = _read(self._ssl, pointer, RECORD if size > RECORD else size)
        if count > 0:
            if count >= _FULL and size > RECORD:
                return self._more(memory[:count], size)
            data: bytes = memory[:count]
            return data
        return self._recv_later(self._why_not(count), size, flags)

    def send(self, data: bytes | bytearray | memoryview, flags: int = 0) -> int:
        size = len(data)
        if size > RECORD or not size or type(data) is not bytes:
            return super().send(data, flags)
        count: int = _write(self._ssl, data, size)
        if count > 0:
            return count
        self._wait_to_send(self._why_not(count), flags)
        return super().send(data, flags)

    def _why_not(self, count: int) -> int:
        """What a call that returned `count` waits for; as `_reason_to_wait`. At once: OpenSSL forgets it."""
        try:
            self._connection._raise_ssl_error(self._ssl, count)  # noqa: SLF001 - see the import
        except SSL.Error as error:
            return self._reason_to_wait(error)
        return select.EPOLLIN


_ahead = None if _lib is None else libssl.reading_ahead()
_has_pending: Any = None if _ahead is None else _ahead[0]
_set_read_ahead: Any = None if _ahead is None else _ahead[1]


class AheadTlsSocket(FastTlsSocket):
    """The same, reading whatever has come with one system call."""

    __slots__ = ()

    def _begin_reading(self) -> None:
        # Not before: what comes behind a handshake would be inside then, and no poller would tell.
        _set_read_ahead(self._ssl, 1)

    def recv(self, size: int, flags: int = 0) -> bytes:
        pointer, memory = _scratch.both
        ssl = self._ssl
        count = _read(ssl, pointer, RECORD if size > RECORD else size)
        if count > 0:
            data: bytes = memory[:count]
        else:
            data = self._recv_later(self._why_not(count), size, flags)
            if not data:
                return data
        if _has_pending(ssl) or (count >= _FULL and size > RECORD):
            return self._more(data, size) if size >= RECORD else data
        return data

    def _more(self, data: bytes, size: int) -> bytes:
        """As of the others, and everything that is inside already: two records beyond `size` at most."""
        pointer, memory = _scratch.both
        ssl = self._ssl
        pieces = [data]
        total = len(data)
        ahead = True
        while (pending := _has_pending(ssl)) or (len(pieces[-1]) >= _FULL and total + RECORD <= size):
            if ahead and total + RECORD > size:
                if not pending:
                    break
                ahead = False
                _set_read_ahead(ssl, 0)  # who sends faster than we read would keep us here
            count = _read(ssl, pointer, RECORD)
            if count <= 0:
                if not self._may_go_on(count):
                    self._announce_end()
                break
            pieces.append(memory[:count])
            total += count
        if not ahead:
            _set_read_ahead(ssl, 1)
        return b"".join(pieces)

    def _may_go_on(self, count: int) -> bool:
        """Whether a call that returned `count` found nothing more for now; False at the end or if the connection is broken."""
        try:
            return self._why_not(count) == select.EPOLLIN
        except OSError:
            return False


def tls_socket(connection: SSL.Connection, plain: socket.socket) -> TlsSocket:
    """The fastest kind that this pyOpenSSL and this OpenSSL have what it takes for."""
    kind = TlsSocket if _lib is None else FastTlsSocket if _ahead is None else AheadTlsSocket
    return kind(connection, plain)


bind_constants(__name__)
