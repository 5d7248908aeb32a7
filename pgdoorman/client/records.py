"""What one process tells the next about a client that goes over: everything of a session that is not its socket.

A record is a value and outlives its session. It is read by another version of the program, perhaps: what a reader does
not know it passes over, and what a writer did not say has a default; `FORMAT` changes only when that is not enough.

It may hold keys and passwords that open server connections, so it goes from process to process through memory, is never
written to a file, and its `repr` shows none of them.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from pgdoorman.auth.secrets import ScramKeys
from pgdoorman.errors import HandoverError
from pgdoorman.transport.peer import Peer

FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class StatementRecord:
    """One prepared statement of a client. `name` is the client's, b"" for the unnamed one; `tail` the Parse message behind
    it; `parameters` what `Statement.parameters` says. `origin` tells the statements of the process before us apart:
    clients that shared one go on to do so. `is_current`: who parses the same text now is given the same statement."""

    name: bytes
    tail: bytes
    parameters: bytes | None = None
    origin: bytes = b""
    is_current: bool = False


@dataclass(frozen=True, slots=True)
class ClientRecord:
    """A client between two transactions. Times are monotonic seconds, which all processes of a machine share."""

    database: str
    user: str
    peer: Peer
    version: int
    process_id: int  # of its cancel key
    secret: bytes = field(repr=False)
    application_name: str = ""
    connected_at: float = 0.0
    heard_at: float = 0.0
    startup_settings: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    told: Mapping[str, str] = field(default_factory=dict)
    statements: tuple[StatementRecord, ...] = field(default=(), repr=False)
    # What it has said and nobody has dealt with; at a message's beginning, behind `passing` bytes that nobody wants.
    input: bytes = field(default=b"", repr=False)
    passing: int = 0
    skipping: bool = False  # up to its Sync
    begin: bytes | None = None  # a block that no server knows of yet; b"": one that has failed
    ahead: tuple[str, ...] = ()
    custom_names: tuple[str, ...] = ()
    queries: int = 0
    singles: int = 0
    transactions: int = 0
    errors: int = 0
    # Of its pool: what a look-up had found of the user, None if the file names it; and what opens server connections.
    found_secret: str | None = field(default=None, repr=False)
    found_parameters: tuple[tuple[str, str], ...] = ()
    keys: ScramKeys | None = field(default=None, repr=False)
    password: bytes | None = field(default=None, repr=False)

    def to_bytes(self) -> bytes:
        """As it goes to the other process."""
        return json.dumps({one.name: _plain(getattr(self, one.name)) for one in fields(self)}).encode()

    @staticmethod
    def from_bytes(data: bytes) -> "ClientRecord":
        """Raises HandoverError if this is no record, or one of a client that lacks what every client has."""
        try:
            told = json.loads(data)
            known = {one.name for one in fields(ClientRecord)}
            return ClientRecord(**{name: _READERS.get(name, _as_is)(told[name]) for name in told if name in known})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            # Not its text: that may show what was to be read.
            raise HandoverError(f"a client's record cannot be read ({type(error).__name__})") from None


# Bytes are told as the text that Latin-1 makes of them: most are texts, and stay as short as they are.


def _plain(value: Any) -> Any:
    match value:
        case bytes():
            return value.decode("latin-1")
        case Mapping():
            return dict(value)
        case Peer() | ScramKeys() | StatementRecord():
            return {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
        case tuple():
            return [_plain(one) for one in value]
    return value


def _as_is(value: Any) -> Any:
    return value


def _bytes(value: str | None) -> bytes | None:
    return None if value is None else value.encode("latin-1")


def _statement(told: Mapping[str, Any]) -> StatementRecord:
    return StatementRecord(
        name=told["name"].encode("latin-1"),
        tail=told["tail"].encode("latin-1"),
        parameters=_bytes(told.get("parameters")),
        origin=told.get("origin", "").encode("latin-1"),
        is_current=bool(told.get("is_current")),
    )


def _keys(told: Mapping[str, Any] | None) -> ScramKeys | None:
    if told is None:
        return None
    salt, client_key, server_key = (told[name].encode("latin-1") for name in ("salt", "client_key", "server_key"))
    return ScramKeys(int(told["iterations"]), salt, client_key, server_key)


def _peer(told: Mapping[str, Any]) -> Peer:
    known = {one.name for one in fields(Peer)}
    return Peer(**{name: value for name, value in told.items() if name in known})


_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "peer": _peer,
    "secret": _bytes,
    "input": _bytes,
    "begin": _bytes,
    "password": _bytes,
    "keys": _keys,
    "statements": lambda told: tuple(map(_statement, told)),
    "ahead": tuple,
    "custom_names": tuple,
    "found_parameters": lambda told: tuple((name, value) for name, value in told),
}
