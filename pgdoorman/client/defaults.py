"""What RESET returns to: the values that came with the client's login.

For the server the values of a client's start-up packet were put on its connection by a SET, since the connection is
older than the client; what it returns to by itself is its own. So a statement that resets something is followed by
another, in the same Query or the same segment, that sets what came with the login; and of that the client sees nothing.

    RESET timezone; SHOW timezone  ->  RESET timezone; SELECT set_config('timezone', ...); SHOW timezone

DISCARD ALL stands alone in a Query, so there the second statement is a Query of its own behind it: the ReadyForQuery that
the client sees is the second one's.
"""

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from pgdoorman.backend.connection import Backend
from pgdoorman.backend.inquiry import codec_of
from pgdoorman.backend.settings import DEFAULTS, lower_name, quote_name, quote_text, sql_bytes
from pgdoorman.prepared.client_names import ClientNames, Naming
from pgdoorman.prepared.rewrite import apart_messages, query_message
from pgdoorman.prepared.statement import new_name
from pgdoorman.protocol.codes import SYNC_MESSAGE
from pgdoorman.protocol.exchange import BIND, CLOSE, EXECUTE, PARSE, QUERY, SYNC, Effect, Expected
from pgdoorman.protocol.framing import message

if TYPE_CHECKING:
    from pgdoorman.client.session import Session

LONGEST: Final = 8192  # longer texts are not looked through

# How the texts begin, in the usual spellings.
STARTS: Final = frozenset(
    spelling for word in (b"set", b"res", b"dis") for spelling in (word, word.upper(), word.title())
)

_NAME: Final = (
    rb"((?:\"(?:[^\"]|\"\")+\"|[a-z_\x80-\xff][\w$\x80-\xff]*)(?:\s*\.\s*(?:\"(?:[^\"]|\"\")+\"|[\w$\x80-\xff]+))*)"
)
_RESETTING: Final = re.compile(
    rb"(?:reset\s+(?:(all)|(?P<zone>time\s+zone)|(?P<name>%b))"
    rb"|(?P<discard>discard\s+all)"
    rb"|set\s+(?:session\s+|(?P<local>local\s+))?(?:(?P<zone2>time\s+zone\s+(?:default|local))"
    rb"|(?P<names>names(?:\s+default)?)|(?P<name2>%b)\s*(?:=|\bto\b)\s*default))\s*\Z" % (_NAME, _NAME),
    re.IGNORECASE,
)
_WORTH_A_LOOK: Final = re.compile(
    rb"\breset\b|\bset\b.*\b(?:default|local|names)\b|\bdiscard\s+all\b", re.IGNORECASE | re.DOTALL
)

_SPECIAL: Final = re.compile(rb"['\"$;()]|--|/\*")
_ESCAPED: Final = re.compile(rb"'(?:[^'\\]|''|\\.)*+'", re.DOTALL)
_PLAIN: Final = re.compile(rb"'(?:[^']|'')*+'")
_QUOTED: Final = re.compile(rb"\"(?:[^\"]|\"\")*+\"")
_DOLLAR: Final = re.compile(rb"\$(?:[a-z_\x80-\xff][\w\x80-\xff]*+)?\$", re.IGNORECASE)
_COMMENT: Final = re.compile(rb"--[^\n]*+|/\*(?:[^*/]|\*(?!/)|/(?!\*))*+\*/")


def what_it_resets(statement: bytes, login: Mapping[str, str]) -> tuple[frozenset[str], bool] | None:
    """Which of the login's parameters one statement resets, and whether for its transaction only; None if none."""
    if b"--" in statement or b"/*" in statement:
        statement = _COMMENT.sub(b" ", statement)
    found = _RESETTING.match(statement.strip())
    if found is None:
        return None
    if found.group(1) or found.group("discard"):
        names = frozenset(login)
    elif found.group("zone") or found.group("zone2"):
        names = frozenset({"timezone"})
    elif found.group("names"):
        names = frozenset({"client_encoding"})
    else:
        own = found.group("name") or found.group("name2")
        names = frozenset({lower_name(re.sub(rb'[\s"]', b"", own).decode("utf-8", "replace"))})
    names &= frozenset(login)
    return (names, bool(found.group("local"))) if names else None


