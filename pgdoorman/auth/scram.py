"""SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677), both halves, without a dialogue around them.

The server's half is `ServerExchange`, the client's `ClientExchange`; each method takes one message of the other side
and returns ours. The grammar is taken strictly: every attribute once, in its place, of bounded size. What does not
parse is a ProtocolViolation that says what was malformed, never why a proof did not fit.

Channel binding data comes in as a mapping from type (tls-server-end-point, tls-exporter) to bytes; whoever owns the
TLS connection computed it.
"""

import base64
import binascii
import hashlib
import hmac
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pgdoorman.auth.secrets import (
    DEFAULT_ITERATIONS,
    KEY_SIZE,
    MAX_ITERATIONS,
    SALT_SIZE,
    ScramKeys,
    ScramSecret,
    build_scram_secret,
    derive_keys,
)
from pgdoorman.errors import AuthorizationDenied, ProtocolViolation

MECHANISM: Final = "SCRAM-SHA-256"
MECHANISM_PLUS: Final = "SCRAM-SHA-256-PLUS"

MAX_MESSAGE: Final = 1024
"""Bytes of a SCRAM message that we read as the server; PostgreSQL's own limit."""

MAX_SERVER_MESSAGE: Final = 4096
"""Bytes of a SCRAM message that we read as the client. A real one has less than 200."""

MAX_NONCE: Final = 512
MAX_SALT: Final = 512
_NONCE_BYTES: Final = 18
"""Random bytes in our part of a nonce, as in PostgreSQL; 24 characters of base64."""

_NONCE: Final = re.compile(rb"[\x21-\x2b\x2d-\x7e]{1,512}\Z")
_ATTRIBUTE: Final = re.compile(rb"([A-Za-z])=([^\0,]*)\Z", re.DOTALL)
_COUNT: Final = re.compile(rb"[1-9][0-9]{0,9}\Z")
_BINDING: Final = re.compile(rb"p=([A-Za-z0-9.-]{1,64}),")
_RESERVED: Final = frozenset(b"anmrcsipve")
"""Attributes that the RFC defines; an extension cannot be called so."""

NO_BINDINGS: Final[Mapping[str, bytes]] = {}


def _malformed(what: str) -> ProtocolViolation:
    return ProtocolViolation(f"malformed SCRAM message: {what}")


def _encode(data: bytes) -> bytes:
    return base64.b64encode(data)


def _decode(data: bytes, what: str) -> bytes:
    try:
        decoded = binascii.a2b_base64(data, strict_mode=True)
    except binascii.Error:
        decoded = b""
    # The strict mode lets stray bits behind the last byte pass; one value has one spelling here.
    if _encode(decoded) != data:
        raise _malformed(f"{what} is not base64")
    return decoded


def _xor(left: bytes, right: bytes) -> bytes:
    return (int.from_bytes(left) ^ int.from_bytes(right)).to_bytes(len(left))


def _attributes(data: bytes, leading: bytes, trailing: bytes, *, extensions: bool) -> dict[int, bytes]:
    """The attributes of a message that begins with those in `leading`, in this order, ends with those in `trailing`,
    and may have others (extensions, ignored as the RFC asks) in between."""
    pairs = [_attribute(piece) for piece in data.split(b",")]
    letters = bytes(letter for letter, _ in pairs)
    between = letters[len(leading) : len(letters) - len(trailing)]
    if len(letters) < len(leading) + len(trailing) or not letters.startswith(leading) or not letters.endswith(trailing):
        raise _malformed(f"expected attributes {', '.join(chr(letter) for letter in leading + trailing)}")
    if between and not extensions:
        raise _malformed("unexpected attributes")
    if len(set(letters)) != len(letters) or not _RESERVED.isdisjoint(between):
        raise _malformed("an attribute is repeated or out of its place")
    return dict(pairs)


def _attribute(piece: bytes) -> tuple[int, bytes]:
    match = _ATTRIBUTE.match(piece)
    if match is None:
        raise _malformed("attribute expected")
    return match[1][0], match[2]


