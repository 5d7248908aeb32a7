"""Certificates and keys: read from files, judged before they are used, and what can be said of one.

Everything that TLS needs is read at once into a `TlsMaterial`, a plain value: two of them are equal if the files say the
same, which is how a reload sees whether anything has changed. Nothing here knows of OpenSSL's connections.
"""

import ipaddress
import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtensionOID, NameOID

from pgdoorman.config.settings import Secret, TlsFiles
from pgdoorman.errors import ConfigError

MOST_BYTES: Final = 4 << 20
"""More than this no file of certificates is read."""

LEAST_DH_BITS: Final = 2048
"""What OpenSSL's security level 2 asks for; shorter ones can be computed in advance (Logjam)."""

_CRL: Final = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.DOTALL)

# How PostgreSQL (OpenSSL's RFC 2253 form) writes attributes that RFC 4514 has no short name for.
_ATTRIBUTES: Final = {
    NameOID.EMAIL_ADDRESS: "emailAddress",
    NameOID.SERIAL_NUMBER: "serialNumber",
    NameOID.SURNAME: "SN",
    NameOID.GIVEN_NAME: "GN",
    NameOID.TITLE: "title",
    NameOID.PSEUDONYM: "pseudonym",
    NameOID.DN_QUALIFIER: "dnQualifier",
    NameOID.BUSINESS_CATEGORY: "businessCategory",
    NameOID.POSTAL_CODE: "postalCode",
    NameOID.ORGANIZATION_IDENTIFIER: "organizationIdentifier",
}


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """What was read for one side of TLS: certificates in DER, ours first and its chain behind it. Comparable."""

    chain: tuple[bytes, ...] = ()
    key: bytes = field(default=b"", repr=False)  # PKCS 8 in DER, not encrypted
    authorities: tuple[bytes, ...] = ()
    revocations: tuple[bytes, ...] = ()
    minimum: str = ""
    maximum: str = ""
    ciphers: str = ""
    cipher_suites: str = ""
    groups: str = ""
    dh_params: bytes = b""

    def expires(self) -> datetime | None:
        """When our certificate ends, None without one."""
        return x509.load_der_x509_certificate(self.chain[0]).not_valid_after_utc if self.chain else None

    def is_expired(self) -> bool:
        """Whether our certificate has ended."""
        end = self.expires()
        return end is not None and end < datetime.now(UTC)


def read_material(files: TlsFiles, prefix: str = "") -> TlsMaterial:
    """Read and judge what the settings name. `prefix` ("", "server_") is that of the keys, for errors.

    Raises ConfigError: a file that cannot be read or parsed, a key that is not the certificate's, a wrong passphrase.
    """
    chain: tuple[bytes, ...] = ()
    key = b""
    if files.certificate is not None and files.private_key is not None:
        name = f"{prefix}tls_private_key"
        certificates = _certificates(files.certificate, f"{prefix}tls_certificate")
        private = _private_key(files.private_key, files.passphrase, name)
        if _public_bytes(certificates[0].public_key()) != _public_bytes(private.public_key()):
            raise ConfigError(f"is not the key of {files.certificate}", file=str(files.private_key), key=name)
        chain = tuple(_der(certificate) for certificate in certificates)
        key = private.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    authorities: tuple[bytes, ...] = ()
    if files.ca_cert is not None:
        authorities = tuple(_der(one) for one in _certificates(files.ca_cert, f"{prefix}tls_ca_cert"))
    revocations: tuple[bytes, ...] = ()
    if files.crl is not None:
        revocations = _revocations(files.crl, f"{prefix}tls_crl")
    return TlsMaterial(
        chain,
        key,
        authorities,
        revocations,
        str(files.minimum or ""),
        str(files.maximum or ""),
        files.ciphers or "",
        files.cipher_suites or "",
        files.groups or "",
        b"" if files.dh_params is None else _dh_params(files.dh_params, f"{prefix}tls_dh_params"),
    )


def _read(path: Path, key: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=str(path), key=key) from error
    if len(data) > MOST_BYTES:
        raise ConfigError(f"has more than {MOST_BYTES} bytes", file=str(path), key=key)
    return data


def _certificates(path: Path, key: str) -> list[x509.Certificate]:
    data = _read(path, key)
    return _parsed(lambda: x509.load_pem_x509_certificates(data), "holds no certificate in PEM form", path, key)


