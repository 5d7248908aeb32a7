"""Our log-in to a PostgreSQL server: from the StartupMessage to the first ReadyForQuery, as one dialogue.

The other side may be anything that listens on the port. So each message has a size, the whole conversation has a
number of messages and of bytes, a SCRAM server has to prove itself before its AuthenticationOk counts, and nothing but
a ProtocolViolation, a BackendRefused or a CredentialsMissing comes out. Time is the runner's matter.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final, Literal

from pgdoorman.auth.md5 import md5_answer, md5_digest
from pgdoorman.auth.scram import MAX_SERVER_MESSAGE, MECHANISM, MECHANISM_PLUS, NO_BINDINGS, ClientExchange
from pgdoorman.auth.secrets import (
    MAX_ITERATIONS,
    Md5Secret,
    PlainSecret,
    ScramKeys,
    ScramSecret,
    StoredSecret,
    derive_keys,
)
from pgdoorman.errors import BackendRefused, PgDoormanError, ProtocolViolation
from pgdoorman.protocol import authentication as wire
from pgdoorman.protocol import codes
from pgdoorman.protocol.dialogue import Dialogue, Message, Send, describe_type, offload, receive
from pgdoorman.protocol.startup import (
    parse_backend_key_data,
    parse_error_fields,
    parse_negotiate_protocol_version,
    parse_parameter_status,
)

type ChannelBinding = Literal["disable", "prefer", "require"]

MAX_MESSAGES: Final = 2_000
MAX_BYTES: Final = 1 << 20
"""What a server may say before its first ReadyForQuery. PostgreSQL 18 says about 20 messages and 1 kB."""

_PREFERRED_BINDING: Final = "tls-server-end-point"


class CredentialsMissing(PgDoormanError):
    """The server asks for something that we do not have. The text says what is missing and how it is usually come by;
    asking again helps only when that has changed."""

    sqlstate: ClassVar[str] = "28000"


@dataclass(frozen=True, slots=True)
class BackendCredentials:
    """What we have to prove that we are `user`; any of them may be missing, and the server chooses.

    `password` answers everything; `md5_digest` (32 hexadecimal digits) only an MD5 request; `scram_keys` only SCRAM;
    `make_token` makes what answers a request for a password in clear, anew for each log-in (it may be heavy, and may
    raise ConfigError)."""

    user: str
    password: bytes | None = field(default=None, repr=False)
    md5_digest: str | None = field(default=None, repr=False)
    scram_keys: ScramKeys | None = field(default=None, repr=False)
    make_token: Callable[[], bytes] | None = field(default=None, repr=False)

    @property
    def can_log_in(self) -> bool:
        """Whether there is anything to prove with."""
        return any(one is not None for one in (self.password, self.md5_digest, self.scram_keys, self.make_token))

    @classmethod
    def from_secret(cls, user: str, secret: StoredSecret | None, keys: ScramKeys | None = None) -> "BackendCredentials":
        """Pass-through: what a client's stored secret, and the keys learnt when it logged in, are worth at a server."""
        match secret:
            case PlainSecret(password):
                return cls(user, password=password)
            case Md5Secret(digest):
                return cls(user, md5_digest=digest)
            case ScramSecret():
                return cls(user, scram_keys=keys)
        return cls(user, scram_keys=keys)


@dataclass(frozen=True, slots=True)
class LoginPolicy:
    """What we insist on. `bindings` is the channel binding data of the TLS connection (empty without TLS);
    `max_iterations` caps the PBKDF2 rounds that a server may ask for; without `allow_cleartext` a request for the
    password in clear is refused."""

    bindings: Mapping[str, bytes] = field(default_factory=lambda: NO_BINDINGS, repr=False)
    channel_binding: ChannelBinding = "prefer"
    max_iterations: int = MAX_ITERATIONS
    allow_cleartext: bool = True


DEFAULT_POLICY: Final = LoginPolicy()


@dataclass(frozen=True, slots=True)
class BackendGreeting:
    """What a server told us about itself and our connection. `parameters` are in its order, repetitions and all;
    `process_id` is 0 and `cancel_secret` empty if it sent no key; `status` is the byte of its ReadyForQuery."""

    parameters: tuple[tuple[str, str], ...]
    process_id: int
    cancel_secret: bytes = field(repr=False)
    version: int
    status: int
    method: str