def _new_nonce() -> bytes:
    return _encode(os.urandom(_NONCE_BYTES))


def client_signature(stored_key: bytes, auth_message: bytes) -> bytes:
    """ClientSignature of RFC 5802, section 3."""
    return hmac.digest(stored_key, auth_message, "sha256")


# The server's half.


class MadeVerifiers:
    """The salts and verifiers that this process makes up: for users that do not exist, and for those whose password is
    stored in clear.

    A salt is a function of the user's name and of a secret drawn once per process, so that asking twice shows the same
    salt for a name that exists and for one that does not. A verifier derived from a password in clear is remembered,
    since deriving it costs milliseconds. Thread-safe; `limit` bounds what is remembered.
    """

    def __init__(
        self, iterations: int = DEFAULT_ITERATIONS, *, limit: int = 10_000, process_secret: bytes = b""
    ) -> None:
        self.iterations = iterations
        self._limit = limit
        self._process_secret = process_secret or os.urandom(32)
        self._lock = threading.Lock()
        self._derived: OrderedDict[tuple[str, bytes], ScramSecret] = OrderedDict()

    def salt_for(self, user: str) -> bytes:
        """The salt that this user, real or not, is shown. 16 bytes."""
        return self._keyed(b"salt", user.encode())[:SALT_SIZE]

    def lot_for(self, user: str, count: int) -> int:
        """A number below `count` that is always the same for this user, real or not."""
        return int.from_bytes(self._keyed(b"lot", user.encode())[:8]) % count

    def pretended(self, user: str) -> ScramSecret:
        """A verifier that no password fits."""
        return ScramSecret(self.iterations, self.salt_for(user), bytes(KEY_SIZE), bytes(KEY_SIZE))

    def remembered(self, user: str, password: bytes) -> ScramSecret | None:
        """The verifier derived earlier for this user and password."""
        key = self._cache_key(user, password)
        with self._lock:
            secret = self._derived.get(key)
            if secret is not None:
                self._derived.move_to_end(key)
            return secret

    def derive(self, user: str, password: bytes) -> ScramSecret:
        """Derive a verifier and remember it. Heavy: run it as an `Offload`."""
        secret = build_scram_secret(password, self.iterations, self.salt_for(user))
        key = self._cache_key(user, password)
        with self._lock:
            self._derived[key] = secret
            self._derived.move_to_end(key)
            while len(self._derived) > self._limit:
                self._derived.popitem(last=False)
        return secret

    def waste_time(self) -> None:
        """What `derive` costs, for nothing, so that a failure costs the same whatever was stored."""
        derive_keys(b"nothing", bytes(SALT_SIZE), self.iterations)

    def _cache_key(self, user: str, password: bytes) -> tuple[str, bytes]:
        # A keyed digest: a dump of the process's memory then holds the password once less.
        return user, self._keyed(b"password", password)

    def _keyed(self, purpose: bytes, data: bytes) -> bytes:
        return hmac.digest(self._process_secret, purpose + b"\0" + data, "sha256")


@dataclass(frozen=True, slots=True)
class Proof:
    """What a client's last message claims, to be judged by `ServerExchange.judge`."""

    auth_message: bytes = field(repr=False)
    proof: bytes = field(repr=False)