def _revocations(path: Path, key: str) -> tuple[bytes, ...]:
    found = _CRL.findall(_read(path, key))
    if not found:
        raise ConfigError("holds no revocation list in PEM form", file=str(path), key=key)
    return tuple(
        _parsed(lambda: x509.load_pem_x509_crl(one), "holds a broken revocation list", path, key).public_bytes(  # noqa: B023 - called at once
            serialization.Encoding.DER
        )
        for one in found
    )


def _private_key(path: Path, passphrase: Secret, key: str) -> Any:
    data = _read(path, key)
    secret = passphrase.reveal().encode() or None
    if secret is not None and b"ENCRYPTED" not in data:
        secret = None  # a passphrase that is not needed is no error: the key may be exchanged for an encrypted one
    try:
        return serialization.load_pem_private_key(data, secret)
    except TypeError as error:
        raise ConfigError(f"is encrypted: {key}_passphrase is missing", file=str(path), key=key) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        reason = "wrong passphrase, or no private key in PEM form" if secret else "holds no private key in PEM form"
        raise ConfigError(reason, file=str(path), key=key) from error


def _dh_params(path: Path, key: str) -> bytes:
    data = _read(path, key)
    with warnings.catch_warnings():
        # Newer releases say that they will not read them for ever. It is OpenSSL that uses them.
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        found: Any = _parsed(
            lambda: serialization.load_pem_parameters(data), "holds no parameters in PEM form", path, key
        )
    prime = getattr(found.parameter_numbers(), "p", 0) if hasattr(found, "parameter_numbers") else 0
    if prime.bit_length() < LEAST_DH_BITS:
        raise ConfigError(
            f"holds no Diffie-Hellman parameters of {LEAST_DH_BITS} bits or more", file=str(path), key=key
        )
    return data


def _parsed[T](parse: Callable[[], T], complaint: str, path: Path, key: str) -> T:
    try:
        return parse()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(complaint, file=str(path), key=key) from error


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def _public_bytes(key: Any) -> bytes:
    encoded: bytes = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return encoded


# What can be said of a certificate.


def end_point_binding(certificate: bytes) -> bytes:
    """Channel binding data of type tls-server-end-point (RFC 5929, section 4.1) for a server's certificate in DER; empty
    if its signature has no hash of its own (Ed25519), for which the RFC defines none."""
    algorithm = x509.load_der_x509_certificate(certificate).signature_hash_algorithm
    if algorithm is None:
        return b""
    if isinstance(algorithm, hashes.MD5 | hashes.SHA1):
        algorithm = hashes.SHA256()
    digest = hashes.Hash(algorithm)
    digest.update(certificate)
    return digest.finalize()


def common_name(certificate: x509.Certificate) -> str:
    """The subject's common name, "" if it has none, or one with a zero byte, which could be read as two names."""
    for attribute in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME):
        name = attribute.value
        return name if isinstance(name, str) and "\0" not in name else ""
    return ""


def distinguished_name(certificate: x509.Certificate) -> str:
    """The subject in RFC 2253 form, last attribute first, letters beyond ASCII as escaped bytes: what PostgreSQL compares."""
    text = certificate.subject.rfc4514_string(_ATTRIBUTES)
    return "".join(
        letter if letter.isascii() else "".join(f"\\{byte:02X}" for byte in letter.encode()) for letter in text
    )


def host_mismatch(certificate: x509.Certificate, host: str) -> str:
    """Why a server's certificate is not for `host` (a name or an address in text), "" if it is. As libpq judges: the
    subject's alternative names decide; only a certificate that has none of either kind is judged by its common name."""
    names, addresses = _alternative_names(certificate)
    address = _address(host)
    if address is not None and address in addresses:
        return ""
    shown = [*names, *map(str, addresses)]
    if not shown:
        name = common_name(certificate)
        names = shown = [name] if name else []
    if any(_covers(name, host, wildcards=address is None) for name in names):
        return ""
    return f"the certificate is for {_listed(shown)}, not for {host!r}" if shown else "the certificate names no host"


def _alternative_names(certificate: x509.Certificate) -> tuple[list[str], list[Any]]:
    try:
        extension: Any = certificate.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return [], []
    names = [name for name in extension.value.get_values_for_type(x509.DNSName) if "\0" not in name]
    return names, list(extension.value.get_values_for_type(x509.IPAddress))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _covers(pattern: str, host: str, *, wildcards: bool) -> bool:
    """Whether a name in a certificate means `host`: case does not matter, and `*.` stands for exactly one label."""
    pattern, host = pattern.lower(), host.lower().rstrip(".")
    if not pattern.startswith("*."):
        return pattern == host
    first, _, rest = host.partition(".")
    return wildcards and bool(first) and bool(rest) and rest == pattern[2:]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in list(names)[:5])
