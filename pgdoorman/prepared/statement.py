"""The statements of a pool, shared by all its clients.

A statement is one query text with its parameter types under one set of settings that matter when a text is analysed
(DateStyle turns '01/02/2020' into a date while parsing), and of one generation: after DDL a new Parse of an old text must
be analysed anew, as PostgreSQL does for a client that parses it anew. Each has a name of ours, which the backends know
it by. The name carries a token that is drawn at start, so that no client can guess or collide with it.

Keys are the texts themselves, not hashes: two statements are the same only if they are equal.
"""

import re
import secrets
from collections import OrderedDict
from collections.abc import Hashable
from itertools import count
from threading import Lock
from time import monotonic
from weakref import WeakValueDictionary

from pgdoorman.constants import bind_constants
from pgdoorman.prepared.scan import LOADS, RESETS, SPEAKS_OF_NAMES, names_called, scan

# Every name of ours begins with this; see `rewrite.restore_names`.
PREFIX = b"pgdoorman_%b_" % secrets.token_hex(4).encode()

CERTAIN = 60.0  # seconds for which a statement is taken to be what PostgreSQL would make of its text
LARGEST_REMEMBERED = 65536  # bytes of a text that is still kept for others

EXPLAINING = rb"(?:explain\b(?:\s*+\([^()]*+\)|\s++(?:analyze|analyse|verbose)\b)*+\s*+)?+"
_SPEAKING = re.compile(rb"\s*+(?:deallocate|%bexecute|prepare)\b" % EXPLAINING, re.IGNORECASE)

_RESETTING = re.compile(
    rb"\s*+(?:--|/\*|reset\b|discard\b|set\b.*\b(?:default|local|names)\b)", re.IGNORECASE | re.DOTALL
)

_LOADING = re.compile(rb"\s*+load\b", re.IGNORECASE)

_numbers = count(1)


def new_name() -> bytes:
    """A statement name that was never used in this process."""
    return PREFIX + b"%d" % next(_numbers)


class Statement:
    """One shared statement. `tail` is the Parse message behind its statement name: text, NUL, parameter types."""

    __slots__ = (
        "__weakref__",
        "calls",
        "columns",
        "elder",
        "flags",
        "generation",
        "name",
        "parameters",
        "tail",
        "uses",
        "valid_for",
    )

    def __init__(self, tail: bytes, name: bytes = b"") -> None:
        self.name = name or new_name()
        self.tail = tail
        text = self.text
        self.flags = scan(text)
        if _SPEAKING.match(tail):
            self.flags |= SPEAKS_OF_NAMES
        elif _RESETTING.match(tail):
            self.flags |= RESETS
        elif _LOADING.match(tail):
            self.flags |= LOADS
        self.calls = frozenset(names_called(text))
        self.uses = 0
        self.generation = -1  # of the book's; not shared if -1
        self.elder: Statement | None = None  # what others have for the same text: is that still the same?
        # What PostgreSQL said when it was parsed first, None if that is not known: the body of the ParameterDescription, and
        # what tells its columns apart (see `description.columns_of`; empty if it returns no rows).
        self.parameters: bytes | None = None
        self.columns: bytes | None = None
        # The generation and the settings under which its text was last found good; None: it is not known.
        self.valid_for: tuple[int, Hashable] | None = None

    def __repr__(self) -> str:
        return f"<Statement {self.name.decode()} {self.text[:60]!r}>"

    @property
    def text(self) -> bytes:
        """The query text, in the encoding of the client that sent it."""
        return self.tail[: self.tail.index(0)]

    def again(self) -> "Statement":
        """The same under another name."""
        statement = Statement(self.tail)
        statement.parameters = self.parameters
        statement.columns = self.columns
        return statement


def without_rows(tail: bytes, name: bytes = b"") -> Statement:
    """An empty statement; `tail` as in `Statement`."""
    statement = Statement(tail, name)
    statement.parameters = tail[1:]
    statement.columns = b""
    return statement


ABSENT_PREFIX = PREFIX + b"absent"

TAKEN = without_rows(b"\0\0\0", PREFIX + b"taken")
"""An empty statement. A Parse under its name is refused as one under a client's live name is, in any state of the backend,
also where it could not be given the live one."""


