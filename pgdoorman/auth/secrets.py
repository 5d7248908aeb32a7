"""What is stored for a user, and whether a password given in clear fits it.

A stored secret is one of the forms that pg_authid.rolpassword has (an md5 hash, a SCRAM verifier), the password itself,
or a note that something else decides (a token key, PAM). `repr` of any of them shows only its kind.
"""

import base64
import binascii
import hashlib
import hmac
import os
import re
from dataclasses import dataclass, field
from typing import Final

from pgdoorman.auth.md5 import md5_digest
from pgdoorman.auth.saslprep import saslprep
from pgdoorman.errors import ConfigError

DEFAULT_ITERATIONS: Final = 4096
"""PostgreSQL's own default, and the least that RFC 7677 asks for."""

MAX_ITERATIONS: Final = 1_000_000
"""The most PBKDF2 rounds that we run because another party says so (a server's SCRAM challenge, a verifier that a role
may have set itself): a third to half a second of one core. PostgreSQL's default is 4,096, the largest advice in use
600,000."""

SALT_SIZE: Final = 16
KEY_SIZE: Final = 32


@dataclass(frozen=True, slots=True)
class NoSecret:
    """The user exists but has no password: other methods may admit it, a password never does. An expired password
    (VALID UNTIL) is this too."""


@dataclass(frozen=True, slots=True)
class PlainSecret:
    """The password itself, as bytes of UTF-8."""

    password: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Md5Secret:
    """`digest`: 32 lower-case hexadecimal digits, without the prefix "md5"."""

    digest: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ScramSecret:
    """A SCRAM-SHA-256 verifier (RFC 5803). It proves nothing to a server, unlike `ScramKeys`."""

    iterations: int
    salt: bytes = field(repr=False)
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    def text(self) -> str:
        """As PostgreSQL stores it."""
        salt, stored, server = (
            base64.b64encode(part).decode() for part in (self.salt, self.stored_key, self.server_key)
        )
        return f"SCRAM-SHA-256${self.iterations}:{salt}${stored}:{server}"


@dataclass(frozen=True, slots=True)
class TokenKeySecret:
    """The client sends a token (JWT) that the public key in file `path` must confirm."""

    path: str


@dataclass(frozen=True, slots=True)
class PamSecret:
    """The client's password goes to this PAM service."""

    service: str


type StoredSecret = NoSecret | PlainSecret | Md5Secret | ScramSecret | TokenKeySecret | PamSecret


@dataclass(frozen=True, slots=True)
class ScramKeys:
    """What a SCRAM log-in with a verifier teaches, and enough to log in elsewhere with the same verifier: the ClientKey
    recovered from the client's proof, the ServerKey to check that server, and the salt and iteration count by which
    one can tell whether a server still has the same verifier."""

    iterations: int
    salt: bytes = field(repr=False)
    client_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)


_MD5: Final = re.compile(r"md5([0-9a-f]{32})\Z")
_SCRAM: Final = re.compile(r"SCRAM-SHA-256\$([1-9][0-9]{0,8}):([^$:]+)\$([^$:]+):([^$:]+)\Z")
_KEY_PREFIX: Final = "jwt-pkey-fpath:"  # as in `tokens`


def parse_secret(text: str) -> StoredSecret:
    """A stored secret from its text: "" is `NoSecret`, "md5" and 32 lower-case digits an md5 hash, SCRAM-SHA-256$... a
    verifier, jwt-pkey-fpath:PATH a token key, anything else the password itself.

    Raises ConfigError (which does not show the text) for a damaged verifier, which PostgreSQL would silently take for
    a password, and for text that is not encodable."""
    if not text:
        return NoSecret()
    if match := _MD5.match(text):
        return Md5Secret(match[1])
    if text.startswith("SCRAM-SHA-256$"):
        return _parse_verifier(text)
    if text.startswith(_KEY_PREFIX):
        return TokenKeySecret(text.removeprefix(_KEY_PREFIX))
    return PlainSecret(encode_password(text))