def statements_of(text: bytes) -> list[tuple[int, int]] | None:
    """Where the statements of a text begin and end (at their semicolon), without empty ones. None if that cannot be said for
    certain without knowing more of SQL or of the session."""
    if b"atomic" in text.lower():
        return None
    found: list[tuple[int, int]] = []
    position = begin = depth = 0
    filled = False  # whether the present statement is more than blanks and comments
    while True:
        special = _SPECIAL.search(text, position)
        stop = special.start() if special else len(text)
        filled = filled or (stop > position and not text[position:stop].isspace())
        if special is None:
            if filled:
                found.append((begin, len(text)))
            return found
        mark = special.group()
        position = special.end()
        if mark == b";" and depth <= 0:
            if filled:
                found.append((begin, stop))
            begin, filled = position, False
            continue
        if mark == b"--":
            newline = text.find(b"\n", position)
            position = len(text) if newline < 0 else newline + 1
            continue
        if mark == b"/*":
            close = text.find(b"*/", position)
            if close < 0 or b"/*" in text[position:close]:
                return None
            position = close + 2
            continue
        filled = True
        if mark in b"()":
            depth += 1 if mark == b"(" else -1
        elif mark == b"$":
            dollar = _DOLLAR.match(text, stop)
            if dollar is not None and not text[stop - 1 : stop].isalnum():
                close = text.find(dollar.group(), dollar.end())
                if close < 0:
                    return None
                position = close + len(dollar.group())
        elif mark != b";":
            escaped = mark == b"'" and text[stop - 1 : stop] in (b"e", b"E")
            literal = (_QUOTED if mark == b'"' else _ESCAPED if escaped else _PLAIN).match(text, stop)
            if literal is None or (mark == b"'" and not escaped and b"\\" in literal.group()):
                return None
            position = literal.end()


class Inserted:
    """A Query with statements of ours in it; an effect of the exchange. `ours` are their numbers among those of the Query,
    from 1; `places` says behind how many characters of the client's text how many characters of ours are."""

    __slots__ = ("also", "entry", "number", "ours", "places")

    def __init__(self, ours: frozenset[int], places: list[tuple[int, int]]) -> None:
        self.ours = ours
        self.places = places
        self.number = 1
        self.also: Naming | None = None
        self.entry = Expected(QUERY, effect=self)

    def completed(self) -> None:
        """One statement is answered: hide the next one's answers if it is ours."""
        self.number += 1
        self.entry.hidden = self.number in self.ours

    def own_position(self, position: int) -> int:
        """A position in the text as the client knows it."""
        shift = 0
        for place, length in self.places:
            if position - shift <= place:
                break
            shift += min(length, position - shift - place)
        return position - shift

    def happened(self) -> None:
        if self.also is not None:
            self.also.happened()

    def failed(self) -> None:
        if self.also is not None:
            self.also.failed()

    def skipped(self) -> None:
        if self.also is not None:
            self.also.skipped()


_POSITION: Final = re.compile(rb"\0P(\d+)\0")


def restore_position(frame: bytes, inserted: Inserted) -> bytes:
    """An ErrorResponse to a Query with statements of ours in it, with the position that the client's text has."""
    body = _POSITION.sub(lambda found: b"\0P%d\0" % inserted.own_position(int(found.group(1))), frame[5:])
    return message(frame[0], body)


class Withheld:
    """A DISCARD ALL whose ReadyForQuery is not passed on: that of the Query behind it is. An effect of the exchange."""

    __slots__ = ("also",)

    def __init__(self, also: Effect | None = None) -> None:
        self.also = also

    @property
    def holds(self) -> bool:
        """Whether what the server says at the end of this request is kept from the client."""
        return True

    def happened(self) -> None:
        if self.also is not None:
            self.also.happened()

    def failed(self) -> None:
        """A Query is answered by its ReadyForQuery."""

    def skipped(self) -> None:
        if self.also is not None:
            self.also.skipped()


class Discarding(Withheld):
    """The Sync (or Query) at the end of a segment with a DISCARD ALL in it, which is committed at once (`ran`), whatever
    becomes of the rest of the segment: what sets the login's values again goes behind it. An effect of the exchange. The
    client's next messages wait."""

    __slots__ = ("names", "ran")

    def __init__(self, names: ClientNames) -> None:
        super().__init__()
        self.names = names
        self.ran = False

    def note(self) -> None:
        """The DISCARD ALL has run."""
        self.ran = True

    @property
    def holds(self) -> bool:
        return self.ran

    def happened(self) -> None:
        self.names.held_up = self.ran
        super().happened()

    def skipped(self) -> None:
        self.names.held_up = False
        super().skipped()


class Revealed:
    """The Query of ours behind a DISCARD ALL; an effect of the exchange."""

    __slots__ = ("names",)

    def __init__(self, names: ClientNames | None) -> None:
        self.names = names

    def happened(self) -> None:
        if self.names is not None:
            self.names.held_up = False

    def failed(self) -> None:
        """In a block that has failed, as the DISCARD ALL has."""

    def skipped(self) -> None:
        """The backend is gone."""


def has_login_values(session: "Session") -> bool:
    """Whether anything came with the login."""
    return session.startup_settings is not DEFAULTS


def is_worth_a_look(text: bytes) -> bool:
    """Whether a text may reset something."""
    return len(text) <= LONGEST and _WORTH_A_LOOK.search(text) is not None


