"""Host-based rules: who may come in, from where, and how that is proved (PostgreSQL manual, "The pg_hba.conf File").

The rules are PostgreSQL's own: lines are tried in order and the first that matches the connection decides, whatever
comes of it; if none matches, the connection is refused (see `hba_decision`). A line that cannot be honoured exactly is
an error when the file is read, never a line that is skipped.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Final

from pgdoorman.auth.addresses import (
    IpAddress,
    Network,
    address_bits,
    cidr_mask,
    parse_address,
)
from pgdoorman.auth.ldap_settings import LdapSettings
from pgdoorman.auth.patterns import compile_pattern
from pgdoorman.auth.rule_files import Field, ReadFile, RuleLine, Token, read_file, read_rules
from pgdoorman.errors import ConfigError, ConfigErrors


class Connection(Enum):
    """The first field of a line."""

    LOCAL = "local"
    HOST = "host"
    HOSTSSL = "hostssl"
    HOSTNOSSL = "hostnossl"
    HOSTGSSENC = "hostgssenc"
    HOSTNOGSSENC = "hostnogssenc"


class Method(Enum):
    """How identity is to be proved."""

    TRUST = "trust"
    REJECT = "reject"
    MD5 = "md5"
    PASSWORD = "password"  # noqa: S105  # the name of a method
    SCRAM = "scram-sha-256"
    CERT = "cert"
    PEER = "peer"
    PAM = "pam"
    LDAP = "ldap"
    JWT = "jwt"
    OAUTH = "oauth"
    STORED = "as stored"
    """In no file: what the legacy list of networks means. The strongest that the stored secret can do."""


class NameKind(Enum):
    """What a word in a database or user field means."""

    EXACT = "name"
    ALL = "all"
    SAMEUSER = "sameuser"
    REPLICATION = "replication"
    PATTERN = "regular expression"


@dataclass(frozen=True, slots=True)
class NameTest:
    """One word of a database or user field."""

    kind: NameKind
    text: str = ""
    pattern: re.Pattern[str] | None = None


class AddressKind(Enum):
    """What an address field means."""

    ALL = "all"
    SAMEHOST = "samehost"
    SAMENET = "samenet"
    NETWORK = "network"
    HOST_NAME = "host name"


@dataclass(frozen=True, slots=True)
class AddressTest:
    """The address field. A host name that begins with a dot stands for all names that end so."""

    kind: AddressKind
    network: Network | None = None
    host_name: str = ""


NO_OPTIONS: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class HbaRule:
    """One line. `address` is None for `local`. `text` shows the line, without the passwords in it."""

    file: str
    line: int
    text: str
    connection: Connection
    databases: tuple[NameTest, ...]
    users: tuple[NameTest, ...]
    address: AddressTest | None
    method: Method
    options: Mapping[str, str] = field(default=NO_OPTIONS, repr=False)

    @property
    def map(self) -> str:
        """The user-name map, "" for none."""
        return self.options.get("map", "")

    @property
    def client_cert(self) -> str:
        """ "verify-ca", "verify-full" or "" (no certificate asked for)."""
        return "verify-full" if self.method is Method.CERT else self.options.get("clientcert", "")

    @property
    def client_name(self) -> str:
        """Which name of a certificate counts: "CN" or "DN"."""
        return self.options.get("clientname", "CN")

    @property
    def place(self) -> str:
        """Where the line stands, for people."""
        return f"line {self.line} of {self.file}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class HbaRules:
    """All lines, in order."""

    rules: tuple[HbaRule, ...]

    @property
    def map_names(self) -> frozenset[str]:
        """The user-name maps that lines refer to."""
        return frozenset(rule.map for rule in self.rules if rule.map)


# Rules that are in no file.


def allow_all() -> HbaRules:
    """What holds when neither rules nor a list of networks are configured."""
    return _networks_rules([])


def rules_from_networks(networks: Iterable[str], key: str = "hba") -> HbaRules:
    """The legacy list: unix sockets, and clients whose address is in one of these networks (all, if there are none)
    prove themselves by whatever is stored for them. Raises ConfigErrors."""
    tests: list[tuple[str, AddressTest]] = []
    errors: list[ConfigError] = []
    for text in networks:
        network = _parse_cidr(text)
        if network is None:
            errors.append(ConfigError(f'invalid network "{text}"', key=key))
        else:
            tests.append((text, AddressTest(AddressKind.NETWORK, network)))
    if errors:
        raise ConfigErrors(errors)
    return _networks_rules(tests, key)


def _networks_rules(tests: list[tuple[str, AddressTest]], key: str = "hba") -> HbaRules:
    everything = (NameTest(NameKind.ALL), NameTest(NameKind.REPLICATION))
    hosts = tests or [("all", AddressTest(AddressKind.ALL))]
    local = HbaRule(
        key, 0, "local all all", Connection.LOCAL, everything, (NameTest(NameKind.ALL),), None, Method.STORED
    )
    return HbaRules(
        (
            local,
            *(
                HbaRule(
                    key,
                    0,
                    f"host all all {text}",
                    Connection.HOST,
                    everything,
                    (NameTest(NameKind.ALL),),
                    test,
                    Method.STORED,
                )
                for text, test in hosts
            ),
        )
    )


def _parse_cidr(text: str) -> Network | None:
    host, slash, prefix = text.partition("/")
    address = parse_address(host)
    if address is None:
        return None
    bits = address_bits(address.version)
    if not slash:
        return Network(address.version, address.number, cidr_mask(address.version, bits))
    if not (prefix.isascii() and prefix.isdigit() and len(prefix) <= 3 and int(prefix) <= bits):
        return None
    return Network(address.version, address.number, cidr_mask(address.version, int(prefix)))


# Reading.


def parse_hba(text: str, file: str = "pg_hba.conf", read: ReadFile = read_file, first_line: int = 1) -> HbaRules:
    """Read rules. `file` names the text in errors, and relative paths in it begin at its directory; the text begins at
    `first_line` of it. Raises ConfigErrors with every line that cannot be used."""
    source = read_rules(text, file, read, first_line)
    errors: list[ConfigError] = list(source.errors)
    rules: list[HbaRule] = []
    for line in source.lines:
        try:
            rules.append(_LineParser(line).parse())
        except ConfigError as error:
            errors.append(error)
    if errors:
        raise ConfigErrors(errors)
    return HbaRules(tuple(rules))


def load_hba(path: str, read: ReadFile = read_file) -> HbaRules:
    """Read a file of rules. Raises ConfigErrors."""
    try:
        text = read(path)
    except OSError as error:
        raise ConfigErrors(
            [ConfigError(f"could not open the file of host-based rules: {error.strerror or error}", file=path)]
        ) from None
    return parse_hba(text, path, read)


_NOT_OFFERED: Final = {
    "ident": "it needs an ident server on the client's side; it is supported on local lines only, where it means peer",
    "gss": "GSSAPI is not supported",
    "sspi": "SSPI is not supported",
    "bsd": "BSD authentication is not supported",
    "radius": "RADIUS is not supported",
}

_SECRET_OPTION: Final = re.compile(r'((?:ldapbindpasswd|radiussecrets)=)("(?:[^"]|"")*"|[^\s,]*)', re.IGNORECASE)
_QUOTED_SECRET_OPTION: Final = re.compile(r'"((?:ldapbindpasswd|radiussecrets)=)(?:[^"]|"")*"', re.IGNORECASE)


class _LineParser:
    def __init__(self, line: RuleLine) -> None:
        self._line = line
        self._next = 0

    def parse(self) -> HbaRule:
        connection = self._connection()
        databases = self._names("database", self._database_test)
        users = self._names("role", self._user_test)
        address = None if connection is Connection.LOCAL else self._address()
        method = self._method(connection)
        options = parse_options(self._line, connection, method, self._rest())
        return HbaRule(
            self._line.file,
            self._line.number,
            _without_secrets(self._line.text),
            connection,
            databases,
            users,
            address,
            method,
            MappingProxyType(options),
        )

    def _field(self, what: str) -> Field:
        if self._next == len(self._line.fields):
            raise self._line.error(f"end-of-line before {what} specification")
        self._next += 1
        return self._line.fields[self._next - 1]

    def _single(self, what: str) -> Token:
        tokens = self._field(what)
        if len(tokens) > 1:
            raise self._line.error(f"multiple values specified for {what}")
        return tokens[0]

    def _rest(self) -> list[Token]:
        return [token for tokens in self._line.fields[self._next :] for token in tokens]

    def _connection(self) -> Connection:
        token = self._single("connection type")
        try:
            return Connection(token.text)
        except ValueError:
            raise self._line.error(f'invalid connection type "{token.text}"') from None

    def _names(self, what: str, test: Callable[[Token], NameTest]) -> tuple[NameTest, ...]:
        return tuple(map(test, self._field(what)))

    def _database_test(self, token: Token) -> NameTest:
        if token.is_keyword("samerole") or token.is_keyword("samegroup"):
            raise self._no_membership(token)
        for kind in (NameKind.SAMEUSER, NameKind.REPLICATION):
            if token.is_keyword(kind.value):
                return NameTest(kind)
        return self._name_test(token)

    def _user_test(self, token: Token) -> NameTest:
        if not token.quoted and token.text.startswith("+"):
            raise self._no_membership(token)
        return self._name_test(token)

    def _no_membership(self, token: Token) -> ConfigError:
        return self._line.error(
            f'"{token.text}" is not supported: it asks for membership in a role, which only the catalogs tell; '
            "list the names, or keep them in a file (@file)"
        )

    def _name_test(self, token: Token) -> NameTest:
        if token.is_keyword("all"):
            return NameTest(NameKind.ALL)
        if not token.text.startswith("/"):
            return NameTest(NameKind.EXACT, token.text)
        try:
            return NameTest(NameKind.PATTERN, token.text, compile_pattern(token.text[1:]))
        except ValueError as error:
            raise self._line.error(f'invalid regular expression "{token.text[1:]}": {error}') from None

    # The address.

    def _address(self) -> AddressTest:
        token = self._single("IP address")
        for kind in (AddressKind.ALL, AddressKind.SAMEHOST, AddressKind.SAMENET):
            if token.is_keyword(kind.value):
                return AddressTest(kind)
        host, slash, _ = token.text.partition("/")
        address = parse_address(host)
        if address is None:
            return self._host_name(host, slash)
        if not slash:
            return AddressTest(AddressKind.NETWORK, self._masked(token.text, address))
        network = _parse_cidr(token.text)
        if network is None:
            raise self._line.error(f'invalid CIDR mask in address "{token.text}"')
        return AddressTest(AddressKind.NETWORK, network)

    def _masked(self, text: str, address: IpAddress) -> Network:
        if self._next == len(self._line.fields):
            raise self._line.error(
                f'end-of-line before netmask specification: give "{text}" as a range in CIDR notation, or a separate '
                "netmask"
            )
        token = self._single("netmask")
        mask = parse_address(token.text)
        if mask is None:
            raise self._line.error(f'invalid IP mask "{token.text}"')
        if mask.version != address.version:
            raise self._line.error("IP address and mask do not match")
        return Network(address.version, address.number, mask.number)

    def _host_name(self, name: str, slash: str) -> AddressTest:
        # What ends in digits is an address that went wrong, not a name: no top-level domain is a number.
        if not _HOST_NAME.match(name) or name.rstrip(".").rpartition(".")[2].isdigit():
            raise self._line.error(f'invalid IP address or host name "{name}"')
        if slash:
            raise self._line.error("specifying both host name and CIDR mask is invalid")
        return AddressTest(AddressKind.HOST_NAME, host_name=name)

    # The method.

    def _method(self, connection: Connection) -> Method:
        name = self._single("authentication method").text
        if name == "ident" and connection is Connection.LOCAL:
            return Method.PEER
        if name in _NOT_OFFERED:
            raise self._line.error(f'authentication method "{name}" is not offered: {_NOT_OFFERED[name]}')
        if name not in _METHODS:
            raise self._line.error(f'invalid authentication method "{name}"')
        method = _METHODS[name]
        if method is Method.PEER and connection is not Connection.LOCAL:
            raise self._line.error("peer authentication is only supported on local sockets")
        if method is Method.CERT and connection is not Connection.HOSTSSL:
            raise self._line.error("cert authentication is only supported on hostssl connections")
        return method


_METHODS: Final = {method.value: method for method in Method if method is not Method.STORED}
_HOST_NAME: Final = re.compile(r"\.?[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?\Z")


def _without_secrets(text: str) -> str:
    return _SECRET_OPTION.sub(r"\1***", _QUOTED_SECRET_OPTION.sub(r"\1***", text))


# Options.

_MAPPED: Final = frozenset({Method.PEER, Method.CERT, Method.JWT, Method.OAUTH})
_LDAP_OPTIONS: Final = frozenset(
    {
        "ldapurl",
        "ldaptls",
        "ldapscheme",
        "ldapserver",
        "ldapport",
        "ldapbinddn",
        "ldapbindpasswd",
        "ldapsearchattribute",
        "ldapsearchfilter",
        "ldapbasedn",
        "ldapprefix",
        "ldapsuffix",
        "ldapcafile",
    }
)
_TOKEN_OPTIONS: Final = frozenset({"key", "jwks", "audience", "issuer", "claim"})
_METHOD_OPTIONS: Final[Mapping[Method, frozenset[str]]] = {
    Method.PAM: frozenset({"pamservice", "pam_use_hostname"}),
    Method.LDAP: _LDAP_OPTIONS,
    Method.JWT: _TOKEN_OPTIONS,
    Method.OAUTH: _TOKEN_OPTIONS | {"scope"},
}


def parse_options(line: RuleLine, connection: Connection, method: Method, tokens: list[Token]) -> dict[str, str]:
    """The options behind a method, checked. Raises ConfigError."""
    options: dict[str, str] = {}
    for token in tokens:
        name, equals, value = token.text.partition("=")
        if not equals:
            raise line.error(f"authentication option not in name=value format: {name}")
        _check_option(line, connection, method, name, value)
        options[name] = value
    if method is Method.LDAP:
        try:
            LdapSettings.from_options(options)
        except ValueError as error:
            raise line.error(str(error)) from None
    if method in (Method.JWT, Method.OAUTH) and not options.keys() & {"key", "jwks"}:
        raise line.error(f'authentication method "{method.value}" requires argument "key" or "jwks" to be set')
    if method is Method.OAUTH and not {"issuer", "scope"} <= options.keys():
        raise line.error('authentication method "oauth" requires arguments "issuer" and "scope" to be set')
    return options


def _check_option(line: RuleLine, connection: Connection, method: Method, name: str, value: str) -> None:
    if name == "map":
        if method not in _MAPPED:
            raise line.error('authentication option "map" is only valid for methods peer, cert, jwt, oauth')
    elif name == "clientcert":
        if connection is not Connection.HOSTSSL:
            raise line.error("clientcert can only be configured for hostssl rows")
        if value not in ("verify-ca", "verify-full"):
            raise line.error(f'invalid value for clientcert: "{value}"')
        if method is Method.CERT and value != "verify-full":
            raise line.error('clientcert only accepts "verify-full" when using cert authentication')
    elif name == "clientname":
        if connection is not Connection.HOSTSSL or value not in ("CN", "DN"):
            raise line.error(f'invalid value for clientname, or not on a hostssl row: "{value}"')
    elif name not in _METHOD_OPTIONS.get(method, frozenset()):
        raise line.error(f'unrecognized authentication option "{name}" for method {method.value}')
    else:
        _check_value(line, name, value)


def _check_value(line: RuleLine, name: str, value: str) -> None:
    if name in ("ldaptls", "pam_use_hostname") and value not in ("0", "1"):
        raise line.error(f'invalid value for {name}: "{value}"')