def log_in(
    startup: bytes, credentials: BackendCredentials, policy: LoginPolicy = DEFAULT_POLICY
) -> Dialogue[BackendGreeting]:
    """Send `startup` (a whole StartupMessage, see `protocol.startup.startup_message`) and log in.

    Raises BackendRefused (the server said no), CredentialsMissing (we lack what it asks for) and ProtocolViolation (it
    does not speak the protocol, or could not prove that it knows the password)."""
    return _BackendLogin(startup, credentials, policy).run()


class _BackendLogin:
    def __init__(self, startup: bytes, credentials: BackendCredentials, policy: LoginPolicy) -> None:
        self._startup = startup
        self._credentials = credentials
        self._policy = policy
        self._version = int.from_bytes(startup[4:8])
        self._negotiated = False
        self._messages = 0
        self._bytes = 0

    def run(self) -> Dialogue[BackendGreeting]:
        yield Send(self._startup)
        method = yield from self._authenticate()
        greeting = yield from self._read_greeting(method)
        return greeting

    def _receive(self, types: bytes) -> Dialogue[Message]:
        """The next message of one of these types. Notices are skipped, errors raised, and everything is counted: what
        a server may say before it is ready has an end."""
        while True:
            message = yield from receive(types + b"EN")
            self._messages += 1
            self._bytes += len(message.body)
            if self._messages > MAX_MESSAGES or self._bytes > MAX_BYTES:
                raise ProtocolViolation("the server says too much before it is ready for a query")
            if message.type == codes.ERROR_RESPONSE:
                raise BackendRefused(parse_error_fields(message.body))
            if message.type != codes.NOTICE_RESPONSE:
                return message

    # Authentication.

    def _authenticate(self) -> Dialogue[str]:
        request = yield from self._read_request(b"Rv")
        match request:
            case wire.Ok():
                return self._check_bound("trust")
            case wire.Cleartext():
                yield Send(wire.password_message((yield from self._cleartext_password())))
                method = "password"
            case wire.Md5(salt):
                yield Send(wire.password_message(self._md5_answer(salt)))
                method = "md5"
            case wire.Sasl(mechanisms):
                method = yield from self._scram(mechanisms)
            case wire.Unsupported():
                raise CredentialsMissing(f"the server asks for {request.name}, which is not supported")
            case _:
                raise ProtocolViolation("the server continues a SASL exchange that it did not begin")
        yield from self._expect_ok()
        return method

    def _read_request(self, types: bytes) -> Dialogue[wire.Request]:
        while True:
            message = yield from self._receive(types)
            if message.type == codes.AUTHENTICATION:
                return wire.parse_request(message.body)
            self._negotiate(message.body)

    def _negotiate(self, body: bytes) -> None:
        version, _ = parse_negotiate_protocol_version(body)
        if self._negotiated:
            raise ProtocolViolation("the server negotiates the protocol version twice")
        if not codes.PROTOCOL_3_0 <= version <= self._version or version == codes.PROTOCOL_3_0 + 1:
            raise ProtocolViolation(f"the server wants protocol version {version >> 16}.{version & 0xFFFF}")
        self._negotiated = True
        self._version = version

    def _expect_ok(self) -> Dialogue[None]:
        request = yield from self._read_request(b"R")
        if not isinstance(request, wire.Ok):
            raise ProtocolViolation("the server asks for a second authentication")

    def _check_bound(self, method: str) -> str:
        if self._policy.channel_binding == "require":
            raise ProtocolViolation("channel binding is required, but the server does not ask for it")
        return method

    def _cleartext_password(self) -> Dialogue[bytes]:
        self._check_bound("password")
        if not self._policy.allow_cleartext:
            raise CredentialsMissing("the server asks for the password in clear, which the settings do not allow")
        if self._credentials.make_token is not None:
            return (yield from offload(self._credentials.make_token))
        if self._credentials.password is None:
            raise self._missing("a password in clear", "set server_password")
        return self._credentials.password

    def _md5_answer(self, salt: bytes) -> bytes:
        self._check_bound("md5")
        credentials = self._credentials
        if credentials.password is not None:
            return md5_answer(md5_digest(credentials.user, credentials.password), salt)
        if credentials.md5_digest is not None:
            return md5_answer(credentials.md5_digest, salt)
        raise self._missing("an MD5 answer", "set server_password, or store the md5 hash of this user")

    def _missing(self, wanted: str, remedy: str) -> CredentialsMissing:
        return CredentialsMissing(f'the server asks for {wanted} of "{self._credentials.user}": {remedy}')

    # SCRAM.

    def _scram(self, mechanisms: tuple[str, ...]) -> Dialogue[str]:
        mechanism, flag = self._choose_mechanism(mechanisms)
        self._check_scram_possible()
        exchange = ClientExchange(
            flag, self._policy.bindings.get(flag, b""), max_iterations=self._policy.max_iterations
        )
        yield Send(wire.sasl_initial_response(mechanism, exchange.first()))
        request = yield from self._read_request(b"R")
        if not isinstance(request, wire.SaslContinue):
            raise ProtocolViolation("the server breaks off the SCRAM exchange")
        challenge = exchange.challenge(_bounded(request.data))
        keys = yield from self._keys(challenge.salt, challenge.iterations)
        yield Send(wire.sasl_response(exchange.final(keys)))
        request = yield from self._read_request(b"R")
        # An AuthenticationOk in its place would be a server that takes any proof, because it cannot check one.
        if not isinstance(request, wire.SaslFinal):
            raise ProtocolViolation("the server ends the SCRAM exchange without proving that it knows the password")
        exchange.check(_bounded(request.data))
        return mechanism.lower()

    def _choose_mechanism(self, mechanisms: tuple[str, ...]) -> tuple[str, str]:
        """The mechanism and what we say about channel binding."""
        policy = self._policy
        usable = policy.channel_binding != "disable" and bool(policy.bindings)
        if MECHANISM_PLUS in mechanisms and usable:
            preferred = _PREFERRED_BINDING if _PREFERRED_BINDING in policy.bindings else next(iter(policy.bindings))
            return MECHANISM_PLUS, preferred
        if policy.channel_binding == "require":
            raise ProtocolViolation("channel binding is required, but the server does not offer SCRAM-SHA-256-PLUS")
        if MECHANISM not in mechanisms:
            raise CredentialsMissing("none of the server's SASL authentication mechanisms are supported")
        return MECHANISM, "y" if usable else "n"

    def _check_scram_possible(self) -> None:
        credentials = self._credentials
        if credentials.password is not None or credentials.scram_keys is not None:
            return
        if credentials.md5_digest is not None:
            raise self._missing(
                "SCRAM", "an md5 hash cannot answer it; set server_password, or store the user's SCRAM verifier"
            )
        raise self._missing(
            "SCRAM",
            "set server_password, or let the user log in here by SCRAM once, which yields the key that is missing",
        )

    def _keys(self, salt: bytes, iterations: int) -> Dialogue[ScramKeys]:
        password, keys = self._credentials.password, self._credentials.scram_keys
        if password is not None:
            return (yield from offload(lambda: derive_keys(password, salt, iterations)))
        assert keys is not None  # _check_scram_possible
        if (keys.salt, keys.iterations) != (salt, iterations):
            raise self._missing(
                "SCRAM",
                "its verifier there is not the one by which the user logged in here (was the password changed?)",
            )
        return keys

    # After AuthenticationOk.

    def _read_greeting(self, method: str) -> Dialogue[BackendGreeting]:
        parameters: list[tuple[str, str]] = []
        key: tuple[int, bytes] | None = None
        while True:
            message = yield from self._receive(b"SKZ")
            if message.type == codes.PARAMETER_STATUS:
                parameters.append(parse_parameter_status(message.body))
            elif message.type == codes.BACKEND_KEY_DATA:
                if key is not None:
                    raise ProtocolViolation("the server sends a second BackendKeyData")
                key = parse_backend_key_data(message.body, self._version)
            else:
                process_id, secret = key or (0, b"")
                return BackendGreeting(
                    tuple(parameters), process_id, secret, self._version, _parse_status(message.body), method
                )


def _bounded(data: bytes) -> bytes:
    if len(data) > MAX_SERVER_MESSAGE:
        raise ProtocolViolation("the server's SCRAM message is too long")
    return data


def _parse_status(body: bytes) -> int:
    if len(body) != 1 or body[0] not in (codes.IDLE, codes.IN_TRANSACTION, codes.FAILED):
        shown = describe_type(body[0]) if len(body) == 1 else f"of {len(body)} bytes"
        raise ProtocolViolation(f"invalid transaction status {shown} in ReadyForQuery")
    return body[0]
