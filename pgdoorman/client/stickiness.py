"""What must stay with a client, and what must not leak to the next one.

Nothing here parses SQL. Three cheap signs raise a suspicion while a client has a backend: words in the text it sends
(`prepared.scan`), command tags that the server answers with, and reported parameters that changed. A client that shows
none of them pays for nothing but the looking. When a transaction ends under suspicion the backend itself is asked what
is different in its session (one query, `audit`): the answer says exactly which settings the client has now, and whether
something is left that cannot be moved. Settings are put on the next backend when they differ there; what cannot be moved
pins the client to its backend for as long as it exists.
"""

import re
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Final

from pgdoorman.backend.connection import UNKNOWN, Backend
from pgdoorman.backend.inquiry import Inquiry, Rows, codec_of
from pgdoorman.backend.reset import FORGET_SEQUENCES, LASTING_REASONS
from pgdoorman.backend.settings import (
    SessionSettings,
    audit_sql,
    channels_of_audit,
    custom_names_in,
    harmful_of_audit,
    hidden_harm_of_audit,
    move_sql,
    move_statements,
    pins_of_audit,
    settings_of,
    settings_of_audit,
    sql_bytes,
    statements_of_audit,
)
from pgdoorman.client import defaults
from pgdoorman.client.holds import CARE, GONE
from pgdoorman.config.settings import PinPolicy
from pgdoorman.constants import bind_constants
from pgdoorman.errors import BackendRefused, BackendUnavailable, PgDoormanError
from pgdoorman.prepared.backend_names import MustWait
from pgdoorman.prepared.client_names import Deallocating
from pgdoorman.prepared.rewrite import close_message, query_message
from pgdoorman.prepared.scan import (
    CALLS,
    LASTING,
    PINS,
    READS_SEQUENCES,
    SET_LOCAL,
    SETS,
    SETTINGS,
    USES_SEQUENCES,
    names_called,
    scan,
    sets_seed,
)
from pgdoorman.prepared.statement import Statement
from pgdoorman.protocol.exchange import A_HIDDEN_CLOSE, QUERY, Expected

if TYPE_CHECKING:
    from pgdoorman.client.session import Session
    from pgdoorman.prepared.functions import Functions

__all__ = ["NOTABLE", "audit", "may_leave", "note_tag", "note_text", "prepare", "scan"]

# What a command tag says, as flags; looked up by its first three bytes.
TAG_SET: Final = 1
TAG_STATE: Final = 2  # settings or things that cannot be moved may have come or gone
TAG_NAMES: Final = 4  # statements may be gone
TAG_SCHEMA: Final = 8  # texts may mean something else now
TAG_WROTE: Final = 16  # sequences may have moved
TAG_LOAD: Final = 32
TAG_REPORTED: Final = 64  # no tag: a reported parameter changed

_LOAD: Final = re.compile(rb"\bload\s++('(?:[^']|'')++')", re.IGNORECASE)

TAG_RESET: Final = 128  # a parameter may have gone back to the backend's own default

NEEDS_A_LOOK: Final = TAG_SET | TAG_STATE | TAG_NAMES | TAG_SCHEMA | TAG_LOAD

NOTABLE: Final[dict[bytes, int]] = {
    b"SET": TAG_SET,
    b"RES": TAG_STATE | TAG_RESET,  # RESET
    b"DIS": TAG_STATE | TAG_NAMES | TAG_RESET,  # DISCARD
    b"DEA": TAG_STATE | TAG_NAMES,  # DEALLOCATE
    b"PRE": TAG_STATE,  # PREPARE, PREPARE TRANSACTION
    b"DEC": TAG_STATE,  # DECLARE CURSOR
    b"CLO": TAG_STATE,  # CLOSE CURSOR
    b"LIS": TAG_STATE,  # LISTEN
    b"UNL": TAG_STATE,  # UNLISTEN
    b"LOA": TAG_LOAD,
    b"DO\0": TAG_STATE | TAG_WROTE,
    b"CAL": TAG_STATE | TAG_WROTE,
    b"CRE": TAG_SCHEMA,
    b"ALT": TAG_SCHEMA,
    b"DRO": TAG_SCHEMA | TAG_STATE,
    b"INS": TAG_WROTE,
    b"UPD": TAG_WROTE,
    b"DEL": TAG_WROTE,
    b"TRU": TAG_WROTE,
    b"MER": TAG_WROTE,
    b"COP": TAG_WROTE,
}

