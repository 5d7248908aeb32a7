"""How clients get TLS: what the settings open, what a reload changes, what a handshake has brought."""

import logging
import socket
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from time import monotonic

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519

from pgdoorman.config.settings import ClientTlsSettings, TlsFiles, TlsMode
from pgdoorman.errors import ConfigError
from pgdoorman.transport.certificates import read_material
from pgdoorman.transport.handshake_rate import HandshakeRate
from pgdoorman.transport.tls import TlsContext
from pgdoorman.transport.tls_accept import open_tls_door
from tests.support.certificates import Authority, Pair, self_signed, subject

DAY = timedelta(days=1)


@pytest.fixture
def settings(authority: Authority, tmp_path: Path) -> ClientTlsSettings:
    certificate, key = authority.issue().write(tmp_path, "server")
    return ClientTlsSettings(TlsMode.ALLOW, TlsFiles(certificate=certificate, private_key=key))


def test_a_door_that_stays_shut(settings: ClientTlsSettings) -> None:
    assert open_tls_door(replace(settings, mode=TlsMode.DISABLE)) is None
    assert open_tls_door(ClientTlsSettings(TlsMode.ALLOW, TlsFiles())) is None


def test_what_a_reload_changes(settings: ClientTlsSettings, authority: Authority, tmp_path: Path) -> None:
    door = open_tls_door(settings)
    assert door is not None
    assert open_tls_door(settings, door) is door
    stricter = open_tls_door(replace(settings, mode=TlsMode.REQUIRE), door)
    assert stricter is not None
    assert (door.is_needed, stricter.is_needed) == (False, True)
    authority.issue().write(tmp_path, "server")
    renewed = open_tls_door(settings, door)
    assert renewed is not None
    assert renewed.material != door.material
    (tmp_path / "server.key").write_text("rubbish")
    with pytest.raises(ConfigError, match="holds no private key"):
        open_tls_door(settings, renewed)


def test_an_expired_certificate(authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Better than none; but somebody should know."""
    certificate, key = authority.issue(begins=-3 * DAY, ends=-DAY).write(tmp_path, "old")
    with caplog.at_level(logging.WARNING):
        assert open_tls_door(ClientTlsSettings(TlsMode.ALLOW, TlsFiles(certificate=certificate, private_key=key)))
    assert "has expired" in caplog.text


def test_what_a_handshake_brings(settings: ClientTlsSettings, authority: Authority, tmp_path: Path) -> None:
    files = replace(settings.files, ca_cert=authority.write(tmp_path, "ca"))
    door = open_tls_door(ClientTlsSettings(TlsMode.VERIFY_FULL, files))
    assert door is not None
    certificate, key = authority.issue(subject("alice", unit="People"), for_clients=True).write(tmp_path, "alice")
    client = TlsContext(
        read_material(TlsFiles(certificate=certificate, private_key=key)), server=False, verify=False
    )  # fmt: skip
    left, right = socket.socketpair()
    one, other = door.begin(left), client.wrap(right)
    thread = threading.Thread(target=other.wait_handshake, args=(monotonic() + 10,))
    thread.start()
    one.wait_handshake(monotonic() + 10)
    thread.join()
    brought = door.complete(one, direct=True)
    assert brought.names == ("alice", "CN=alice,OU=People")
    assert set(brought.bindings) == {"tls-server-end-point", "tls-exporter"}
    assert brought.bindings["tls-exporter"] == other.exported_binding()
    assert str(brought.bindings["tls-exporter"]) not in repr(brought)
    one.close()
    other.close()


def test_a_certificate_without_an_end_point(tmp_path: Path) -> None:
    """libpq takes an offer of channel binding and knows no other type: it would fail."""
    sample = self_signed().certificate
    key = ed25519.Ed25519PrivateKey.generate()
    builder = (
        x509.CertificateBuilder().subject_name(sample.subject).issuer_name(sample.subject).serial_number(1)
        .not_valid_before(sample.not_valid_before_utc).not_valid_after(sample.not_valid_after_utc)
        .public_key(key.public_key())
    )  # fmt: skip
    certificate, path = Pair(builder.sign(key, None), key).write(tmp_path, "edwards")
    door = open_tls_door(ClientTlsSettings(TlsMode.ALLOW, TlsFiles(certificate=certificate, private_key=path)))
    assert door is not None
    left, right = socket.socketpair()
    one = door.begin(left)
    other = TlsContext(read_material(TlsFiles()), server=False, verify=False).wrap(right)
    while one.advance_handshake():
        other.advance_handshake()
    assert dict(door.complete(one, direct=True).bindings) == {}
    one.close()
    other.close()


def test_no_limit() -> None:
    rate = HandshakeRate()
    assert [rate.delay() for _ in range(100)] == [0.0] * 100


def test_a_limit() -> None:
    rate = HandshakeRate(100)
    delays = [rate.delay() for _ in range(50)]
    assert delays[0] == 0.0
    assert delays == sorted(delays)
    assert 0.3 < delays[-1] < 0.6, "each has its turn, a hundredth of a second after the one before"
