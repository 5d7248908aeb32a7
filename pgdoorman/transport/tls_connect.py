"""TLS towards PostgreSQL (protocol, "SSL Session Encryption"): asked for on a connected socket, on a helper thread."""

import socket
from collections.abc import Iterable, Mapping
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING

from pgdoorman.config.settings import ServerTlsMode, ServerTlsSettings, TlsFiles
from pgdoorman.errors import BackendUnavailable, ProtocolViolation
from pgdoorman.protocol.startup import ssl_request
from pgdoorman.transport.certificates import TlsMaterial, end_point_binding, host_mismatch, read_material
from pgdoorman.transport.connect import Address

if TYPE_CHECKING:
    from pgdoorman.transport.tls import TlsContext
    from pgdoorman.transport.tls_socket import TlsSocket

_VERIFYING = (ServerTlsMode.VERIFY_CA, ServerTlsMode.VERIFY_FULL)
_INSISTING = (ServerTlsMode.REQUIRE, *_VERIFYING)


class TlsRejected(BackendUnavailable):
    """The server, or its certificate, was not what the settings ask for."""


class TlsConnector:
    """How we ask one PostgreSQL for TLS. Immutable; a reload puts another one in its place."""

    def __init__(self, settings: ServerTlsSettings, material: TlsMaterial) -> None:
        """Raises ConfigError for what OpenSSL does not take."""
        self.mode = settings.mode
        self.material = material
        self._lock = Lock()
        self._context: TlsContext | None = None
        if settings.files != TlsFiles():
            # With the defaults nothing can be wrong, and OpenSSL is loaded only when a server is first asked.
            self._made()

    @property
    def insists(self) -> bool:
        """Whether a connection without TLS is out of the question."""
        return self.mode in _INSISTING

    def _made(self) -> "TlsContext":
        from pgdoorman.transport.tls import TlsContext  # noqa: PLC0415 - heavy, and most houses never need it

        with self._lock:
            if self._context is None:
                self._context = TlsContext(self.material, server=False, verify=self.mode in _VERIFYING)
            return self._context

    def wait_secured(
        self, sock: socket.socket, address: Address, deadline: float, *, insist: bool
    ) -> "TlsSocket | None":
        """TLS over the connected `sock`, which belongs to the result; None if the server has none and `insist` is false.
        Then `sock` can be used as it is.

        Raises TlsRejected, BackendUnavailable, ProtocolViolation and TimeoutError (`deadline` is monotonic); `sock` is the
        caller's to close.
        """
        sock.settimeout(max(0.001, deadline - monotonic()))
        sock.sendall(ssl_request())
        answer = sock.recv(1)
        if answer == b"N":
            if insist:
                raise TlsRejected(f"the server at {address} has no TLS, which server_tls_mode = {self.mode} asks for")
            return None
        if not answer:
            raise BackendUnavailable(f"the server at {address} closed the connection when it was asked for TLS")
        if answer != b"S":
            # An error, perhaps; but nobody has proved that it is the server's, so its words are not passed on.
            raise ProtocolViolation(f"the server at {address} does not answer the request for TLS as PostgreSQL does")
        _refuse_early_bytes(sock, address)
        return self._wait_shaken(sock, address, deadline)

    def _wait_shaken(self, sock: socket.socket, address: Address, deadline: float) -> "TlsSocket":
        from pgdoorman.transport.tls_socket import TlsFailed  # noqa: PLC0415

        secured = self._made().wrap(sock, _server_name(address.host))
        try:
            secured.wait_handshake(deadline)
        except TlsFailed as error:
            raise TlsRejected(f"TLS with the server at {address} failed: {error}") from error
        if self.mode is ServerTlsMode.VERIFY_FULL:
            certificate = secured.peer_certificate()
            mismatch = (
                host_mismatch(certificate, address.host) if certificate is not None else "it shows no certificate"
            )
            if mismatch:
                raise TlsRejected(f"TLS with the server at {address} failed: {mismatch}")
        return secured


def bindings_of(sock: "TlsSocket") -> dict[str, bytes]:
    """Channel binding data of a connection to a server, by type."""
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415

    certificate = sock.peer_certificate()
    if certificate is None:
        return {}
    binding = end_point_binding(certificate.public_bytes(Encoding.DER))
    return {"tls-server-end-point": binding} if binding else {}


def _refuse_early_bytes(sock: socket.socket, address: Address) -> None:
    """A server says nothing between its answer and the handshake, so whoever does is somebody in between."""
    sock.setblocking(False)  # with a time limit even MSG_DONTWAIT would wait
    try:
        early = sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return
    if early:
        raise ProtocolViolation(f"received unencrypted data after the answer of the server at {address} to SSLRequest")


def _server_name(host: str) -> str:
    """The name for SNI: an address is none."""
    bare = host.partition("%")[0]
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, bare)
        except OSError:
            continue
        return ""
    return host.rstrip(".")


class Connectors:
    """The connectors of the house, one for each distinct way to ask for TLS. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._found: dict[ServerTlsSettings, TlsConnector] = {}

    def find(self, settings: ServerTlsSettings) -> TlsConnector | None:
        """The connector for these settings, None where TLS is not to be asked for. Raises ConfigError for settings that
        were not prepared and cannot be used."""
        if settings.mode is ServerTlsMode.DISABLE:
            return None
        with self._lock:
            connector = self._found.get(settings)
            if connector is None:
                connector = self._found[settings] = TlsConnector(settings, read_material(settings.files, "server_"))
            return connector

    def prepare(self, wanted: Iterable[ServerTlsSettings]) -> Mapping[ServerTlsSettings, TlsConnector]:
        """Read all files anew. What has not changed is what it was. Raises ConfigError; nothing has changed then."""
        prepared: dict[ServerTlsSettings, TlsConnector] = {}
        for settings in wanted:
            if settings.mode is ServerTlsMode.DISABLE or settings in prepared:
                continue
            material = read_material(settings.files, "server_")
            with self._lock:
                present = self._found.get(settings)
            if present is None or present.material != material:
                present = TlsConnector(settings, material)
            prepared[settings] = present
        return prepared

    def adopt(self, prepared: Mapping[ServerTlsSettings, TlsConnector]) -> frozenset[ServerTlsSettings]:
        """Use these from now on. Returns the settings whose files hold something else than before."""
        with self._lock:
            changed = frozenset(
                settings
                for settings, connector in prepared.items()
                if settings in self._found and self._found[settings] is not connector
            )
            self._found = dict(prepared)
        return changed
