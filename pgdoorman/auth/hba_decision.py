"""Which line of the host-based rules decides about a connection, and why the others before it do not."""

from dataclasses import dataclass

from pgdoorman.auth.addresses import IpAddress, Neighbourhood, Network, parse_address
from pgdoorman.auth.hba import AddressKind, AddressTest, Connection, HbaRule, HbaRules, Method, NameKind, NameTest
from pgdoorman.auth.neighbourhood import SystemNeighbourhood
from pgdoorman.auth.patterns import search
from pgdoorman.protocol.dialogue import Dialogue, Offload, offload
from pgdoorman.protocol.startup import Replication


@dataclass(frozen=True, slots=True)
class HbaQuestion:
    """A connection as the rules see it. `address` is None for a unix socket, else an IP address in text."""

    user: str
    database: str
    address: str | None
    tls: bool = False
    replication: Replication = Replication.NONE


@dataclass(frozen=True, slots=True)
class Explanation:
    """The line that decides (None: no line matches, which refuses), and why each line before it does not."""

    question: HbaQuestion
    rule: HbaRule | None
    passed: tuple[tuple[HbaRule, str], ...]

    @property
    def method(self) -> Method:
        """How identity is to be proved; REJECT when no line matches."""
        return self.rule.method if self.rule else Method.REJECT

    def text(self) -> str:
        """Several lines for people."""
        lines = [f"{rule.place}: {rule.text}\n    does not match: {reason}" for rule, reason in self.passed]
        if self.rule is None:
            return "\n".join([*lines, "no line matches: the connection is refused"])
        return "\n".join([*lines, f"{self.rule.place}: {self.rule.text}\n    decides: {self.rule.method.value}"])


def decide(rules: HbaRules, question: HbaQuestion, neighbourhood: Neighbourhood | None = None) -> Dialogue[Explanation]:
    """The first line that matches. Asks `Offload` only for lines with host names, `samehost` or `samenet`."""
    inquiry = _Inquiry(question, neighbourhood or SystemNeighbourhood())
    passed: list[tuple[HbaRule, str]] = []
    for rule in rules.rules:
        reason = yield from inquiry.mismatch(rule)
        if not reason:
            return Explanation(question, rule, tuple(passed))
        passed.append((rule, reason))
    return Explanation(question, None, tuple(passed))


def explain(rules: HbaRules, question: HbaQuestion, neighbourhood: Neighbourhood | None = None) -> Explanation:
    """`decide` for a caller that may block."""
    dialogue = decide(rules, question, neighbourhood)
    answer: object = None
    while True:
        try:
            asked = dialogue.send(answer)
        except StopIteration as end:
            result: Explanation = end.value
            return result
        assert isinstance(asked, Offload)
        answer = asked.work()


class _Inquiry:
    """One connection held against the lines, with the answers of the neighbourhood remembered."""

    def __init__(self, question: HbaQuestion, neighbourhood: Neighbourhood) -> None:
        self._question = question
        self._neighbourhood = neighbourhood
        self._address = parse_address(question.address) if question.address is not None else None
        self._host_name: str | None = None
        self._asked_host_name = False
        self._resolves: dict[str, bool] = {}
        self._interfaces: tuple[Network, ...] | None = None

    def mismatch(self, rule: HbaRule) -> Dialogue[str]:
        """Why the line does not match, "" if it does. Cheap tests come first, so that a line of another database costs
        no look-up; the order of the tests does not change which line decides."""
        reason = self._connection_mismatch(rule.connection)
        if not reason and not self._database_matches(rule.databases):
            reason = "another database"
        if not reason and not self._user_matches(rule.users):
            reason = "another user"
        if not reason and rule.address is not None:
            matches = yield from self._address_matches(rule.address)
            reason = "" if matches else "another address"
        return reason

    def _connection_mismatch(self, connection: Connection) -> str:
        question = self._question
        if connection is Connection.LOCAL:
            return "" if question.address is None else "the connection is not local"
        if question.address is None:
            return "the connection is local"
        match connection:
            case Connection.HOSTSSL if not question.tls:
                return "the connection does not use TLS"
            case Connection.HOSTNOSSL if question.tls:
                return "the connection uses TLS"
            case Connection.HOSTGSSENC:
                return "the connection does not use GSSAPI encryption"
        return ""

    def _database_matches(self, tests: tuple[NameTest, ...]) -> bool:
        question = self._question
        if question.replication is Replication.PHYSICAL:
            # A physical replication connection is to no database, so no word but this one can mean it.
            return any(test.kind is NameKind.REPLICATION for test in tests)
        return any(self._names(test, question.database) for test in tests)

    def _user_matches(self, tests: tuple[NameTest, ...]) -> bool:
        return any(self._names(test, self._question.user) for test in tests)

    def _names(self, test: NameTest, name: str) -> bool:
        match test.kind:
            case NameKind.ALL:
                return True
            case NameKind.SAMEUSER:
                return self._question.user == self._question.database
            case NameKind.PATTERN:
                return test.pattern is not None and search(test.pattern, name) is not None
            case NameKind.EXACT:
                return test.text == name
        return False

    def _address_matches(self, test: AddressTest) -> Dialogue[bool]:
        if test.kind is AddressKind.ALL:
            return True
        if self._address is None:
            return False
        address = self._address
        match test.kind:
            case AddressKind.NETWORK:
                return test.network is not None and test.network.contains(address)
            case AddressKind.HOST_NAME:
                return (yield from self._host_matches(test.host_name))
        networks = yield from self._own_networks()
        return any(_is_near(network, address, test.kind) for network in networks)

    def _own_networks(self) -> Dialogue[tuple[Network, ...]]:
        if self._interfaces is None:
            neighbourhood = self._neighbourhood
            self._interfaces = yield from offload(lambda: tuple(neighbourhood.interfaces()))
        return self._interfaces

    def _host_matches(self, wanted: str) -> Dialogue[bool]:
        """As PostgreSQL does it: the name that the client's address has must fit, and must lead back to the address,
        since who owns an address can give it any name."""
        name = yield from self._client_host_name()
        if name is None or not _host_name_fits(name, wanted):
            return False
        return (yield from self._leads_back(name))

    def _client_host_name(self) -> Dialogue[str | None]:
        if not self._asked_host_name:
            neighbourhood, address = self._neighbourhood, self._question.address or ""
            self._host_name = yield from offload(lambda: neighbourhood.host_name(address), waits=True)
            self._asked_host_name = True
        return self._host_name

    def _leads_back(self, name: str) -> Dialogue[bool]:
        if name not in self._resolves:
            neighbourhood = self._neighbourhood
            found = yield from offload(lambda: tuple(neighbourhood.addresses(name)), waits=True)
            self._resolves[name] = any(parse_address(text) == self._address for text in found)
        return self._resolves[name]


def _is_near(network: Network, address: IpAddress, kind: AddressKind) -> bool:
    if kind is AddressKind.SAMEHOST:
        return (network.version, network.number) == (address.version, address.number)
    return network.contains(address)


def _host_name_fits(name: str, wanted: str) -> bool:
    name, wanted = name.lower().rstrip("."), wanted.lower().rstrip(".")
    return name.endswith(wanted) and len(name) > len(wanted) if wanted.startswith(".") else name == wanted
