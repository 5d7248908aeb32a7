"""How servers are asked for TLS: one connector for each way, new ones when files change, none that cannot be used."""

import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import monotonic

import pytest

from pgdoorman.config.settings import ServerTlsMode, ServerTlsSettings, TlsFiles
from pgdoorman.errors import BackendUnavailable, ConfigError, ProtocolViolation
from pgdoorman.protocol.startup import ssl_request
from pgdoorman.transport.connect import Address
from pgdoorman.transport.tls_connect import Connectors, TlsConnector, TlsRejected, _server_name
from tests.support.certificates import Authority

ADDRESS = Address("db.example", 5432)
REQUIRE = ServerTlsSettings(ServerTlsMode.REQUIRE, TlsFiles())


def test_none_where_none_is_wanted() -> None:
    assert Connectors().find(ServerTlsSettings(ServerTlsMode.DISABLE, TlsFiles())) is None


def test_one_for_each_way(authority: Authority, tmp_path: Path) -> None:
    ca = authority.write(tmp_path, "ca")
    verify = ServerTlsSettings(ServerTlsMode.VERIFY_CA, TlsFiles(ca_cert=ca))
    connectors = Connectors()
    one = connectors.find(verify)
    assert one is connectors.find(replace(verify))
    assert one is not connectors.find(REQUIRE)


def test_openssl_is_not_needed_before_a_server_is_asked() -> None:
    connector = Connectors().find(REQUIRE)
    assert connector is not None
    assert connector._context is None
    assert connector.insists


def test_files_that_change(authority: Authority, tmp_path: Path) -> None:
    ca = authority.write(tmp_path, "ca")
    verify = ServerTlsSettings(ServerTlsMode.VERIFY_CA, TlsFiles(ca_cert=ca))
    connectors = Connectors()
    assert connectors.adopt(connectors.prepare([verify, REQUIRE])) == frozenset()
    before = connectors.find(verify)
    assert connectors.adopt(connectors.prepare([verify, REQUIRE])) == frozenset()
    assert connectors.find(verify) is before
    Authority("Another").write(tmp_path, "ca")
    prepared = connectors.prepare([verify, REQUIRE])
    assert connectors.find(verify) is before, "prepared is not yet adopted"
    assert connectors.adopt(prepared) == {verify}
    assert connectors.find(verify) is not before
    ca.write_text("rubbish")
    with pytest.raises(ConfigError, match="holds no certificate") as refused:
        connectors.prepare([REQUIRE, verify])
    assert refused.value.key == "server_tls_ca_cert"
    assert connectors.find(verify) is not None


@pytest.mark.parametrize(
    ("host", "name"),
    [("db.example", "db.example"), ("db.example.", "db.example"), ("10.0.0.1", ""), ("::1", ""), ("fe80::1%eth0", "")],
)
def test_the_name_that_is_sent_along(host: str, name: str) -> None:
    assert _server_name(host) == name


def ask(
    answer: bytes,
    *,
    insist: bool = True,
    mode: ServerTlsMode = ServerTlsMode.REQUIRE,
    then: Callable[[socket.socket], None] | None = None,
) -> object:
    """What a connector makes of a server's answer."""
    ours, theirs = socket.socketpair()
    connector = Connectors().find(ServerTlsSettings(mode, TlsFiles()))
    assert connector is not None

    def serve() -> None:
        assert theirs.recv(100) == ssl_request()
        theirs.sendall(answer)
        if then is not None:
            then(theirs)

    with ours, theirs:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            return connector.wait_secured(ours, ADDRESS, monotonic() + 5.0, insist=insist)
        finally:
            thread.join()


def test_a_server_without_tls() -> None:
    assert ask(b"N", insist=False, mode=ServerTlsMode.PREFER) is None
    with pytest.raises(TlsRejected, match=r"db\.example:5432 has no TLS, which server_tls_mode = require asks for"):
        ask(b"N")


@pytest.mark.parametrize("answer", [b"E", b"X", b"\0", b"s"])
def test_answers_that_are_none(answer: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="does not answer the request for TLS"):
        ask(answer, insist=False)


@pytest.mark.parametrize("early", [b"\0", b"\x16\x03\x03", b"R\0\0\0\x08\0\0\0\0"])
def test_bytes_behind_the_answer(early: bytes) -> None:
    """CVE-2021-23222: they were sent by somebody who could not wait, or who is not the server."""
    with pytest.raises(ProtocolViolation, match="received unencrypted data"):
        ask(b"S" + early)


def hear_and_leave(sock: socket.socket) -> None:
    sock.recv(1)
    sock.shutdown(socket.SHUT_RDWR)


def test_a_server_that_leaves() -> None:
    with pytest.raises(BackendUnavailable, match="closed the connection when it was asked"):
        ask(b"", then=lambda sock: sock.shutdown(socket.SHUT_RDWR))
    with pytest.raises(TlsRejected, match="closed during the TLS handshake"):
        ask(b"S", then=hear_and_leave)


def test_a_silent_server() -> None:
    ours, theirs = socket.socketpair()
    connector = TlsConnector(REQUIRE, Connectors().prepare([REQUIRE])[REQUIRE].material)
    with ours, theirs, pytest.raises(TimeoutError):
        connector.wait_secured(ours, ADDRESS, monotonic() + 0.05, insist=True)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"S")
        with pytest.raises(TimeoutError):
            connector.wait_secured(ours, ADDRESS, monotonic() + 0.3, insist=True)
