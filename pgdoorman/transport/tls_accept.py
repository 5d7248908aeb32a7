"""TLS towards clients: from the settings to handshakes that a poller drives."""

import logging
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from pgdoorman.config.settings import ClientTlsSettings
from pgdoorman.transport.certificates import (
    TlsMaterial,
    common_name,
    distinguished_name,
    end_point_binding,
    read_material,
)
from pgdoorman.transport.tls import ALPN, TlsContext
from pgdoorman.transport.tls_socket import TlsFailed, TlsSocket

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ClientHandshake:
    """What a handshake with a client has brought: its socket, what to call it, channel binding data by type, and the
    names in its certificate (None if it showed none; what it showed was verified)."""

    sock: TlsSocket
    description: str
    bindings: Mapping[str, bytes] = field(repr=False)
    names: tuple[str, str] | None


class TlsDoor:
    """How clients get TLS. Immutable; a reload puts another one in its place, and handshakes under way go on."""

    def __init__(self, settings: ClientTlsSettings, material: TlsMaterial) -> None:
        """Raises ConfigError for what OpenSSL does not take."""
        self.settings = settings
        self.material = material
        self.is_needed = settings.mode.is_needed
        self._context = TlsContext(
            material,
            server=True,
            verify=bool(material.authorities),
            needs_certificate=settings.mode.wants_certificates,
        )
        self._end_point = end_point_binding(material.chain[0])

    def begin(self, sock: socket.socket) -> TlsSocket:
        """A handshake with the client of this socket; nothing may have been read from it beyond its request."""
        return self._context.wrap(sock)

    def complete(self, sock: TlsSocket, *, direct: bool) -> ClientHandshake:
        """What the handshake has brought. Raises TlsFailed if a client that began with TLS at once (`direct`) did not say
        which protocol it means: it may be a browser that somebody has lured here (the ALPACA attacks)."""
        if direct and sock.protocol != ALPN:
            raise TlsFailed("direct TLS without the protocol negotiation (ALPN) that it requires")
        bindings: dict[str, bytes] = {}
        if self._end_point:
            # Without it nothing is offered: libpq knows no other type, and would take the offer and fail.
            bindings = {"tls-server-end-point": self._end_point, "tls-exporter": sock.exported_binding()}
        certificate = sock.peer_certificate() if self.material.authorities else None
        return ClientHandshake(
            sock,
            sock.description,
            MappingProxyType({name: data for name, data in bindings.items() if data}),
            None if certificate is None else (common_name(certificate), distinguished_name(certificate)),
        )


def open_tls_door(settings: ClientTlsSettings, present: TlsDoor | None = None) -> TlsDoor | None:
    """The door that the settings mean, None if clients get no TLS. It is `present` again if nothing has changed, in the
    settings or in the files.

    Raises ConfigError for files that cannot be used; `present` then stays in force.
    """
    if not settings.is_on:
        return None
    material = read_material(settings.files)
    if present is not None and present.material == material and present.settings == settings:
        return present
    door = TlsDoor(settings, material)
    if material.is_expired():
        log.warning("tls_certificate %s has expired (%s)", settings.files.certificate, material.expires())
    return door
