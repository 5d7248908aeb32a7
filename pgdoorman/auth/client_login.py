"""The log-in of a client: the rules say how identity is to be proved, and this dialogue has it proved.

`authenticate` ends just before AuthenticationOk, which is the caller's to send: it may still find that the database
does not exist or that the server refuses. Everything that a client can learn from a refusal is one text; why it was
refused is in `LoginRefused.reason`, for the log.

Whether a user exists shows neither in the conversation nor in its time: an unknown user is asked the same questions,
its answer is judged against a verifier that nothing fits, and every failed password costs one key derivation no matter
what was stored.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from pgdoorman.auth import oauth
from pgdoorman.auth.addresses import Neighbourhood
from pgdoorman.auth.hba import NO_OPTIONS, HbaRule, HbaRules, Method
from pgdoorman.auth.hba_decision import Explanation, HbaQuestion, decide
from pgdoorman.auth.ident import NO_MAPS, IdentMaps
from pgdoorman.auth.ldap_settings import LdapSettings
from pgdoorman.auth.md5 import md5_answer, md5_digest
from pgdoorman.auth.neighbourhood import SystemNeighbourhood
from pgdoorman.auth.pam import PamQuestion, pam_refusal
from pgdoorman.auth.scram import (
    MAX_MESSAGE,
    NO_BINDINGS,
    MadeVerifiers,
    ServerExchange,
    offered_mechanisms,
)
from pgdoorman.auth.secrets import (
    MAX_ITERATIONS,
    Md5Secret,
    NoSecret,
    PamSecret,
    PlainSecret,
    ScramKeys,
    ScramSecret,
    StoredSecret,
    TokenKeySecret,
    is_heavy,
    password_fits,
    same_bytes,
)
from pgdoorman.auth.tokens import TALOS_USER, TalosGrant, TalosRules, TokenKeys, TokenRefused, TokenRules
from pgdoorman.errors import AuthenticationFailed, AuthorizationDenied, ProtocolViolation
from pgdoorman.protocol import authentication as wire
from pgdoorman.protocol import codes
from pgdoorman.protocol.dialogue import Dialogue, FindSecret, Send, offload, receive
from pgdoorman.protocol.startup import Replication


class LoginRefused(AuthenticationFailed):
    """The client could not prove who it is. `reason` is for the log and never reaches the client."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class LoginDenied(AuthorizationDenied):
    """The rules do not let this client in. `reason` is for the log and never reaches the client."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """A certificate whose chain TLS has verified. `common_name` is "" if the subject has none or one with a zero byte;
    `distinguished_name` is in RFC 2253 form, as PostgreSQL compares it."""

    common_name: str
    distinguished_name: str


@dataclass(frozen=True, slots=True)
class TlsFacts:
    """What is known of the client's TLS connection: channel binding data by type, and its certificate, if it showed
    one that was verified."""

    bindings: Mapping[str, bytes] = field(default_factory=lambda: NO_BINDINGS, repr=False)
    certificate: ClientCertificate | None = None


type UsualSecret = Literal["scram-sha-256", "md5", "plain"]
type SecretMix = tuple[tuple[UsualSecret, int], ...]
"""How many users have which kind of secret. Not empty."""

ONLY_SCRAM: Final[SecretMix] = (("scram-sha-256", 1),)


@dataclass(frozen=True, slots=True)
class LoginKnobs:
    """The owner's wishes, and what this process made up. One value for all log-ins.

    `unknown_users` says how users that do not exist are asked on an `md5` line, where existing users are asked according
    to their secret: each of them always the same way, and in all as many in each as there are real ones ("plain": as one
    whose password is stored in clear).
    `max_iterations` caps the rounds for a verifier when a
    password comes in clear, for roles may set their own. `pam_service` is for `pam` lines that name none."""

    verifiers: MadeVerifiers
    ident_maps: IdentMaps = NO_MAPS
    neighbourhood: Neighbourhood | None = None
    unknown_users: SecretMix = ONLY_SCRAM
    max_iterations: int = MAX_ITERATIONS
    pam_service: str = "pgdoorman"
    token_keys: TokenKeys = field(default_factory=TokenKeys, repr=False)
    talos: TalosRules | None = None


@dataclass(frozen=True, slots=True)
class LoginAttempt:
    """One client that wants in. `address` is None on a unix socket, else an IP address in text; `os_user` is the name
    of the user at the other end of a unix socket, "" if not known, and `find_os_user` finds it (which may block) where
    that is left for those methods that ask; `tls` is None without TLS."""

    user: str
    database: str
    address: str | None
    rules: HbaRules
    knobs: LoginKnobs
    tls: TlsFacts | None = None
    os_user: str = ""
    find_os_user: Callable[[], str] | None = None
    replication: Replication = Replication.NONE


@dataclass(frozen=True, slots=True)
class ClientIdentity:
    """Who a client has proved to be, and what was learnt on the way.

    `secret` is what was stored; `scram_keys` the keys that a SCRAM log-in against a stored verifier gives away, good
    for logging in to a server that has the same verifier; `password` what the client sent in clear; `system_user` what
    was proved before a user-name map was applied (certificate name, operating-system user, token subject);
    `application_name`, if not empty, takes the place of what the client calls itself. With Talos `user` is the role
    that a token grants, and not whom the client asked to be."""

    user: str
    method: str
    rule: HbaRule | None
    secret: StoredSecret | None = field(default=None, repr=False)
    scram_keys: ScramKeys | None = field(default=None, repr=False)
    password: bytes | None = field(default=None, repr=False)
    system_user: str = ""
    application_name: str = ""


def secret_mix(secrets: Iterable[StoredSecret]) -> SecretMix:
    """Of which kinds these are; a SCRAM verifier where none says otherwise."""
    kinds = Counter[UsualSecret]()
    for secret in secrets:
        match secret:
            case ScramSecret():
                kinds["scram-sha-256"] += 1
            case Md5Secret():
                kinds["md5"] += 1
            case PlainSecret():
                kinds["plain"] += 1
    return tuple(sorted(kinds.items())) or ONLY_SCRAM


def usual_secret(secrets: Iterable[StoredSecret]) -> UsualSecret:
    """The kind that most of these are of."""
    return max(secret_mix(secrets), key=lambda share: share[1])[0]


def authenticate(attempt: LoginAttempt) -> Dialogue[ClientIdentity]:
    """Have `attempt` prove itself. Ends before AuthenticationOk, which the caller sends.

    Raises LoginRefused (28P01), LoginDenied (28000), AuthorizationDenied and ProtocolViolation. Asks `FindSecret` once,
    and a second time with `stale` set when what it found does not fit."""
    return _ClientLogin(attempt).run()


class _ClientLogin:
    def __init__(self, attempt: LoginAttempt) -> None:
        self._attempt = attempt
        self._rule: HbaRule | None = None
        self._derived = False

    @property
    def _options(self) -> Mapping[str, str]:
        return self._rule.options if self._rule else NO_OPTIONS

    def run(self) -> Dialogue[ClientIdentity]:
        attempt = self._attempt
        question = HbaQuestion(
            attempt.user, attempt.database, attempt.address, attempt.tls is not None, attempt.replication
        )
        explanation = yield from decide(attempt.rules, question, attempt.knobs.neighbourhood)
        self._rule = explanation.rule
        if explanation.rule is None or explanation.method is Method.REJECT:
            raise self._denied(explanation)
        if explanation.rule.client_cert:
            self._require_certificate()
        identity = yield from self._prove(explanation.method)
        if identity.secret is None:
            # Somebody else has judged. That the user is known here is not what was proved.
            identity = replace(identity, secret=(yield from self._existing(identity.user)))
        if explanation.rule.client_cert == "verify-full" and explanation.method is not Method.CERT:
            self._check_certificate(explanation.rule)
        return identity

    def _prove(self, method: Method) -> Dialogue[ClientIdentity]:
        talos = self._attempt.knobs.talos
        if talos is not None and self._attempt.user == TALOS_USER:
            return (yield from self._talos(talos))
        match method:
            case Method.PEER:
                secret = yield from self._existing()
                return self._identified("peer", secret, (yield from self._peer_name()))
            case Method.CERT:
                return self._identified("cert", (yield from self._existing()), self._certificate_name())
            case Method.TRUST:
                return self._identified("trust", (yield from self._existing()), "")
            case Method.PAM:
                return (yield from self._pam(self._options.get("pamservice", self._attempt.knobs.pam_service)))
            case Method.LDAP:
                return (yield from self._ldap(LdapSettings.from_options(self._options)))
            case Method.JWT:
                return (yield from self._token(TokenRules.from_options(self._options)))
            case Method.OAUTH:
                return (yield from self._oauth())
        stored: StoredSecret | None = yield FindSecret(self._attempt.user, self._attempt.database)
        match stored:
            case PamSecret(service):
                return replace((yield from self._pam(service)), secret=stored)
            case TokenKeySecret(path):
                return replace((yield from self._token(TokenRules(path))), secret=stored)
        return (yield from self._prove_by_secret(method, stored))

    def _prove_by_secret(self, method: Method, secret: StoredSecret | None) -> Dialogue[ClientIdentity]:
        match self._way(method, secret):
            case Method.PASSWORD:
                return (yield from self._cleartext(secret))
            case Method.MD5:
                return (yield from self._md5(secret))
            case Method.SCRAM:
                return (yield from self._scram(secret))
        raise self._refused(f"authentication method {method.value} is not available")

    def _way(self, method: Method, secret: StoredSecret | None) -> Method:
        """The conversation that a line's method means for this secret. A secret only ever makes it stronger: `md5`
        lines admit a SCRAM verifier by SCRAM, while `scram-sha-256` lines have no use for an md5 hash."""
        if method not in (Method.MD5, Method.STORED):
            return method
        match secret:
            case ScramSecret():
                return Method.SCRAM
            case Md5Secret():
                return Method.MD5
            case PlainSecret():
                return Method.MD5 if method is Method.MD5 else Method.SCRAM
        pretended = self._pretended_kind()
        if pretended == "plain":
            return Method.MD5 if method is Method.MD5 else Method.SCRAM
        return Method(pretended)

    def _pretended_kind(self) -> UsualSecret:
        """What a user that does not exist seems to have. Were it one kind for all of them, a question of another kind would
        tell that its user exists."""
        knobs = self._attempt.knobs
        mix = knobs.unknown_users
        place = knobs.verifiers.lot_for(self._attempt.user, sum(count for _, count in mix))
        for kind, count in mix:
            if place < count:
                return kind
            place -= count
        raise AssertionError(place)

    # Without a password.

    def _existing(self, user: str = "") -> Dialogue[StoredSecret]:
        user = user or self._attempt.user
        secret: StoredSecret | None = yield FindSecret(user, self._attempt.database)
        if secret is None:
            raise LoginDenied(f'role "{user}" does not exist', "no such user")
        return secret

    def _identified(self, method: str, secret: StoredSecret, system_user: str) -> ClientIdentity:
        return ClientIdentity(self._attempt.user, method, self._rule, secret, system_user=system_user)

    def _peer_name(self) -> Dialogue[str]:
        find = self._attempt.find_os_user
        name = (yield from offload(find, waits=True)) if find is not None else self._attempt.os_user
        self._check_map(name, f'Peer authentication failed for user "{self._attempt.user}"')
        return name

    def _certificate_name(self) -> str:
        assert self._rule is not None
        return self._check_certificate(self._rule)

    def _require_certificate(self) -> ClientCertificate:
        tls = self._attempt.tls
        if tls is None or tls.certificate is None:
            raise LoginDenied("connection requires a valid client certificate", "no client certificate")
        return tls.certificate

    def _check_certificate(self, rule: HbaRule) -> str:
        certificate = self._require_certificate()
        name = certificate.distinguished_name if rule.client_name == "DN" else certificate.common_name
        self._check_map(name, f'certificate authentication failed for user "{self._attempt.user}"')
        return name

    def _check_map(self, name: str, message: str) -> None:
        map_name = self._options.get("map", "")
        if not name:
            raise LoginDenied(message, "the name that should prove identity is empty")
        if not self._attempt.knobs.ident_maps.admits(map_name, name, self._attempt.user):
            reason = f'no match in user-name map "{map_name}" for' if map_name else "the name is not the user's:"
            raise LoginDenied(message, f'{reason} "{name}"')

    # With a password in clear.

    def _ask_password(self) -> Dialogue[bytes]:
        yield Send(wire.cleartext())
        return (yield from self._read_password())

    def _read_password(self) -> Dialogue[bytes]:
        message = yield from receive(bytes((codes.PASSWORD,)), wire.MAX_PASSWORD + 5)
        password = wire.parse_password_message(message.body)
        if not password:
            raise self._refused("empty password returned by client")
        return password

    def _cleartext(self, secret: StoredSecret | None) -> Dialogue[ClientIdentity]:
        password = yield from self._ask_password()
        fits = yield from self._fits(secret, password)
        if not fits:
            newer = yield from self._look_again(secret)
            if newer != secret:
                secret, fits = newer, (yield from self._fits(newer, password))
        if not fits:
            yield from self._fail("wrong password" if secret else "no such user")
        return ClientIdentity(self._attempt.user, "password", self._rule, secret, password=password)

    def _fits(self, secret: StoredSecret | None, password: bytes) -> Dialogue[bool]:
        attempt = self._attempt

        def work() -> bool:
            return password_fits(secret, attempt.user, password, attempt.knobs.max_iterations)

        if not is_heavy(secret):
            return work()
        self._derived = True
        return (yield from offload(work))

    # Judged by others. Whether the user is known here is for the caller to find.

    def _pam(self, service: str) -> Dialogue[ClientIdentity]:
        attempt, named = self._attempt, self._options.get("pam_use_hostname") == "1"
        password = yield from self._ask_password()
        neighbourhood = attempt.knobs.neighbourhood or SystemNeighbourhood()

        def work() -> str:
            address = attempt.address or "[local]"
            host = neighbourhood.host_name(address) if named and attempt.address else None
            return pam_refusal(PamQuestion(service, attempt.user, password, host or address))

        reason = yield from offload(work, waits=True)
        if reason:
            raise LoginRefused(f'PAM authentication failed for user "{attempt.user}"', reason)
        return ClientIdentity(attempt.user, "pam", self._rule, password=password)

    def _ldap(self, settings: LdapSettings) -> Dialogue[ClientIdentity]:
        user = self._attempt.user
        password = yield from self._ask_password()

        def work() -> str:
            from pgdoorman.auth.ldap import ldap_refusal  # noqa: PLC0415 - heavy, and most houses have no LDAP

            return ldap_refusal(settings, user, password)

        reason = yield from offload(work, waits=True)
        if reason:
            raise LoginRefused(f'LDAP authentication failed for user "{user}"', reason)
        return ClientIdentity(user, "ldap", self._rule, password=password)

    def _token(self, rules: TokenRules) -> Dialogue[ClientIdentity]:
        attempt = self._attempt
        token = yield from self._ask_password()
        subject = yield from self._judge(token, rules, "JWT token validation failed. Please provide a valid token.")
        if not attempt.knobs.ident_maps.admits(self._options.get("map", ""), subject, attempt.user):
            raise LoginRefused(
                f"JWT token username mismatch. Token contains username '{subject}' but you're trying to connect as "
                f"'{attempt.user}'.",
                "the token is for another user",
            )
        return ClientIdentity(attempt.user, "jwt", self._rule, system_user=subject)

    def _talos(self, rules: TalosRules) -> Dialogue[ClientIdentity]:
        database, keys = self._attempt.database, self._attempt.knobs.token_keys
        token = yield from self._ask_password()

        def work() -> TalosGrant:
            from pgdoorman.auth.jwt import judge_talos  # noqa: PLC0415 - heavy, and most houses never see a token

            return judge_talos(token, rules, database, keys)

        try:
            grant = yield from offload(work)
        except TokenRefused as refused:
            raise LoginDenied(f'the token grants no role in database "{database}"', refused.message) from None
        return ClientIdentity(
            grant.role, "talos", self._rule, system_user=grant.client_id, application_name=grant.client_id
        )

    def _oauth(self) -> Dialogue[ClientIdentity]:
        attempt = self._attempt
        yield Send(wire.sasl([oauth.MECHANISM]))
        mechanism, first = yield from self._read_initial_response(oauth.MAX_MESSAGE)
        if mechanism != oauth.MECHANISM:
            raise ProtocolViolation("client selected an invalid SASL authentication mechanism")
        try:
            subject = yield from self._bearer(oauth.parse_client_message(first))
        except LoginRefused:
            yield Send(wire.sasl_continue(oauth.refusal(self._options)))
            answer = yield from receive(bytes((codes.PASSWORD,)), 64)
            if answer.body != oauth.ACKNOWLEDGEMENT:
                raise ProtocolViolation("malformed OAUTHBEARER message: an acknowledgement expected") from None
            raise
        return ClientIdentity(attempt.user, "oauth", self._rule, system_user=subject)

    def _bearer(self, token: bytes | None) -> Dialogue[str]:
        attempt = self._attempt
        message = f'OAuth bearer authentication failed for user "{attempt.user}"'
        if token is None:
            raise LoginRefused(message, "the client asked where tokens come from")
        subject = yield from self._judge(token, TokenRules.from_options(self._options), message)
        if not attempt.knobs.ident_maps.admits(self._options.get("map", ""), subject, attempt.user):
            raise LoginRefused(message, f'the token is for "{subject}"')
        return subject

    def _judge(self, token: bytes, rules: TokenRules, message: str) -> Dialogue[str]:
        keys = self._attempt.knobs.token_keys

        def work() -> str:
            from pgdoorman.auth.jwt import judge_token  # noqa: PLC0415 - heavy, and most houses never see a token

            return judge_token(token, rules, keys)

        try:
            return (yield from offload(work))
        except TokenRefused as refused:
            raise LoginRefused(message, refused.message) from None

    # MD5.

    def _md5(self, secret: StoredSecret | None) -> Dialogue[ClientIdentity]:
        salt = os.urandom(4)
        yield Send(wire.md5(salt))
        answer = yield from self._read_password()
        fits = _md5_fits(secret, self._attempt.user, salt, answer)
        if not fits:
            secret = yield from self._look_again(secret)
            fits = _md5_fits(secret, self._attempt.user, salt, answer)
        if not fits:
            yield from self._fail("wrong password" if secret else "no such user")
        return ClientIdentity(self._attempt.user, "md5", self._rule, secret)

    # SCRAM.

    def _scram(self, secret: StoredSecret | None) -> Dialogue[ClientIdentity]:
        bindings = self._attempt.tls.bindings if self._attempt.tls else NO_BINDINGS
        made = self._attempt.knobs.verifiers
        user = self._attempt.user
        known = secret if isinstance(secret, ScramSecret) else None
        shown = known or made.pretended(user)
        yield Send(wire.sasl(offered_mechanisms(bindings)))
        mechanism, first = yield from self._read_initial_response(MAX_MESSAGE)
        exchange = ServerExchange(mechanism, bindings)
        yield Send(wire.sasl_continue(exchange.first(first, shown.salt, shown.iterations)))
        message = yield from receive(bytes((codes.PASSWORD,)), MAX_MESSAGE + 4)
        claim = exchange.final(message.body)
        verifier = known or (yield from self._verifier(secret))
        keys = exchange.judge(claim, verifier)
        if keys is None:
            # A newer secret has another salt, so this exchange is lost in any case; but the next one will have it.
            yield from self._look_again(secret)
            yield from self._fail(_why_not_scram(secret))
        assert keys is not None
        yield Send(wire.sasl_final(exchange.last(claim, verifier)))
        # Keys that belong to a salt of our own making open no server.
        return ClientIdentity(user, mechanism.lower(), self._rule, secret, scram_keys=keys if known else None)

    def _verifier(self, secret: StoredSecret | None) -> Dialogue[ScramSecret]:
        """The verifier for a secret that is none: derived from a password, or one that nothing fits."""
        made, user = self._attempt.knobs.verifiers, self._attempt.user
        if not isinstance(secret, PlainSecret):
            return made.pretended(user)
        password = secret.password
        remembered = made.remembered(user, password)
        if remembered is not None:
            return remembered
        self._derived = True
        return (yield from offload(lambda: made.derive(user, password)))

    def _read_initial_response(self, limit: int) -> Dialogue[tuple[str, bytes]]:
        """Mechanism and first message, which is to have at most `limit` bytes."""
        message = yield from receive(bytes((codes.PASSWORD,)), limit + 64)
        mechanism, first = wire.parse_sasl_initial_response(message.body)
        if first is None:
            # The RFC's long form: the client waits for an empty challenge before it says anything.
            yield Send(wire.sasl_continue(b""))
            message = yield from receive(bytes((codes.PASSWORD,)), limit + 4)
            first = message.body
        return mechanism, first

    # Failing.

    def _look_again(self, secret: StoredSecret | None) -> Dialogue[StoredSecret | None]:
        """Ask for a secret that is newer than the one that did not fit: the password may have changed behind a cache.
        Asked for unknown users as well, or the time would tell them apart."""
        again: StoredSecret | None = yield FindSecret(self._attempt.user, self._attempt.database, stale=True)
        return again if again is not None else secret

    def _fail(self, reason: str) -> Dialogue[None]:
        if not self._derived:
            self._derived = True
            yield from offload(self._attempt.knobs.verifiers.waste_time)
        raise self._refused(reason)

    def _refused(self, reason: str) -> LoginRefused:
        return LoginRefused(f'password authentication failed for user "{self._attempt.user}"', reason)

    def _denied(self, explanation: Explanation) -> LoginDenied:
        attempt = self._attempt
        reason = f"rejected by {explanation.rule.place}" if explanation.rule else "no line matches"
        return LoginDenied(
            f"Connection from {attempt.address or 'local socket'} to {attempt.user}@{attempt.database} "
            f"(TLS: {'true' if attempt.tls else 'false'}) is not permitted by HBA configuration. "
            "Please contact your database administrator.",
            reason,
        )


def _why_not_scram(secret: StoredSecret | None) -> str:
    match secret:
        case None:
            return "no such user"
        case NoSecret():
            return "the user has no password, or an expired one"
        case Md5Secret():
            return "the user has an md5 hash, which cannot be used for SCRAM"
    return "wrong password"


def _md5_fits(secret: StoredSecret | None, user: str, salt: bytes, answer: bytes) -> bool:
    match secret:
        case Md5Secret(digest):
            return same_bytes(answer, md5_answer(digest, salt))
        case PlainSecret(password):
            return same_bytes(answer, md5_answer(md5_digest(user, password), salt))
    return False