# Suspicions of a lease.
LOOK: Final = 1  # ask the backend at the end of the transaction
SCHEMA: Final = 2  # DDL ran: what others parsed meanwhile is stale once it is committed
HIDDEN_STATE: Final = 4  # a text in this lease changed or may have changed what texts mean
TEMPORARY: Final = 8  # a text in this lease speaks of temporary objects
PREPARED: Final = 32  # SQL PREPARE ran in this lease
_AUDIT_COLUMNS: Final = 3
LISTEN_PIN: Final = "listen"  # the reason for a pin, as an audit names it

RESTLESS: Final = 128  # no text may show what happens: ask, unless it is known by then that nothing can
MAY_SET: Final = 16  # a text in this lease may hold a SET that is not LOCAL
POSTPONED: Final = 64  # the audit waits until a cancel request has been delivered, which would hit it


@dataclass(frozen=True, slots=True)
class Marks:
    """What is known of a backend's session when its client leaves in the middle of things."""

    suspect: bool = False
    pins: frozenset[str] = frozenset()


def marks_of(session: "Session") -> Marks:
    """What the care after this client has to know."""
    backend = session.backend
    changed = backend is not None and backend.reported is not session.lease_reported
    if not session.tracks:
        # Session pooling: nobody has kept account, so everything goes, unless the owner wants nothing to.
        return Marks(suspect=session.pool.settings.cleanup_server_connections)
    suspect = bool(session.suspect & (LOOK | RESTLESS)) or has_set(session) or changed
    if session.noted & TAG_WROTE and not session.pool.functions.writes_are_harmless:
        suspect = True
    return Marks(suspect, session.pins)


def has_set(session: "Session") -> bool:
    """Whether a SET ran in this lease that outlives its transaction. Where only SET LOCAL was sent, none did: the tags of
    the two are the same."""
    return bool(session.set_tags) and (not session.local_sets or bool(session.suspect & MAY_SET))


# While the client has a backend.


def note_text(session: "Session", backend: Backend, flags: int, message: bytes) -> None:
    """The client sends a text (or uses a statement) with these flags."""
    if flags & (SETTINGS | PINS | CALLS):
        session.suspect |= LOOK | (HIDDEN_STATE if flags & SETTINGS else 0) | (TEMPORARY if flags & PINS else 0)
        if message and b"." in message:
            session.custom_names |= custom_names_in(message)
    if flags & SET_LOCAL:
        session.local_sets += 1
    if flags & SETS:
        session.suspect |= MAY_SET
        if message and b"." in message:
            session.custom_names |= custom_names_in(message)
        if sets_seed(message):
            session.pins |= {LASTING[b"setseed"]}
    if flags & READS_SEQUENCES and backend.sequences_of != session.lease_token:
        _own_sequences(session, backend)
    if flags & USES_SEQUENCES:
        session.noted |= TAG_WROTE


def note_calls(session: "Session", message: bytes) -> None:
    """The client sends a text with a parenthesis in it: functions of its own may do what no word of the text shows."""
    harmless = session.pool.functions.harmless
    for name in names_called(message):
        if name not in harmless:
            session.unknown_calls.add(name)
            session.suspect |= LOOK
            if name in LASTING:
                session.pins |= {LASTING[name]}


def note_function_call(session: "Session", message: bytes) -> None:
    """The client sends a FunctionCall, of which the first 9 bytes are here."""
    function = int.from_bytes(message[5:9])
    if function in _OF_LARGE_OBJECTS:
        return
    session.suspect |= LOOK
    session.noted |= TAG_WROTE
    if function == _SETSEED:
        session.pins |= {LASTING[b"setseed"]}


# Drivers call these by the dozen; they leave nothing behind.
_OF_LARGE_OBJECTS: Final = frozenset({715, *range(952, 959), 964, 1004, 3170, 3171, 3172, 3457, 3458, 3459, 3460})
_SETSEED: Final = 1599