class ServerExchange:
    """The server's half of one exchange, for the mechanism that the client chose.

    The order is `first`, `final`, `judge`. Salt and iteration count are needed for the first answer, the keys only for
    the judgement: so a verifier that has yet to be derived from a password is derived when a client has done its part.
    """

    __slots__ = ("_bindings", "_client_first_bare", "_expected_binding", "_nonce", "_plus", "_server_first")

    def __init__(self, mechanism: str, bindings: Mapping[str, bytes] = NO_BINDINGS, *, nonce: bytes = b"") -> None:
        if mechanism not in offered_mechanisms(bindings):
            raise ProtocolViolation("client selected an invalid SASL authentication mechanism")
        self._plus = mechanism == MECHANISM_PLUS
        self._bindings = bindings
        self._nonce = nonce or _new_nonce()
        self._client_first_bare = b""
        self._server_first = b""
        self._expected_binding = b""

    def first(self, client_first: bytes, salt: bytes, iterations: int) -> bytes:
        """Take client-first-message, give server-first-message. Raises ProtocolViolation and, for channel binding that
        cannot be as the client says, AuthorizationDenied."""
        _check_size(client_first, MAX_MESSAGE)
        header, binding = self._read_header(client_first)
        bare = client_first[len(header) :]
        if bare.startswith(b"m="):
            raise _malformed("the client requires an unsupported SCRAM extension")
        attributes = _attributes(bare, b"nr", b"", extensions=True)
        # The name in the message is ignored, as in PostgreSQL: the start-up packet has said who this is.
        nonce = attributes[ord("r")]
        if not _NONCE.match(nonce):
            raise _malformed("non-printable characters in the nonce, or none")
        self._nonce = nonce + self._nonce
        self._expected_binding = header + binding
        self._client_first_bare = bare
        self._server_first = b"r=%b,s=%b,i=%d" % (self._nonce, _encode(salt), iterations)
        return self._server_first

    def final(self, client_final: bytes) -> Proof:
        """Take client-final-message. Raises ProtocolViolation and, if this is not the TLS connection that the client
        sees, AuthorizationDenied."""
        _check_size(client_final, MAX_MESSAGE)
        attributes = _attributes(client_final, b"cr", b"p", extensions=True)
        self._check_binding(_decode(attributes[ord("c")], "channel binding"))
        if not hmac.compare_digest(attributes[ord("r")], self._nonce):
            raise _malformed("nonce does not match")
        proof = _decode(attributes[ord("p")], "proof")
        if len(proof) != KEY_SIZE:
            raise _malformed("the proof has a wrong length")
        without_proof = client_final[: client_final.rindex(b",p=")]
        return Proof(b",".join((self._client_first_bare, self._server_first, without_proof)), proof)

    @staticmethod
    def judge(claim: Proof, secret: ScramSecret) -> ScramKeys | None:
        """The keys of a client that knows the password, else None. Takes the same time either way."""
        client_key = _xor(claim.proof, client_signature(secret.stored_key, claim.auth_message))
        if not hmac.compare_digest(hashlib.sha256(client_key).digest(), secret.stored_key):
            return None
        return ScramKeys(secret.iterations, secret.salt, client_key, secret.server_key)

    @staticmethod
    def last(claim: Proof, secret: ScramSecret) -> bytes:
        """server-final-message, which proves to the client that we hold its verifier."""
        return b"v=" + _encode(hmac.digest(secret.server_key, claim.auth_message, "sha256"))

    def _read_header(self, client_first: bytes) -> tuple[bytes, bytes]:
        """The gs2 header and the channel binding data that the client must repeat."""
        name = _BINDING.match(client_first)
        flag = name[0] if name else client_first[:2]
        if flag not in (b"n,", b"y,") and not name:
            raise _malformed("unexpected channel-binding flag")
        if client_first[len(flag) : len(flag) + 1] != b",":
            raise _malformed("a comma expected; authorization identities are not supported")
        header = flag + b","
        if name:
            return header, self._binding_data(name[1].decode("ascii"))
        if self._plus:
            raise _malformed("SCRAM-SHA-256-PLUS was chosen, but without channel binding data")
        if flag == b"y," and self._bindings:
            # Somebody between us took the PLUS mechanism out of our offer.
            raise AuthorizationDenied(
                "SCRAM channel binding negotiation error",
                detail="The client supports SCRAM channel binding but thinks the server does not. However, this server "
                "does support channel binding.",
            )
        return header, b""

    def _binding_data(self, name: str) -> bytes:
        if not self._plus:
            raise _malformed("SCRAM-SHA-256 was chosen, but with channel binding data")
        if name not in self._bindings:
            raise ProtocolViolation(f'unsupported SCRAM channel-binding type "{name}"')
        return self._bindings[name]

    def _check_binding(self, binding: bytes) -> None:
        if not hmac.compare_digest(binding, self._expected_binding):
            if self._plus:
                raise AuthorizationDenied("SCRAM channel binding check failed")
            raise _malformed("unexpected channel-binding attribute in client-final-message")


