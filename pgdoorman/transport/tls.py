"""What the connections of one side have in common: versions, ciphers, certificates, and whom to trust.

This module, `tls_socket` and `certificates` are the home of OpenSSL.
"""

import socket
from tempfile import NamedTemporaryFile
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_der_private_key
from OpenSSL import SSL, crypto

from pgdoorman.errors import ConfigError
from pgdoorman.transport import libssl
from pgdoorman.transport.certificates import TlsMaterial
from pgdoorman.transport.tls_socket import Notes, TlsSocket, reason_of, tls_socket

ALPN: Final = b"postgresql"
"""The name of our protocol (RFC 7301); PostgreSQL 17 requires it of clients that begin with TLS at once."""

_VERSIONS: Final = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}


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
        # No tickets: a session that can be resumed is a key that lives on. (TLS 1.3 sends two all the same where their
        # number cannot be set; with the cache off nobody can use them.)
        context.set_options(
            SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_CIPHER_SERVER_PREFERENCE
        )
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_session_id(b"pgdoorman")
        if server:
            libssl.set_num_tickets(context, 0)
        # Buffers only while there is something in them: an idle connection has none, which is 34 kB less.
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        self._choose_ciphers(context)
        self._agree(context)
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

    def _agree(self, context: SSL.Context) -> None:
        """What keys are agreed on with."""
        groups = self.material.groups
        if groups:
            try:
                taken = libssl.set_groups(context, groups)
            except libssl.Unreachable:
                reason = "cannot be set here: cryptography was not built against the system's OpenSSL"
                raise ConfigError(reason, key=self._key("tls_groups")) from None
            if not taken:
                raise ConfigError(f"OpenSSL does not take {groups!r}", key=self._key("tls_groups"))
        if self.material.dh_params:
            with NamedTemporaryFile() as file:  # pyOpenSSL reads files only; this is the text that has been judged
                file.write(self.material.dh_params)
                file.flush()
                try:
                    context.load_tmp_dh(file.name)
                except SSL.Error as error:
                    key = self._key("tls_dh_params")
                    raise ConfigError(f"OpenSSL does not take it: {reason_of(error)}", key=key) from error

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
                f"OpenSSL does not take it: {reason_of(error)}", key=self._key("tls_certificate")
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
            raise ConfigError(f"OpenSSL does not take it: {reason_of(error)}", key=self._key("tls_ca_cert")) from error
        if self.material.revocations:
            store.set_flags(crypto.X509StoreFlags.CRL_CHECK | crypto.X509StoreFlags.CRL_CHECK_ALL)

    def _key(self, name: str) -> str:
        return name if self._server else f"server_{name}"

    def wrap(self, sock: socket.socket, server_name: str = "") -> "TlsSocket":
        """A TLS socket over a connected one, which belongs to it from now on; the handshake is still to be made. For a
        client `server_name` is the name of the host that is wanted (SNI), empty for none."""
        sock.setblocking(False)
        connection = SSL.Connection(self._context, sock)
        connection.set_app_data(Notes())
        if self._server:
            connection.set_accept_state()
        else:
            connection.set_connect_state()
            connection.set_alpn_protos([ALPN])
            if server_name.isascii() and server_name:
                connection.set_tlsext_host_name(server_name.encode())
        return tls_socket(connection, sock)


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