def restlessness(functions: "Functions") -> int:
    """The suspicion with which a client of a pool begins: that a view, a cast or an operator does what no text shows."""
    return RESTLESS if functions.reads_are_harmful or not functions.hidden_are_judged else 0


def answers_late(session: "Session") -> bool:
    """Whether the client hears of the end of its transaction only when the audit behind it is over. That is so while it is not
    known what happens here without a text that shows it: at a pool's first transactions, and behind DDL. Whoever waits for
    the one to begin the next finds its backend free then, and statements prepared on it, as it would without the audit."""
    if not (session.suspect & RESTLESS or session.noted & TAG_WROTE):
        return False
    return not session.pool.functions.hidden_are_judged and session.tracks and session.hearing is None


def _own_sequences(session: "Session", backend: Backend) -> None:
    """The client asks for what it has drawn from sequences: nothing that others drew may be there.

    Raises MustWait if it is not known yet whether what the client has asked before has drawn any.
    """
    session.pool.functions.sequences_are_read = True  # from now on that is seen to at the beginning of a lease
    exchange = backend.exchange
    if not session.noted & TAG_WROTE and not exchange.unsynced:
        if any(not entry.hidden for entry in exchange.entries):
            raise MustWait
        _forget_sequences(backend)
    backend.sequences_of = session.lease_token


def _forget_sequences(backend: Backend) -> None:
    backend.unnamed = None
    ask_hidden(backend, FORGET_SEQUENCES)


def ask_hidden(backend: Backend, sql: str) -> None:
    """Put a simple query in front, of whose answer the client sees nothing, not even an error."""
    backend.exchange.ask_query(Expected(QUERY, hidden=True))
    backend.push(query_message(sql.encode()))


def note_statement(session: "Session", statement: Statement) -> None:
    """The client parses or uses a statement."""
    if statement.calls and not statement.calls <= session.pool.functions.harmless:
        unknown = statement.calls - session.pool.functions.harmless
        session.unknown_calls |= unknown
        session.suspect |= LOOK
        if session.tracks:
            session.pins |= {LASTING[name] for name in unknown if name in LASTING}
    if statement.flags & (SETTINGS | SETS | CALLS):
        text = statement.text
        if session.tracks and statement.flags & SETS and sets_seed(text):
            session.pins |= {LASTING[b"setseed"]}
        if b"." in text:
            session.custom_names |= custom_names_in(text)


def note_tag(session: "Session", backend: Backend, note: int, tag: bytes) -> None:
    """The server answered with a tag of `NOTABLE` that needs a look; `session.noted` has its flags already."""
    if note & TAG_SCHEMA:
        _schema_changed(session)
    if note & TAG_SET:
        session.set_tags += 1
        _note_names(session)
    elif note & TAG_STATE:
        if tag == b"DECLARE CURSOR" and session.recent[:1] == b"Q" and b"hold" not in session.recent.lower():
            return
        if tag == b"PREPARE TRANSACTION":
            return
        if tag == b"PREPARE":
            session.suspect |= PREPARED
        session.suspect |= LOOK
        _note_names(session)
    if note & TAG_LOAD:
        _loaded(session, backend)
    if note & TAG_NAMES:
        _names_gone(session, backend, tag)


def _loaded(session: "Session", backend: Backend) -> None:
    """A library was loaded. Nothing unloads it: this backend is only for clients that have loaded it as well."""
    loads = dict.fromkeys(f"LOAD {name}" for name in (*session.loading, *_libraries_in(session.recent)))
    session.loading = ()
    if not loads:
        backend.close_wanted = True  # by what was sent before the last text; it is not known which
    session.ahead += tuple(statement for statement in loads if statement not in session.ahead)
    session.fast = 0
    backend.loaded |= loads.keys()
    backend.attention = True


def note_loading(session: "Session", text: bytes) -> None:
    """The client sends a text (or uses a statement) that begins with LOAD."""
    session.loading += tuple(_libraries_in(text))


def _libraries_in(text: bytes) -> list[str]:
    return [match.decode("utf-8", "replace") for match in _LOAD.findall(text)]


def _note_names(session: "Session") -> None:
    if b"." in session.recent:
        session.custom_names |= custom_names_in(session.recent)


