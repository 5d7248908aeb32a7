"""Encrypted sockets: the one module that knows OpenSSL.

A `TlsSocket` has a socket's methods with a socket's meaning, so that whoever reads and writes need not know which of the
two it has, and a plain socket pays nothing. It is used in socket mode: OpenSSL itself reads and writes the descriptor,
which is not blocking (memory BIOs cost 40 % more per message).

OpenSSL reads one record at a time here and never ahead. So after a `recv` of at least `RECORD` bytes nothing that has been
decrypted is left inside, the rest is still in the kernel, and the poller, which is level-triggered, says so.
"""

import errno
import select
import socket
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_der_private_key
from OpenSSL import SSL, crypto

from pgdoorman.errors import ConfigError, PgDoormanError
from pgdoorman.transport.certificates import TlsMaterial
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

ALPN: Final = b"postgresql"
"""The name of our protocol (RFC 7301); PostgreSQL 17 requires it of clients that begin with TLS at once."""

# PostgreSQL and most drivers write 8 kB or 16 kB at a time: after a record of that size there is likely another one.
_FULL: Final = 8192
# How long a peer may go without taking what TLS itself has to answer (a key update) while it goes on sending.
_PATIENCE: Final = 5.0

_VERSIONS: Final = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}
_EXPORTER: Final = b"EXPORTER-Channel-Binding"


class TlsFailed(PgDoormanError):
    """A handshake came to nothing. The text says why, for the log."""

    sqlstate = "08P01"


class _Notes:
    """What callbacks of OpenSSL have to say of one connection."""

    __slots__ = ("foreign_protocol", "verify_error")

    def __init__(self) -> None:
        self.verify_error = ""
        self.foreign_protocol = False


# Contexts.