def complete_query(session: "Session", backend: Backend, query: bytes) -> tuple[bytes, Inserted] | None:
    """A Query that resets what came with the login, with what sets it again put in; None if it does not."""
    text = query[5:-1]
    login = session.startup_settings.by_name
    statements = statements_of(text)
    if not statements:
        return None
    pieces: list[bytes] = []
    ours: set[int] = set()
    places: list[tuple[int, int]] = []
    kept = 0
    for number, (begin, end) in enumerate(statements, 1):
        found = what_it_resets(text[begin:end], login)
        if found is None or text[begin:end].lower().find(b"discard") >= 0:
            continue
        if found[1] and backend.status == 0x49 and len(statements) == 1 and not backend.exchange.entries:
            continue  # SET LOCAL outside a block does nothing but warn, which it would not in company
        additions = _statements(session, backend, *found)
        addition = b"\n;" + b";".join(additions)
        pieces += (text[kept:end], addition)
        kept = end
        for _ in additions:
            ours.add(number + len(ours) + 1)
        places.append((len(text[:end].decode("utf-8", "replace")), len(addition.decode("utf-8", "replace"))))
    if not ours:
        return None
    pieces.append(text[kept:])
    return query_message(b"".join(pieces)), Inserted(frozenset(ours), places)


def is_discard_all(text: bytes) -> bool:
    """Whether a text is DISCARD ALL and nothing else."""
    statements = statements_of(text) if len(text) < 200 else None
    if not statements or len(statements) != 1:
        return False
    found = _RESETTING.match(text[slice(*statements[0])].strip())
    return found is not None and found.group("discard") is not None


def discarded_all(session: "Session", backend: Backend) -> None:
    """A DISCARD ALL that nobody had seen coming has run: what came with the login is set again, if nothing else has been
    asked behind it. (Else that is seen to behind the transaction.)"""
    entries = backend.exchange.entries
    if len(entries) == 1 and entries[0].kind == QUERY and not isinstance(entries[0].effect, Withheld):
        entries[0] = Expected(QUERY, effect=Withheld(entries[0].effect))
        set_login_values_again(session, backend)


def set_login_values_again(session: "Session", backend: Backend) -> None:
    """Behind what has been asked so far, of which a ReadyForQuery is kept from the client: that of this segment takes its
    place. (No Query: that would drop the unnamed statement, which a DISCARD ALL does not.)"""
    pieces: list[bytes] = []
    _ask_apart(session, backend, session.startup_settings.by_name, False, pieces)
    backend.exchange.ask(Expected(SYNC, hidden=True, effect=Revealed(session.names)))
    backend.push(b"".join(pieces) + SYNC_MESSAGE)


def restore_in_segment(session: "Session", backend: Backend, pieces: list[bytes]) -> None:
    """Messages of ours behind a DISCARD ALL that has run in a segment which is still open."""
    _ask_apart(session, backend, session.startup_settings.by_name, False, pieces)


def restoring_query(session: "Session", backend: Backend) -> bytes:
    """The Query that goes behind a DISCARD ALL."""
    return query_message(b";".join(_statements(session, backend, session.startup_settings.by_name, False)))


def reveal(session: "Session") -> Expected:
    """What is expected for the `restoring_query`."""
    return Expected(QUERY, hidden=True, effect=Revealed(session.names))


def restore_behind_execute(session: "Session", backend: Backend, statement: bytes, pieces: list[bytes]) -> None:
    """Messages of ours behind the Execute of a statement that resets something."""
    found = what_it_resets(statement, session.startup_settings.by_name)
    if found is not None:
        _ask_apart(session, backend, *found, pieces)


def _ask_apart(session: "Session", backend: Backend, names: Iterable[str], local: bool, pieces: list[bytes]) -> None:
    ask = backend.exchange.ask
    for statement in _statements(session, backend, names, local):
        for kind in (PARSE, BIND, EXECUTE, CLOSE, CLOSE):
            ask(Expected(kind, hidden=True))
        pieces += apart_messages(statement, new_name())


# A SET takes the elements of their values one by one, and may write them down in another way than they came.
_LISTS_OF_NAMES: Final = frozenset(
    {"search_path", "temp_tablespaces", "local_preload_libraries", "session_preload_libraries"}
)


def _statements(session: "Session", backend: Backend, names: Iterable[str], local: bool) -> list[bytes]:
    """What sets these parameters to the values that came with the login. SETs: a SELECT takes a snapshot, and whoever has one
    can no longer choose the isolation level of the transaction."""
    login = session.startup_settings.by_name
    word, flag = ("SET LOCAL", "true") if local else ("SET", "false")
    chosen = [name for name in login if name in names]
    found = []
    for name in chosen:
        value = login[name]
        if name not in _LISTS_OF_NAMES:
            found.append(f"{word} {quote_name(name)} = {quote_text(value)}")
        else:
            found.append(f"SELECT pg_catalog.set_config({quote_text(name)}, {quote_text(value)}, {flag}) IS NULL")
    codec = codec_of(backend)
    return [sql_bytes(statement, codec) for statement in found]