def _names_gone(session: "Session", backend: Backend, tag: bytes) -> None:
    if tag in (b"DEALLOCATE ALL", b"DISCARD ALL"):
        backend.names.clear()
        if session.names is not None:
            session.names.clear()
        if tag == b"DISCARD ALL":
            session.pins = frozenset()
            if defaults.has_login_values(session):
                defaults.discarded_all(session, backend)
    elif backend.exchange.entries and isinstance(effect := backend.exchange.entries[0].effect, Deallocating):
        effect.ran = True


def _schema_changed(session: "Session") -> None:
    if session.suspect & TEMPORARY:
        # A temporary object, most likely: nobody else's texts mean anything else because of it.
        session.suspect |= HIDDEN_STATE
        return
    session.pool.functions.forget()
    session.suspect |= SCHEMA | RESTLESS
    session.fast = 0
    session.pool.book.renew()


# When the transaction ends.


def may_leave(session: "Session", backend: Backend) -> bool:
    """Whether the backend may be given back now. If not, that is seen to: the client keeps it, or we ask it first."""
    if session.suspect & SCHEMA:
        session.suspect &= ~SCHEMA
        session.pool.book.renew()
    if not session.tracks:
        return True
    changed = backend.reported is not session.lease_reported
    functions = session.pool.functions
    if session.noted & TAG_WROTE:
        if functions.sequences_are_read:
            backend.attention = True  # what was drawn here is nobody else's to see
        if not functions.writes_are_harmless:
            session.suspect |= LOOK  # noted, for the client may leave while we ask
    if session.suspect & RESTLESS and restlessness(functions):
        session.suspect |= LOOK
    if session.suspect & LOOK or changed or has_set(session):
        audit(session, backend)
        return False
    session.local_sets = session.set_tags = 0
    session.noted = session.suspect = 0
    return not session.pins


def audit(session: "Session", backend: Backend) -> None:
    """Ask the backend what is different in its session, then decide. The client's next message waits for that; the
    answer to its last one does not."""
    session.hold(CARE)
    if backend.cancels_under_way:
        session.suspect |= POSTPONED
        return
    session.suspect &= ~POSTPONED
    if session.held & GONE:
        session.part_from(backend)
        return
    # pg_settings hides custom parameters: ask for those that were put here as well as for those just seen.
    carried = {name for name in (*backend.settings.by_name, *session.wanted.by_name) if "." in name}
    functions = session.pool.functions
    sql = audit_sql(session.custom_names | carried, session.unknown_calls, writes=not functions.hidden_are_judged)
    timeout = max(5.0, session.pool.settings.connect_timeout)
    generation = functions.generation
    Inquiry(backend, sql, timeout, lambda backend, rows, error: _audited(session, backend, rows, error, generation))


def _audited(session: "Session", backend: Backend, rows: Rows, error: PgDoormanError | None, generation: int) -> None:
    if error is None and any(len(row) != _AUDIT_COLUMNS for row in rows):
        error = BackendUnavailable("the server answered a question of ours with something else")
    if session.held & GONE:
        parted(session, backend, error)
        return
    if isinstance(error, BackendUnavailable):
        session.backend_failed(backend, error)
        return
    if error is not None:
        # The session is in a state in which not even this works (a tiny statement_timeout): keep it together.
        session.pins |= {"settings"}
    else:
        _learn(session, backend, rows, generation)
    session.suspect = RESTLESS if session.pool.functions.reads_are_harmful else 0
    session.noted = 0
    session.set_tags = session.local_sets = 0
    session.lease_reported = backend.reported
    channels = channels_of_audit(rows)
    if error is None and (channels or session.hearing is not None):
        session.take_up(backend, channels, partial(_decide, session, backend))
    else:
        _decide(session, backend)


def _decide(session: "Session", backend: Backend) -> None:
    """It is known now what the client has on its backend: does it keep it?"""
    if session.pins and _policy_forbids(session, backend):
        return
    if not session.pins:
        session.give_back(backend, monotonic())
    session.release_hold(CARE)


