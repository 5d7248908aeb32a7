"""Certificates for tests, made when they are needed and worth nothing anywhere else."""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = timedelta(days=1)

DH_512 = """\
-----BEGIN DH PARAMETERS-----
MEYCQQCma2SUBtXV59kdLR6o63yNj0OrJ6W8807Pcz9v8dLUQFKr8hoRpIpVfOfe
c6q0Xw/V544YH7/820ZgjVQ/P9ynAgEC
-----END DH PARAMETERS-----
"""

# RFC 7919, ffdhe2048
DH_2048 = """\
-----BEGIN DH PARAMETERS-----
MIIBCAKCAQEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz
+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a
87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7
YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi
7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD
ssbzSibBsu/6iGtCOGEoXJf//////////wIBAg==
-----END DH PARAMETERS-----
"""

_MAY_SIGN = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


def subject(common_name: str, **others: str) -> x509.Name:
    """A name: `organisation` and `unit` before the common name, as is usual."""
    oids = {"organisation": NameOID.ORGANIZATION_NAME, "unit": NameOID.ORGANIZATIONAL_UNIT_NAME}
    attributes = [x509.NameAttribute(oids[key], value) for key, value in others.items()]
    return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


@dataclass(frozen=True)
class Pair:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: Any

    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def key_pem(self, passphrase: str = "") -> bytes:
        encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase:
            encryption = serialization.BestAvailableEncryption(passphrase.encode())
        form = serialization.PrivateFormat.PKCS8
        return bytes(self.key.private_bytes(serialization.Encoding.PEM, form, encryption))

    def write(self, directory: Path, name: str, *behind: "Pair", passphrase: str = "") -> tuple[Path, Path]:
        """Writes NAME.crt, with the certificates of `behind` behind it, and NAME.key. Returns the two paths."""
        certificate, key = directory / f"{name}.crt", directory / f"{name}.key"
        certificate.write_bytes(b"".join(pair.certificate_pem() for pair in (self, *behind)))
        key.write_bytes(self.key_pem(passphrase))
        key.chmod(0o600)
        return certificate, key


class Authority:
    """Somebody who signs certificates."""

    def __init__(self, name: str = "Test CA", issuer: "Authority | None" = None) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        self.pair: Pair = _signed(subject(name), key, issuer.pair if issuer else None, is_authority=True)

    def issue(
        self,
        name: str | x509.Name = "localhost",
        hosts: Iterable[str] = (),
        *,
        begins: timedelta = -DAY,
        ends: timedelta = DAY,
        use_rsa: bool = False,
        for_clients: bool = False,
    ) -> Pair:
        """A certificate for a server of these hosts (names and addresses), or for a client of this name."""
        key: Any = rsa.generate_private_key(65537, 2048) if use_rsa else ec.generate_private_key(ec.SECP256R1())
        whom = subject(name) if isinstance(name, str) else name
        usage = ExtendedKeyUsageOID.CLIENT_AUTH if for_clients else ExtendedKeyUsageOID.SERVER_AUTH
        return _signed(whom, key, self.pair, hosts=hosts, begins=begins, ends=ends, usage=usage)

    def revoke(self, *pairs: Pair) -> bytes:
        """A revocation list in PEM form."""
        now = datetime.now(UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.pair.certificate.subject)
        builder = builder.last_update(now - DAY).next_update(now + DAY)
        for pair in pairs:
            revoked = x509.RevokedCertificateBuilder().serial_number(pair.certificate.serial_number)
            builder = builder.add_revoked_certificate(revoked.revocation_date(now - DAY).build())
        return builder.sign(self.pair.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def write(self, directory: Path, name: str) -> Path:
        """Writes NAME.crt."""
        path = directory / f"{name}.crt"
        path.write_bytes(self.pair.certificate_pem())
        return path


def self_signed(name: str = "localhost", hosts: Iterable[str] = ("localhost", "127.0.0.1"), **options: Any) -> Pair:
    """A certificate that nobody vouches for."""
    return _signed(subject(name), ec.generate_private_key(ec.SECP256R1()), None, hosts=hosts, **options)


def _signed(
    whom: x509.Name,
    key: Any,
    issuer: Pair | None,
    *,
    hosts: Iterable[str] = (),
    begins: timedelta = -DAY,
    ends: timedelta = DAY,
    usage: x509.ObjectIdentifier | None = None,
    is_authority: bool = False,
) -> Pair:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(whom)
        .issuer_name(issuer.certificate.subject if issuer else whom)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if issuer is not None:
        signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
        builder = builder.add_extension(signer, critical=False)
    if is_authority:
        builder = builder.add_extension(_MAY_SIGN, critical=True)
    if names := [_general_name(host) for host in hosts]:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return Pair(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