def absent(statement: Statement) -> Statement | None:
    """An empty statement with as many parameters. In a block that has failed nothing can be prepared but that; a Bind of it
    is refused for the reason that comes first, as a Bind of the other is. None if that may be allowed there."""
    if _ALLOWED_IN_FAILED.match(statement.tail):
        return None
    count_ = parameter_count(statement)
    if count_ is None:
        count_ = max([_declared(statement), *(int(number) for number in _PARAMETER.findall(statement.text))])
    if count_ > MOST_ABSENT:
        return None
    return _ABSENT[count_]


def _declared(statement: Statement) -> int:
    """How many types of parameters its Parse has."""
    behind = statement.tail.index(0) + 1
    return int.from_bytes(statement.tail[behind : behind + 2])


def parameter_count(statement: Statement) -> int | None:
    """How many parameters a good text has; None if that is not known, and cannot be said for certain from its bytes."""
    if statement.parameters is not None:
        return int.from_bytes(statement.parameters[:2])
    if len(statement.tail) > LARGEST_COUNTED:
        return None
    found = _declared(statement)
    for lexeme in _LEXEMES.finditer(statement.text):
        if lexeme.lastgroup == "number":
            found = max(found, int(lexeme.group()[1:]))
        elif lexeme.lastgroup == "unclear":
            return None
    return found


LARGEST_COUNTED = 8192

# Comments, literals (with a backslash in them only where it is known to be an escape), quoted and plain names, parameters.
_LEXEMES = re.compile(
    rb"--[^\n\r]*+|/\*(?:[^*/]|\*(?!/)|/(?!\*))*+\*/|[eE]'(?:[^'\\]|''|\\.)*+'|'(?:[^'\\]|'')*+'|\"(?:[^\"]|\"\")*+\""
    rb"|[A-Za-z_\x80-\xff][\w$\x80-\xff]*+|(?P<number>\$\d{1,5}+(?!\d))|(?P<unclear>['\"$]|/\*)",
    re.DOTALL,
)


_ALLOWED_IN_FAILED = re.compile(rb"(?:\s|;|--|/\*)*+(?:\0|commit|rollback|end|abort|prepare)", re.IGNORECASE)
_PARAMETER = re.compile(rb"\$(\d{1,5})")
MOST_ABSENT = 20
_ABSENT = [
    without_rows(b"\0" + number.to_bytes(2) + (25).to_bytes(4) * number, ABSENT_PREFIX + b"%d" % number)
    for number in range(MOST_ABSENT + 1)
]


def alike(statement: Statement) -> Statement:
    """An empty statement with the same parameters; they must be known."""
    assert statement.parameters is not None
    return without_rows(b"\0" + statement.parameters, ABSENT_PREFIX + b"n%d" % next(_numbers))


def changing(statement: Statement) -> Statement:
    """A statement with the same parameters whose column is of another type under each of two search paths: PostgreSQL refuses
    to bind or describe it, once it has been parsed under the one, under the other. (No other name of a type, a table or a
    function is in both schemas. PostgreSQL 14 and later.)"""
    assert statement.parameters is not None
    return Statement(_CHANGING + statement.parameters, ABSENT_PREFIX + b"n%d" % next(_numbers))


_CHANGING = b"select null::_pg_user_mappings\0"
CHANGING_PATHS = (b"pg_catalog", b"information_schema")


