"""Files of certificates: what is read, what is refused, and what can be said of a certificate."""

import hashlib
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID

from pgdoorman.config.settings import Secret, TlsFiles
from pgdoorman.errors import ConfigError
from pgdoorman.transport.certificates import (
    common_name,
    distinguished_name,
    end_point_binding,
    host_mismatch,
    read_material,
)
from tests.support.certificates import Authority, Pair, self_signed, subject


def files(pair: tuple[Path, Path], **others: Any) -> TlsFiles:
    return TlsFiles(certificate=pair[0], private_key=pair[1], **others)


def test_everything_is_read(authority: Authority, tmp_path: Path) -> None:
    between = Authority("Between", authority)
    pair = between.issue()
    revoked = tmp_path / "crl.pem"
    revoked.write_bytes(authority.revoke(pair) + between.revoke())
    ca = tmp_path / "both.crt"
    ca.write_bytes(authority.pair.certificate_pem() + between.pair.certificate_pem())
    wanted = files(pair.write(tmp_path, "server", between.pair), ca_cert=ca, crl=revoked)
    material = read_material(wanted)
    assert (len(material.chain), len(material.authorities), len(material.revocations)) == (2, 2, 2)
    assert material == read_material(wanted)
    assert not material.is_expired()
    pair.write(tmp_path, "server")
    assert read_material(wanted) != material


def test_a_passphrase(authority: Authority, tmp_path: Path) -> None:
    pair = authority.issue()
    paths = pair.write(tmp_path, "server", passphrase="open sesame")
    material = read_material(files(paths, passphrase=Secret("open sesame")))
    assert "open sesame" not in repr(material)
    assert str(material.key) not in repr(material)
    with pytest.raises(ConfigError, match="tls_private_key_passphrase is missing"):
        read_material(files(paths))
    with pytest.raises(ConfigError, match="wrong passphrase"):
        read_material(files(paths, passphrase=Secret("close sesame")))
    plain = pair.write(tmp_path, "plain")
    assert read_material(files(plain, passphrase=Secret("not needed"))).key == material.key


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("certificate", b"", "holds no certificate"),
        ("certificate", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "holds no certificate"),
        ("private_key", b"rubbish", "holds no private key"),
        ("ca_cert", b"rubbish", "holds no certificate"),
        ("crl", b"rubbish", "holds no revocation list"),
        ("crl", b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", "broken revocation list"),
    ],
)
def test_files_that_cannot_be_used(
    authority: Authority, tmp_path: Path, name: str, text: bytes, complaint: str
) -> None:
    certificate, key = authority.issue().write(tmp_path, "server")
    bad = tmp_path / "bad.pem"
    bad.write_bytes(text)
    paths: dict[str, Any] = {"certificate": certificate, "private_key": key} | {name: bad}
    with pytest.raises(ConfigError, match=complaint) as refused:
        read_material(TlsFiles(**paths), "server_")
    assert refused.value.file == str(bad)
    assert refused.value.key == f"server_tls_{name}"


def test_a_file_that_is_gone_or_endless(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue().write(tmp_path, "server")
    with pytest.raises(ConfigError, match="No such file"):
        read_material(files((tmp_path / "nowhere", key)))
    with pytest.raises(ConfigError, match="has more than"):
        read_material(files((Path("/dev/zero"), key)))
    assert read_material(files((certificate, key))).chain


def test_the_key_of_another(authority: Authority, tmp_path: Path) -> None:
    certificate, _ = authority.issue().write(tmp_path, "one")
    _, key = authority.issue().write(tmp_path, "other")
    with pytest.raises(ConfigError, match=f"is not the key of {certificate}") as refused:
        read_material(files((certificate, key)))
    assert (refused.value.file, refused.value.key) == (str(key), "tls_private_key")


def test_an_expired_one_is_noticed(authority: Authority, tmp_path: Path) -> None:
    pair = authority.issue(begins=timedelta(days=-3), ends=timedelta(days=-1))
    assert read_material(files(pair.write(tmp_path, "old"))).is_expired()


@pytest.mark.parametrize(
    ("hosts", "host", "fits"),
    [
        (["db.example.com"], "db.example.com", True),
        (["db.example.com"], "DB.Example.COM.", True),
        (["db.example.com"], "other.example.com", False),
        (["*.example.com"], "db.example.com", True),
        (["*.example.com"], "a.db.example.com", False),
        (["*.example.com"], "example.com", False),
        (["*.0.0.1"], "127.0.0.1", False),
        (["d*.example.com"], "db.example.com", False),
        (["127.0.0.1"], "127.0.0.1", True),
        (["127.0.0.1"], "127.0.0.2", False),
        (["::1"], "0:0:0:0:0:0:0:1", True),
        (["fe80::1"], "fe80::1%eth0", True),
        (["db.example.com", "127.0.0.1"], "127.0.0.1", True),
        (["db.example.com"], "named", False),
        ([], "named", True),
        ([], "other", False),
    ],
)
def test_hosts(authority: Authority, hosts: list[str], host: str, fits: bool) -> None:
    reason = host_mismatch(authority.issue("named", hosts).certificate, host)
    assert (reason == "") == fits, reason


def test_a_certificate_for_nobody(authority: Authority) -> None:
    nameless = authority.issue(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Nobody")]))
    assert host_mismatch(nameless.certificate, "db") == "the certificate names no host"
    assert common_name(nameless.certificate) == ""


def test_names_are_written_as_postgresql_writes_them(authority: Authority, tmp_path: Path) -> None:
    """Compared with OpenSSL's own hand, which is PostgreSQL's."""
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "DE"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, 'Müller, "Söhne" + Co; #1'),
            x509.NameAttribute(NameOID.EMAIL_ADDRESS, "alice@example.com"),
            x509.NameAttribute(NameOID.USER_ID, "a1"),
            x509.NameAttribute(NameOID.COMMON_NAME, "alice"),
        ]
    )
    pair = authority.issue(name, for_clients=True)
    path, _ = pair.write(tmp_path, "alice")
    said = subprocess.run(
        ["openssl", "x509", "-in", str(path), "-noout", "-subject", "-nameopt", "RFC2253"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert distinguished_name(pair.certificate) == said.stdout.strip().removeprefix("subject=")
    assert common_name(pair.certificate) == "alice"


def test_a_zero_byte_in_a_name() -> None:
    pair = Authority("x").issue(subject("alice\0.evil"))
    assert common_name(pair.certificate) == ""


def test_channel_binding_data(authority: Authority) -> None:
    der = authority.issue().certificate.public_bytes(serialization.Encoding.DER)
    assert end_point_binding(der) == hashlib.sha256(der).digest()


def test_channel_binding_data_of_other_signatures() -> None:
    sample = self_signed().certificate
    builder = (
        x509.CertificateBuilder().subject_name(sample.subject).issuer_name(sample.subject).serial_number(1)
        .not_valid_before(sample.not_valid_before_utc).not_valid_after(sample.not_valid_after_utc)
    )  # fmt: skip
    key = ec.generate_private_key(ec.SECP384R1())
    strong = Pair(builder.public_key(key.public_key()).sign(key, hashes.SHA384()), key)
    der = strong.certificate.public_bytes(serialization.Encoding.DER)
    assert end_point_binding(der) == hashlib.sha384(der).digest()
    edwards = ed25519.Ed25519PrivateKey.generate()
    without = builder.public_key(edwards.public_key()).sign(edwards, None)
    assert end_point_binding(without.public_bytes(serialization.Encoding.DER)) == b""