def secret_text(secret: StoredSecret) -> str:
    """The text from which `parse_secret` makes this secret; "" for what PAM decides."""
    match secret:
        case PlainSecret(password):
            return password.decode()
        case Md5Secret(digest):
            return "md5" + digest
        case ScramSecret():
            return secret.text()
        case TokenKeySecret(path):
            return _KEY_PREFIX + path
    return ""


def encode_password(text: str) -> bytes:
    """A password as bytes. Raises ConfigError for what a password message cannot carry."""
    try:
        password = text.encode()
    except UnicodeEncodeError:
        raise ConfigError("the password is not valid Unicode") from None
    if b"\0" in password:
        raise ConfigError("the password contains a zero byte")
    return password


def _parse_verifier(text: str) -> ScramSecret:
    match = _SCRAM.match(text)
    if match is None:
        raise ConfigError("malformed SCRAM-SHA-256 verifier")
    salt, stored_key, server_key = (_decode(part) for part in match.groups()[1:])
    if not salt or len(stored_key) != KEY_SIZE or len(server_key) != KEY_SIZE:
        raise ConfigError("malformed SCRAM-SHA-256 verifier")
    return ScramSecret(int(match[1]), salt, stored_key, server_key)


def _decode(text: str) -> bytes:
    try:
        return binascii.a2b_base64(text.encode(), strict_mode=True)
    except (binascii.Error, UnicodeEncodeError):
        return b""


def derive_keys(password: bytes, salt: bytes, iterations: int) -> ScramKeys:
    """ClientKey and ServerKey of a password (RFC 5802, section 3). Heavy: `iterations` rounds of HMAC-SHA-256; from
    other threads only, and never with a count that another party chose and nobody bounded."""
    salted = hashlib.pbkdf2_hmac("sha256", saslprep(password), salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    return ScramKeys(iterations, salt, client_key, server_key)


def verifier_of(keys: ScramKeys) -> ScramSecret:
    """The verifier that belongs to these keys."""
    return ScramSecret(keys.iterations, keys.salt, hashlib.sha256(keys.client_key).digest(), keys.server_key)


def build_scram_secret(password: bytes, iterations: int = DEFAULT_ITERATIONS, salt: bytes = b"") -> ScramSecret:
    """A new verifier, with a random salt of 16 bytes unless one is given. Heavy, see `derive_keys`."""
    return verifier_of(derive_keys(password, salt or os.urandom(SALT_SIZE), iterations))


def hash_password(user: str, password: str, method: str = "scram-sha-256", iterations: int = DEFAULT_ITERATIONS) -> str:
    """The text to store for a password; `method` is "scram-sha-256" or "md5". Raises ConfigError."""
    encoded = encode_password(password)
    if not encoded:
        raise ConfigError("the password is empty")
    if method == "md5":
        return "md5" + md5_digest(user, encoded)
    if method != "scram-sha-256":
        raise ConfigError(f'unknown password method "{method}"')
    if not 1 <= iterations <= MAX_ITERATIONS:
        raise ConfigError(f"the iteration count must be between 1 and {MAX_ITERATIONS}")
    return build_scram_secret(encoded, iterations).text()


def same_bytes(left: bytes, right: bytes) -> bool:
    """Whether both are equal, in a time that tells neither where they differ nor how long the other one is."""
    return hmac.compare_digest(hashlib.sha256(left).digest(), hashlib.sha256(right).digest())


def is_heavy(secret: StoredSecret | None) -> bool:
    """Whether `password_fits` runs a key derivation for this secret."""
    return isinstance(secret, ScramSecret)


def password_fits(
    secret: StoredSecret | None, user: str, password: bytes, max_iterations: int = MAX_ITERATIONS
) -> bool:
    """Whether a password given in clear is the right one. Heavy for a SCRAM verifier, see `derive_keys`; one with more
    than `max_iterations` never fits."""
    match secret:
        case PlainSecret(expected):
            return same_bytes(expected, password)
        case Md5Secret(digest):
            return same_bytes(digest.encode(), md5_digest(user, password).encode())
        case ScramSecret(iterations, salt, stored_key, _) if iterations <= max_iterations:
            return same_bytes(stored_key, verifier_of(derive_keys(password, salt, iterations)).stored_key)
    return False