class StatementBook:
    """The shared statements of one pool, at most `limit` of them; the least recently parsed are forgotten first.

    Forgetting only ends the sharing: clients and backends that refer to a statement keep it alive.
    """

    def __init__(self, limit: int) -> None:
        self._lock = Lock()
        self._limit = limit
        self._statements: OrderedDict[tuple[bytes, Hashable], Statement] = OrderedDict()
        # Those that were not asked for lately: kept here by whoever refers to them, and found again as long as they are.
        self._resting: WeakValueDictionary[tuple[bytes, Hashable], Statement] = WeakValueDictionary()
        self._uses_before: dict[tuple[bytes, Hashable], tuple[int, float]] = {}
        self._seen: OrderedDict[bytes, int] = OrderedDict()
        self._round = 0
        self._doubted_at = monotonic()
        self.generation = 0
        self.evictions = 0

    def find(self, tail: bytes, settings: Hashable) -> Statement:
        """The statement for this text and these settings, made if it is new. Large ones are not shared. (If it is in doubt: one
        for the asker alone, whose elder it is.)"""
        if len(tail) > LARGEST_REMEMBERED:
            return Statement(tail)
        with self._lock:
            key = (tail, settings)
            statement = self._statements.get(key)
            if statement is None:
                statement = self._wake_locked(key)
                if statement is None:
                    statement = Statement(tail)
                    statement.valid_for = (self.generation, settings)
                self._statements[key] = statement
                if len(self._statements) > self._limit:
                    self._statements.popitem(last=False)
                    self.evictions += 1
            else:
                self._statements.move_to_end(key)
            statement.uses += 1
            doubted = 0 <= statement.generation < self.generation
            statement.generation = self.generation
        if doubted:
            elder, statement = statement, Statement(tail)
            statement.elder = elder
        return statement

    def is_familiar(self, tail: bytes) -> bool:
        """Whether an unnamed statement with this text came by before. Texts with their values written into them come
        once; giving each a name on the server would only fill its memory. Large ones are not remembered: they would fill
        ours, and have their values written into them for sure."""
        if len(tail) > LARGEST_REMEMBERED:
            return False
        with self._lock:
            if tail in self._seen:
                self._seen.move_to_end(tail)
                self._seen[tail] = self._round
                return True
            self._seen[tail] = self._round
            while len(self._seen) > self._limit:  # by more than one where the limit was lowered
                self._seen.popitem(last=False)
            return False

    def renew(self) -> None:
        """DDL went by: texts parsed from now on are new statements."""
        with self._lock:
            self.generation += 1
            self._statements.clear()
            self._resting.clear()
            self._uses_before.clear()

    def doubt(self, now: float) -> None:
        """From time to time (`now` is monotonic seconds): tables may have been changed past this pool. The next to parse a text
        has it analysed anew."""
        if now - self._doubted_at >= CERTAIN:
            with self._lock:
                self._doubted_at = now
                self.generation += 1

    def outdated(self, statement: Statement) -> None:
        """Its columns have changed. Unless that was noticed before, it is as if DDL had gone by."""
        if statement.generation == self.generation:
            self.renew()

    def drop(self, statement: Statement) -> None:
        """It may be out of date: whoever parses its text from now on gets another. (Its settings are not known here; they do
        not matter enough to be.)"""
        with self._lock:
            for key in [key for key, shared in self._statements.items() if shared is statement]:
                del self._statements[key]

    def _wake_locked(self, key: tuple[bytes, Hashable]) -> Statement | None:
        statement = self._resting.get(key)
        if statement is not None:
            del self._resting[key]
        return statement

    def is_current(self, statement: Statement, settings: Hashable) -> bool:
        """Whether `find` has this very statement for its text and these settings."""
        with self._lock:
            key = (statement.tail, settings)
            return statement in (self._statements.get(key), self._resting.get(key))

    def sweep(self, now: float, idle: float) -> None:
        """Let go of what nobody has asked for in `idle` seconds; `now` is monotonic seconds. Called in rounds: a use is
        noticed by the count that has changed since the last one, which costs the users nothing."""
        with self._lock:
            before, self._uses_before = self._uses_before, {}
            for key, statement in list(self._statements.items()):
                uses, since = before.get(key, (-1, now))
                if statement.uses != uses:
                    since = now
                if now - since >= idle:
                    self._resting[key] = self._statements.pop(key)
                else:
                    self._uses_before[key] = (statement.uses, since)
            # Texts that came once: gone at the second round in which they did not come again.
            for tail in [tail for tail, seen in self._seen.items() if seen < self._round - 1]:
                del self._seen[tail]
            self._round += 1

    def resize(self, limit: int) -> None:
        """Change the limit; what is over it is forgotten."""
        with self._lock:
            self._limit = limit
            while len(self._statements) > limit:
                self._statements.popitem(last=False)
                self.evictions += 1

    def statements(self) -> list[Statement]:
        """Those shared at this moment."""
        with self._lock:
            return list(self._statements.values())

    def __len__(self) -> int:
        return len(self._statements)


class Carried:
    """Statements that clients have brought along from another process and that are in no book any more: parsed under other
    settings, or before DDL. Clients that shared one there share one here. For one thread."""

    def __init__(self) -> None:
        self._statements: WeakValueDictionary[bytes, Statement] = WeakValueDictionary()

    def find(self, origin: bytes, tail: bytes) -> Statement:
        """The statement that bore the name `origin`, which no two have, there."""
        statement = self._statements.get(origin)
        if statement is None or statement.tail != tail:
            statement = self._statements[origin] = Statement(tail)
        return statement


bind_constants(__name__)