class TlsContext:
    """What all connections of one side have in common. Immutable; a reload makes a new one."""

    def __init__(self, material: TlsMaterial, *, server: bool, verify: bool, needs_certificate: bool = False) -> None:
        """Raises ConfigError for what OpenSSL does not take. `server` means that we answer handshakes; `verify` that the
        other side's certificate is judged, `needs_certificate` that it must show one."""
        self.material = material
        self._server = server
        context = self._context = SSL.Context(SSL.TLS_SERVER_METHOD if server else SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(_VERSIONS[material.minimum or "1.2"])
        if material.maximum:
            context.set_max_proto_version(_VERSIONS[material.maximum])
        # No tickets: a session that can be resumed is a key that lives on. (TLS 1.3 sends some all the same, and with
        # the cache off nobody can use them; the number cannot be set through pyOpenSSL.)
        context.set_options(
            SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_CIPHER_SERVER_PREFERENCE
        )
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_session_id(b"pgdoorman")
        # Buffers only while there is something in them: an idle connection has none, which is 34 kB less.
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        self._choose_ciphers(context)
        self._present(context)
        if verify:
            self._trust(context)
        flags = SSL.VERIFY_PEER if verify else SSL.VERIFY_NONE
        context.set_verify(flags | (SSL.VERIFY_FAIL_IF_NO_PEER_CERT if needs_certificate else 0), _note_verdict)
        context.set_verify_depth(10)
        if server:
            context.set_alpn_select_callback(_select_protocol)

    def _choose_ciphers(self, context: SSL.Context) -> None:
        material = self.material
        for text, key, choose in (
            (material.ciphers, "tls_ciphers", context.set_cipher_list),
            (material.cipher_suites, "tls_cipher_suites", context.set_tls13_ciphersuites),
        ):
            if text:
                try:
                    choose(text.encode())
                except SSL.Error as error:
                    raise ConfigError(f"OpenSSL does not take {text!r}", key=self._key(key)) from error

    def _present(self, context: SSL.Context) -> None:
        chain = [x509.load_der_x509_certificate(one) for one in self.material.chain]
        if not chain:
            return
        try:
            context.use_certificate(chain[0])
            key: Any = load_der_private_key(self.material.key, None)
            context.use_privatekey(key)
            context.check_privatekey()
            for certificate in chain[1:]:
                context.add_extra_chain_cert(certificate)
        except (SSL.Error, TypeError) as error:
            raise ConfigError(
                f"OpenSSL does not take it: {_reason_of(error)}", key=self._key("tls_certificate")
            ) from error

    def _trust(self, context: SSL.Context) -> None:
        store = context.get_cert_store()
        assert store is not None
        try:
            for one in self.material.authorities:
                certificate = x509.load_der_x509_certificate(one)
                store.add_cert(crypto.X509.from_cryptography(certificate))
                if self._server:
                    context.add_client_ca(certificate)
            for one in self.material.revocations:
                store.add_crl(x509.load_der_x509_crl(one))
        except (SSL.Error, crypto.Error, TypeError) as error:
            raise ConfigError(f"OpenSSL does not take it: {_reason_of(error)}", key=self._key("tls_ca_cert")) from error
        if self.material.revocations:
            store.set_flags(crypto.X509StoreFlags.CRL_CHECK | crypto.X509StoreFlags.CRL_CHECK_ALL)

    def _key(self, name: str) -> str:
        return name if self._server else f"server_{name}"

    def wrap(self, sock: socket.socket, server_name: str = "") -> "TlsSocket":
        """A TLS socket over a connected one, which belongs to it from now on; the handshake is still to be made. For a
        client `server_name` is the name of the host that is wanted (SNI), empty for none."""
        sock.setblocking(False)
        connection = SSL.Connection(self._context, sock)
        connection.set_app_data(_Notes())
        if self._server:
            connection.set_accept_state()
        else:
            connection.set_connect_state()
            connection.set_alpn_protos([ALPN])
            if server_name.isascii() and server_name:
                connection.set_tlsext_host_name(server_name.encode())
        return (TlsSocket if _lib is None else FastTlsSocket)(connection, sock)


def _select_protocol(connection: SSL.Connection, offered: list[bytes]) -> Any:
    """Which protocol a client that names some is given. One that does not name ours is refused after the handshake: an
    exception raised here would be thrown by pyOpenSSL into whichever connection of this context comes next."""
    if ALPN in offered:
        return ALPN
    connection.get_app_data().foreign_protocol = True
    return SSL.NO_OVERLAPPING_PROTOCOLS


def _note_verdict(connection: SSL.Connection, _certificate: Any, code: int, _depth: int, ok: int) -> bool:
    """OpenSSL's verdict, kept for the log: the handshake itself says only that it failed."""
    if not ok:
        connection.get_app_data().verify_error = _VERDICTS.get(code, f"verification error {code}")
    return bool(ok)


_VERDICTS: Final = {
    3: "its issuer has no revocation list",
    7: "its signature is wrong",
    9: "it is not yet valid",
    10: "it has expired",
    12: "the revocation list of its issuer has expired",
    18: "it is signed by itself and not trusted",
    19: "the authority at the end of its chain is not trusted",
    20: "its issuer is not known",
    21: "its issuer is not known",
    22: "its chain is too long",
    23: "it has been revoked",
    24: "its issuer is no authority",
    26: "it is not for this purpose",
    66: "its key is too small",
    68: "the digest of its signature is too weak",
}


def _reason_of(error: BaseException) -> str:
    """OpenSSL's own words."""
    stack = error.args[0] if error.args else ""
    if isinstance(stack, list) and stack:
        return ", ".join(str(entry[-1]) for entry in stack if entry[-1])
    return str(error) or type(error).__name__


# Sockets.


class _Scratch(threading.local):
    """Where OpenSSL puts what it decrypts: one buffer for each thread."""

    def __init__(self) -> None:
        self.buffer = _ffi.new("char[]", RECORD)


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
        if self._connection.get_app_data().foreign_protocol:
            raise TlsFailed("the client wants to speak another protocol (ALPN)")
        return 0

    def _why(self, error: SSL.Error) -> str:
        if isinstance(error, SSL.SysCallError | SSL.ZeroReturnError):
            return "the connection was closed during the TLS handshake"
        verdict = self._connection.get_app_data().verify_error
        return f"certificate verify failed: {verdict}" if verdict else _reason_of(error)

    def wait_handshake(self, deadline: float) -> None:
        """Make the handshake, until `deadline` (monotonic). Raises TlsFailed and TimeoutError."""
        while wanted := self.advance_handshake():
            self._wait_ready(wanted, deadline)

    # Reading.

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
        self._announce_end()  # OpenSSL does not say it twice
        raise ConnectionResetError(errno.ECONNRESET, f"the TLS connection is broken: {_reason_of(error)}")

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
        if self._established:
            self._established = False
            try:
                self._connection.shutdown()
            except (SSL.Error, OSError):
                pass
        close_quietly(self._plain)


class FastTlsSocket(TlsSocket):
    """The same with two shortcuts past pyOpenSSL, for what is hot: 5.4 us for a send and a recv instead of 8.9 us."""

    __slots__ = ()

    def recv(self, size: int, flags: int = 0) -> bytes:
        buffer = _scratch.buffer
        count = _read(self._ssl, buffer, RECORD if size > RECORD else size)
        if count > 0:
            data: bytes = _view(buffer, count)[:]
            if count >= _FULL and size > RECORD:
                return self._more(data, size)
            return data
        return self._recv_later(self._why_not(count), size, flags)

    def send(self, data: bytes | bytearray | memoryview, flags: int = 0) -> int:
        if type(data) is not bytes or not 0 < len(data) <= RECORD:
            return super().send(data, flags)
        count = _write(self._ssl, data, len(data))
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


_scratch: Any = None if _lib is None else _Scratch()
_read: Callable[[Any, Any, int], int] = getattr(_lib, "SSL_read", None)  # type: ignore[assignment]
_write: Callable[[Any, Any, int], int] = getattr(_lib, "SSL_write", None)  # type: ignore[assignment]
_view: Callable[[Any, int], Any] = getattr(_ffi, "buffer", None)  # type: ignore[assignment]