def _policy_forbids(session: "Session", backend: Backend) -> bool:
    """The owner may not want pins: then the client is refused, or what it made is undone as PgBouncer would let it leak.
    True if the session is over."""
    policy = session.pool.settings.pin_policy
    if policy is PinPolicy.REFUSE:
        session.held &= ~CARE  # nothing of ours is under way any more: the backend can be parted from
        reasons = ", ".join(sorted(session.pins))
        session.expel(PinRefused(f"not available in {session.pooling.value} pooling: {reasons}"))
        return True
    if policy is PinPolicy.IGNORE:
        session.backend = None
        session.pins, pins = frozenset(), session.pins
        session.care_for(backend, Marks(pins=pins))
        session.release_hold(CARE)
        return True
    return False


class PinRefused(PgDoormanError):
    """A client needs its backend for itself, which the owner does not allow (pin_policy)."""

    sqlstate = "0A000"


def parted(session: "Session", backend: Backend, error: PgDoormanError | None) -> None:
    """The client left while we were talking to its backend."""
    if isinstance(error, BackendUnavailable):
        session.backend = None
        backend.holder = None
        session.pool.discard(backend, session.worker)
    else:
        session.part_from(backend)


def _learn(session: "Session", backend: Backend, rows: Rows, generation: int) -> None:
    found = settings_of_audit(rows, backend.role)
    backend.settings = found
    missing = {n: v for n, v in session.startup_settings.by_name.items() if n not in found.by_name}
    # What came with the login is the client's own default: a RESET returns to it, and we set it again.
    session.wanted = settings_of({**missing, **found.by_name}) if missing else found
    if session.names is not None:
        session.names.recent.clear()  # what a text means depends on the settings
    session.pins = pins_of_audit(rows) | (session.pins & LASTING_REASONS)
    functions = session.pool.functions
    functions.learn(session.unknown_calls, harmful_of_audit(rows), generation)
    if not functions.hidden_are_judged:
        functions.learn_of_hidden(*hidden_harm_of_audit(rows), generation)
    if session.remaps and statements_of_audit(rows) != len(backend.names):
        backend.close_wanted = True  # SQL has deallocated some of what is prepared here for all
    session.unknown_calls.clear()
    session.custom_names = {name for name in session.custom_names if name in found.by_name}


def restore_defaults(session: "Session", backend: Backend) -> None:
    """Session pooling: what came with the client's login is its default, and a RESET goes back to it. For the backend it
    was a SET, which the RESET has undone: see what is missing, and set it again."""
    session.hold(CARE)
    custom = [name for name in session.startup_settings.by_name if "." in name]
    timeout = max(5.0, session.pool.settings.connect_timeout)

    def audited(backend: Backend, rows: Rows, error: PgDoormanError | None) -> None:
        found = settings_of_audit(rows, backend.role)
        wanted = settings_of({**session.startup_settings.by_name, **found.by_name})
        if error is not None or wanted is found or session.held & GONE:
            done(backend, rows, error)
        else:
            Inquiry(backend, move_statements(found, wanted), timeout, done)

    def done(backend: Backend, _rows: Rows, error: PgDoormanError | None) -> None:
        if session.held & GONE:
            parted(session, backend, error)
        elif isinstance(error, BackendUnavailable):
            session.backend_failed(backend, error)
        else:
            session.sync_told(backend)
            session.release_hold(CARE)

    # (As lists: the client's unnamed statement is the server's own here, and must not go.)
    Inquiry(backend, [audit_sql(custom)], timeout, audited)


# When a lease begins.


class Prelude:
    """A hidden Query in front of a client's own messages: an effect of the exchange. What it does has been seen to work;
    if it fails this time, the client's messages behind it must not count."""

    __slots__ = ("backend", "error", "session", "settings")

    def __init__(self, session: "Session", backend: Backend, settings: SessionSettings) -> None:
        self.session = session
        self.backend = backend
        self.settings = settings
        self.error: PgDoormanError | None = None

    def refused(self, error: BackendRefused) -> None:
        self.error = error

    def happened(self) -> None:
        if self.error is not None:
            raise LostSettings(self.error)
        self.backend.settings = self.settings
        self.session.lease_reported = self.backend.reported
        if self.backend.reported is not self.session.told:
            self.session.sync_told(self.backend)

    def failed(self) -> None:
        """Never called: a Query is answered by its ReadyForQuery."""

    def skipped(self) -> None:
        """The backend is gone."""


class LostSettings(Exception):
    """A client's settings could not be put on its backend, and its messages are already on their way."""

    def __init__(self, reason: PgDoormanError) -> None:
        super().__init__(str(reason))
        self.reason = reason