def offered_mechanisms(bindings: Mapping[str, bytes]) -> tuple[str, ...]:
    """The mechanisms that a server offers, strongest first."""
    return (MECHANISM_PLUS, MECHANISM) if bindings else (MECHANISM,)


def _check_size(message: bytes, limit: int) -> None:
    if len(message) > limit:
        raise _malformed("too long")


# The client's half.


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a server's first message asks for: a key of these, at this many rounds."""

    salt: bytes
    iterations: int


class ClientExchange:
    """The client's half of one exchange. The order is `first`, `challenge`, `final`, `check`.

    `flag` is what is said about channel binding: "n" not possible, "y" possible but not offered by the server, or the
    name of a binding type whose data is `binding`.
    """

    __slots__ = ("_binding", "_first_bare", "_header", "_max_iterations", "_nonce", "_server_first", "_signature")

    def __init__(
        self, flag: str = "n", binding: bytes = b"", *, max_iterations: int = MAX_ITERATIONS, nonce: bytes = b""
    ) -> None:
        self._header = (flag if flag in ("n", "y") else f"p={flag}").encode("ascii") + b",,"
        self._binding = binding
        self._max_iterations = max_iterations
        self._nonce = nonce or _new_nonce()
        # PostgreSQL ignores the name here and libpq sends none.
        self._first_bare = b"n=,r=" + self._nonce
        self._server_first = b""
        self._signature: bytes | None = None

    def first(self) -> bytes:
        """client-first-message."""
        return self._header + self._first_bare

    def challenge(self, server_first: bytes) -> Challenge:
        """Take server-first-message. Raises ProtocolViolation, also for an iteration count above the cap: a server must
        not be able to choose how long we compute."""
        _check_size(server_first, MAX_SERVER_MESSAGE)
        attributes = _attributes(server_first, b"rsi", b"", extensions=False)
        nonce, salt = attributes[ord("r")], _decode(attributes[ord("s")], "salt")
        if not _NONCE.match(nonce) or not nonce.startswith(self._nonce) or nonce == self._nonce:
            raise _malformed("the server's nonce is not ours with something added")
        if not 1 <= len(salt) <= MAX_SALT:
            raise _malformed("salt")
        count = attributes[ord("i")]
        if not _COUNT.match(count):
            raise _malformed("iteration count")
        if int(count) > self._max_iterations:
            raise ProtocolViolation(
                f"the server asks for {int(count)} SCRAM iterations, more than the {self._max_iterations} allowed"
            )
        self._nonce, self._server_first = nonce, server_first
        return Challenge(salt, int(count))

    def final(self, keys: ScramKeys) -> bytes:
        """client-final-message with the proof that these keys give."""
        without_proof = b"c=%b,r=%b" % (_encode(self._header + self._binding), self._nonce)
        auth_message = b",".join((self._first_bare, self._server_first, without_proof))
        stored_key = hashlib.sha256(keys.client_key).digest()
        self._signature = hmac.digest(keys.server_key, auth_message, "sha256")
        return without_proof + b",p=" + _encode(_xor(keys.client_key, client_signature(stored_key, auth_message)))

    def check(self, server_final: bytes) -> None:
        """Take server-final-message: the server's proof that it holds our verifier. Raises ProtocolViolation."""
        _check_size(server_final, MAX_SERVER_MESSAGE)
        if server_final.startswith(b"e="):
            text = server_final[2:130].decode("ascii", errors="backslashreplace")
            raise ProtocolViolation(f"the server reports an error in the SCRAM exchange: {text}")
        attributes = _attributes(server_final, b"v", b"", extensions=False)
        signature = _decode(attributes[ord("v")], "server signature")
        if self._signature is None or not hmac.compare_digest(signature, self._signature):
            raise ProtocolViolation("incorrect SCRAM server signature: this server does not know the password")