def prepare(session: "Session", backend: Backend, now: float, data: bytes) -> None:
    """A lease begins and something has to be done first: a look whether the backend lives, the client's settings, Closes
    of statements that are too many, a BEGIN that was held back. Then the client is served."""
    backend.attention = bool(backend.loaded) or backend.names.has_large
    if backend.loaded and not backend.loaded.issubset(session.ahead):
        session.lose_backend(backend)  # another has loaded what this client must not see
        session.ask_backend(data)
        return
    limit = session.pool.settings.server_idle_check_timeout
    if limit and backend.idle_since and now - backend.idle_since > limit:
        session.hold(CARE)
        session.input = data
        backend.idle_since = 0.0
        timeout = session.pool.settings.connect_timeout
        Inquiry(backend, ";", timeout, lambda backend, rows, error: _probed(session, backend, error))
        return
    wanted = session.wanted if session.pool.settings.sync_server_parameters else backend.settings
    if backend.settings is not wanted:
        sql = move_sql(backend.settings, wanted)
        if not session.pool.is_proven(wanted):
            session.hold(CARE)
            session.input = data
            timeout = max(5.0, session.pool.settings.connect_timeout)
            Inquiry(backend, sql, timeout, lambda backend, rows, error: _moved(session, backend, wanted, error))
            return
        backend.exchange.ask_query(Expected(QUERY, hidden=True, effect=Prelude(session, backend, wanted)))
        backend.push(query_message(sql_bytes(sql, codec_of(backend))))
    elif backend.reported is not session.told:
        session.sync_told(backend)
    session.lease_reported = backend.reported
    backend.unnamed = UNKNOWN  # a Query in front may drop it
    if session.tracks and session.pool.functions.sequences_are_read:
        backend.sequences_of = session.lease_token
        ask_hidden(backend, FORGET_SEQUENCES)
    for name in backend.names.surplus(session.pool.settings.server_prepared_statements_cache_size):
        backend.exchange.ask(A_HIDDEN_CLOSE)
        backend.push(close_message(name))
    backend.exchange.unsynced = False  # Closes of ours need no Sync: the client's own message flushes them
    if session.ahead:
        session.run_ahead(backend)
    if session.begin is not None:
        backend.exchange.ask_query(Expected(QUERY, hidden=True))
        backend.push(query_message(session.begin))
        session.begin = None
    session.serve_leased(backend, data)


def _probed(session: "Session", backend: Backend, error: PgDoormanError | None) -> None:
    if session.held & GONE:
        parted(session, backend, error)
        return
    data, session.input = session.input, b""
    session.held &= ~CARE
    if error is None:
        prepare(session, backend, monotonic(), data)
        return
    # It was dead and nobody had noticed: the client never knew that it had it.
    session.backend = None
    backend.holder = None
    session.pool.discard(backend, session.worker)
    session.ask_backend(data)


def _moved(session: "Session", backend: Backend, wanted: SessionSettings, error: PgDoormanError | None) -> None:
    if session.held & GONE:
        parted(session, backend, error)
        return
    if isinstance(error, BackendUnavailable):
        session.backend_failed(backend, error)
        return
    data, session.input = session.input, b""
    session.held &= ~CARE
    if error is None:
        backend.settings = wanted
        session.pool.prove(wanted, backend.reported)
        prepare(session, backend, monotonic(), data)
        return
    # A value that can no longer be set (a dropped role): the client is told once, at this statement, and goes on
    # without what could not be set.
    session.wanted = _without_culprit(wanted, str(error), session.startup_settings)
    session.input = data
    session.give_back(backend, monotonic())
    if not session.held & GONE:  # it may have gone over to another process, with what it asked
        session.refuse(error)


def _without_culprit(settings: SessionSettings, complaint: str, startup: SessionSettings) -> SessionSettings:
    remaining = {
        name: value
        for name, value in settings.by_name.items()
        if f'"{value}"' not in complaint and name not in complaint
    }
    if len(remaining) == len(settings.by_name):
        remaining = {name: value for name, value in startup.by_name.items() if settings.by_name.get(name) != value}
    return settings_of(remaining)


bind_constants(__name__)
