"""Parameters of a session: which ones a client has set, and how a backend gets them.

Two kinds of frozen, interned values, so that "is there anything to do?" is one identity test on the hot path:

- `SessionSettings`: what is set at session level beyond what the connection itself started with, by name. A client has
  its own (from its start-up packet and its SETs), a backend has those that were last put on it.
- `Reported`: the values of the parameters that the server reports (ParameterStatus). A client was told some, a backend
  reports some; where they differ when a client gets a backend, the client is told.

Names are compared as PostgreSQL does, without case; the order of setting is the order of the dictionary.
"""

import codecs
import re
from collections.abc import Iterable, Mapping
from threading import Lock
from typing import Final
from weakref import WeakValueDictionary

from pgdoorman.prepared.scan import LASTING
from pgdoorman.protocol.results import parameter_status

# Not settings of a session, though pg_settings may list them as set: they belong to a transaction or are a one-way act.
NOT_CARRIED = frozenset({"transaction_isolation", "transaction_read_only", "transaction_deferrable", "seed"})

# Parameters that no parse or plan depends on: clients that differ in these alone share prepared statements.
_HARMLESS = frozenset(
    {
        "application_name",
        "client_min_messages",
        "extra_float_digits",
        "idle_in_transaction_session_timeout",
        "idle_session_timeout",
        "lock_timeout",
        "statement_timeout",
        "transaction_timeout",
    }
)

# Set in this order, after all others: a lesser role might not be allowed to set the others.
IDENTITIES = ("session_authorization", "role")


class SessionSettings:
    """Settings by lower-case name, interned by `settings_of`; equal values are the same object."""

    __slots__ = ("__weakref__", "by_name", "planning", "to_prove")

    def __init__(self, by_name: Mapping[str, str]) -> None:
        self.by_name = dict(by_name)
        # The part that the meaning of a query text can depend on; None if there is none.
        self.planning = frozenset((n, v) for n, v in self.by_name.items() if n not in _HARMLESS) or None

        # The part that a server may refuse or respell; an application_name is taken as it comes.
        self.to_prove = frozenset((n, v) for n, v in self.by_name.items() if n != "application_name")

    def __repr__(self) -> str:
        return f"<SessionSettings {self.by_name!r}>"

    def with_(self, **changes: str) -> "SessionSettings":
        """These and some more."""
        return settings_of({**self.by_name, **changes})


class Reported:
    """Reported parameters in server order, interned by `reported_of`."""

    __slots__ = ("__weakref__", "_messages", "by_name")

    def __init__(self, by_name: Mapping[str, str]) -> None:
        self.by_name = dict(by_name)
        self._messages = b""

    @property
    def messages(self) -> bytes:
        """A ParameterStatus for each, as a client is greeted with them. Made once: nearly all clients are told the same."""
        if not self._messages:
            self._messages = b"".join(parameter_status(name, value) for name, value in self.by_name.items())
        return self._messages

    def __repr__(self) -> str:
        return f"<Reported {self.by_name!r}>"


MOST_REPORTED = 256
"""Names of reported parameters that are remembered. PostgreSQL has fifteen; each new one copies all the others."""

_lock = Lock()
_settings: WeakValueDictionary[frozenset[tuple[str, str]], SessionSettings] = WeakValueDictionary()
_reported: WeakValueDictionary[frozenset[tuple[str, str]], Reported] = WeakValueDictionary()

DEFAULTS = SessionSettings({})
"""Nothing set: the state of a fresh connection."""


def settings_of(by_name: Mapping[str, str]) -> SessionSettings:
    """The one object for these settings. Names are made lower-case."""
    if not by_name:
        return DEFAULTS
    lowered = {lower_name(name): value for name, value in by_name.items()}
    key = frozenset(lowered.items())
    with _lock:
        found = _settings.get(key)
        if found is None:
            found = _settings[key] = SessionSettings(lowered)
        return found


def lower_name(name: str) -> str:
    """As PostgreSQL compares names of parameters: in lower case, but only letters of ASCII have one."""
    return name.lower() if name.isascii() else name.encode().lower().decode()


def reported_of(by_name: Mapping[str, str]) -> Reported:
    """The one object for these reported values."""
    key = frozenset(by_name.items())
    with _lock:
        found = _reported.get(key)
        if found is None:
            found = _reported[key] = Reported(by_name)
        return found


def clean_ascii(text: str) -> str:
    """As PostgreSQL shows an application_name: what is not printable ASCII becomes an escape."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if " " <= char <= "~" else "".join(f"\\x{byte:02x}" for byte in char.encode()) for char in text)


def move_sql(present: SessionSettings, wanted: SessionSettings) -> str:
    """What turns `present` into `wanted` on a backend; to be sent as one simple Query, so that it takes effect as a whole or
    not at all."""
    return "; ".join(move_statements(present, wanted))


def move_statements(present: SessionSettings, wanted: SessionSettings) -> list[str]:
    """The same, statement by statement."""
    statements = []
    surplus = [name for name in present.by_name if name not in wanted.by_name]
    identities_change = any(present.by_name.get(name) != wanted.by_name.get(name) for name in IDENTITIES)
    plain = [name for name in surplus if name not in IDENTITIES]
    changed = {
        name: value
        for name, value in wanted.by_name.items()
        if name not in IDENTITIES and present.by_name.get(name) != value
    }
    # Whoever set the others may have been more at that time than the role that is in force now, so back to that first.
    identities_change = identities_change or bool(plain or changed)
    if identities_change:
        # Both, and before anything else: RESET ALL touches neither, and a lesser role may not be able to go on.
        statements += [f"RESET {name}" for name in ("role", "session_authorization") if name in present.by_name]
    if "," not in changed.get("datestyle", ",") and "datestyle" in present.by_name:
        statements.append('RESET "datestyle"')  # half a value: the other half must not be what is there by chance
    if len(plain) > 3:
        statements.append("RESET ALL")
        changed = {name: value for name, value in wanted.by_name.items() if name not in IDENTITIES}
    else:
        statements += [f"RESET {quote_name(name)}" for name in plain]
    if identities_change:
        changed.update({name: wanted.by_name[name] for name in IDENTITIES if name in wanted.by_name})
    if changed:
        # IS NULL: what it returns would have to be put into the connection's encoding, which may not be able to say it.
        calls = ", ".join(
            f"pg_catalog.set_config({quote_text(name)}, {quote_text(value)}, false) IS NULL"
            for name, value in changed.items()
        )
        statements.append(f"SELECT {calls}")
    return statements


def quote_text(value: str) -> str:
    """A string literal that means the same whatever standard_conforming_strings says. One that is not ASCII leaves room for
    the escapes of `sql_bytes`."""
    quoted = value.replace("'", "''")
    if "\\" in quoted or not quoted.isascii():
        quoted = quoted.replace("\\", "\\\\")
        return f" E'{quoted}'"
    return f"'{quoted}'"


def _as_escapes(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    return "".join(f"\\U{ord(char):08x}" for char in lacking), error.end


codecs.register_error("pgdoorman.escapes", _as_escapes)


def sql_bytes(sql: str, codec: str) -> bytes:
    """Statements of ours in the encoding of a connection. A character that the encoding lacks (the connection may still have
    another client's) becomes an escape, which the server turns into its own encoding."""
    return sql.encode(codec, "pgdoorman.escapes")


def quote_name(name: str) -> str:
    """A parameter's name, each part of a dotted one quoted for itself."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in name.split("."))


# What an audit of a backend asks: every setting with its source in this session, and all that pins a client to it.
# Everything is qualified, since the client's search_path may be hostile.
_AUDIT = """\
SELECT 's', name, setting FROM pg_catalog.pg_settings WHERE source OPERATOR(pg_catalog.=) 'session'
UNION ALL SELECT 's', 'role', pg_catalog.current_setting('role')
UNION ALL SELECT 's', 'session_authorization', pg_catalog.current_setting('session_authorization')
UNION ALL SELECT 'p', 'prepared statement', name FROM pg_catalog.pg_prepared_statements WHERE from_sql
UNION ALL SELECT 'n', 'statements', pg_catalog.count(*)::pg_catalog.text
 FROM pg_catalog.pg_prepared_statements WHERE NOT from_sql
UNION ALL SELECT 'p', 'cursor with hold', name FROM pg_catalog.pg_cursors WHERE is_holdable
UNION ALL SELECT 'p', 'temporary object', relname::pg_catalog.text FROM pg_catalog.pg_class
 WHERE relnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()
UNION ALL SELECT 'p', 'temporary object', proname::pg_catalog.text FROM pg_catalog.pg_proc
 WHERE pronamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()
UNION ALL SELECT 'p', 'temporary object', typname::pg_catalog.text FROM pg_catalog.pg_type
 WHERE typnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()
UNION ALL SELECT 'p', 'advisory lock', objid::pg_catalog.text FROM pg_catalog.pg_locks
 WHERE locktype OPERATOR(pg_catalog.=) 'advisory' AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()
UNION ALL SELECT 'p', 'listen', channel FROM pg_catalog.pg_listening_channels() AS channel"""

# Any part may be quoted, and blanks may stand around the dots. Possessive, and only from the beginning of a word: linear
# whatever a client sends.
_PART = rb"[a-zA-Z_\x80-\xff][\w$\x80-\xff]*+"
_CUSTOM_NAME = re.compile(rb"(?<![\w$.\x80-\xff])%b(?:\"?\s*+\.\s*+\"?%b)++" % (_PART, _PART))
_BETWEEN_PARTS = re.compile(rb"[\"\s]+")
_MOST_NAMES = 200


# The functions of users, aggregates too, in lower case, as the names in texts are: a name in quotes may have any case, and the
# bodies of functions may speak of others in any. A body in the new style is not text; its definition is.
_OWN = """\
SELECT p.oid, pg_catalog.lower(p.proname::pg_catalog.text COLLATE pg_catalog."C") AS name,
 pg_catalog.lower(CASE WHEN p.prosrc OPERATOR(pg_catalog.=) '' AND p.prokind OPERATOR(pg_catalog.<>) 'a'
 THEN pg_catalog.pg_get_functiondef(p.oid) ELSE p.prosrc END COLLATE pg_catalog."C") AS source
 FROM pg_catalog.pg_proc p
 WHERE p.prolang OPERATOR(pg_catalog.<>) 12 AND p.prolang OPERATOR(pg_catalog.<>) 13
UNION ALL SELECT p.oid, pg_catalog.lower(p.proname::pg_catalog.text COLLATE pg_catalog."C"),
 pg_catalog.lower(pg_catalog.concat_ws(' ', a.aggtransfn::pg_catalog.text, a.aggfinalfn::pg_catalog.text)
 COLLATE pg_catalog."C")
 FROM pg_catalog.pg_aggregate a JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) a.aggfnoid
 WHERE p.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid"""

# Which of the functions called may change the session where no text shows it: those whose own text, or that of a function
# it mentions, has one of these words. (Words that a client's text is scanned for need not be found here.)
_HARMFUL = (
    r"set_config|advisory|\mpg_temp|\mtemp(orary)?\M|\mlisten\M|\mload\M|\mprepare\M|\mexecute\M|\mdeallocate\M"
    r"|\mset_limit\M"
    r"|(^|[;$]|\m(begin|then|else|loop)\M)\s*(re)?set\M"
)

# A name that is more than a word, which only quotes make possible, is known by its last word: `prepared.scan` sees no more.
_FUNCTIONS = """\
UNION ALL (WITH RECURSIVE own AS ({own}), asked AS (
 SELECT n::pg_catalog.text AS called, pg_catalog.lower(n::pg_catalog.name::pg_catalog.text COLLATE pg_catalog."C") AS name
 FROM pg_catalog.unnest({names}::pg_catalog.text[]) AS n
), named AS (
 SELECT asked.called, own.oid, own.source FROM asked JOIN own ON own.name OPERATOR(pg_catalog.=) asked.name
 UNION ALL SELECT asked.called, odd.oid, odd.source
 FROM (SELECT * FROM own WHERE name OPERATOR(pg_catalog.~) '[]!-#%-/:-@[^`{{-~ ]') AS odd JOIN asked
 ON pg_catalog.right(odd.name, pg_catalog.length(asked.name)) OPERATOR(pg_catalog.=) asked.name
), reached AS (
 SELECT * FROM named
 UNION SELECT r.called, o.oid, o.source FROM reached r JOIN own o
 ON pg_catalog.strpos(r.source, o.name) OPERATOR(pg_catalog.>) 0
) SELECT DISTINCT 'f', called, 'harmful' FROM reached
 WHERE source IS NULL OR source OPERATOR(pg_catalog.~) {harmful}
 UNION ALL SELECT DISTINCT 'p', lasting.reason, called FROM named JOIN (VALUES {lasting}) AS lasting (word, reason)
 ON named.source OPERATOR(pg_catalog.~) lasting.word)"""


# The same for functions that no text calls: those of triggers, rules, defaults, constraints, policies, indexes, which run with
# a write, and those of views, policies, domains, casts, operators and of rows (`row.function`), which run with a read. They run
# with every one, so there is no room for mere suspicions: what is set for the transaction only, and EXECUTE, pass.
_HIDDEN_HARM = (
    r"set_config|pg_(try_)?advisory_lock|\mtemp(orary)?\s+(table|view|sequence)|\mlisten\s+\w|\msetseed\M"
    r"|(^|[;$]|\m(begin|then|else|loop)\M)\s*(re)?set\s+(?!local\M)\w"
)
_SET_FOR_THE_TRANSACTION = r"set_config\s*\([^;]*?,\s*true\s*\)"

# Their own sources, and whether these name a function of the plainest kind: with thousands of functions there is no time to
# follow all that call each other. What calls the server's own functions has no entry in pg_depend for that, so the
# expressions themselves are looked through (of a set_config it is not seen there whether it is for the transaction).
_HIDDEN_FUNCTIONS = """\
UNION ALL (WITH own AS ({own}), server AS (
 SELECT ':funcid (' OPERATOR(pg_catalog.||) pg_catalog.string_agg(oid::pg_catalog.text, '|') OPERATOR(pg_catalog.||) ') '
 AS calls FROM pg_catalog.pg_proc WHERE oid OPERATOR(pg_catalog.<) 16384::pg_catalog.oid
 AND proname OPERATOR(pg_catalog.~) '^(set_config|setseed|pg_(try_)?advisory_lock(_shared)?)$'
), hidden AS (
 SELECT d.refobjid AS oid, CASE WHEN d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_rewrite'::pg_catalog.regclass
 THEN (SELECT r.ev_type OPERATOR(pg_catalog.=) '1' FROM pg_catalog.pg_rewrite r WHERE r.oid OPERATOR(pg_catalog.=) d.objid)
 WHEN d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_constraint'::pg_catalog.regclass THEN EXISTS (SELECT
 FROM pg_catalog.pg_constraint c WHERE c.oid OPERATOR(pg_catalog.=) d.objid
 AND c.contypid OPERATOR(pg_catalog.<>) 0::pg_catalog.oid)
 ELSE d.classid OPERATOR(pg_catalog.=) ANY (ARRAY['pg_catalog.pg_policy', 'pg_catalog.pg_cast',
 'pg_catalog.pg_operator']::pg_catalog.regclass[]) END AS reads
 FROM pg_catalog.pg_depend d WHERE d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass
 AND d.classid OPERATOR(pg_catalog.=) ANY (ARRAY['pg_catalog.pg_trigger', 'pg_catalog.pg_rewrite', 'pg_catalog.pg_attrdef',
 'pg_catalog.pg_constraint', 'pg_catalog.pg_policy', 'pg_catalog.pg_cast', 'pg_catalog.pg_operator',
 'pg_catalog.pg_event_trigger', 'pg_catalog.pg_class']::pg_catalog.regclass[])
 UNION ALL SELECT p.oid, true FROM pg_catalog.pg_proc p
 JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) p.proargtypes[0] AND t.typtype OPERATOR(pg_catalog.=) 'c'
 WHERE p.pronargs OPERATOR(pg_catalog.=) 1
), hidden_own AS (
 SELECT h.reads, own.source FROM hidden h JOIN own ON own.oid OPERATOR(pg_catalog.=) h.oid
), expressions AS (
 SELECT adbin::pg_catalog.text AS tree, false AS reads FROM pg_catalog.pg_attrdef
 UNION ALL SELECT conbin::pg_catalog.text, contypid OPERATOR(pg_catalog.<>) 0::pg_catalog.oid FROM pg_catalog.pg_constraint
 WHERE conbin IS NOT NULL
 UNION ALL SELECT ev_action::pg_catalog.text, ev_type OPERATOR(pg_catalog.=) '1' FROM pg_catalog.pg_rewrite
 WHERE ev_class OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid
 UNION ALL SELECT pg_catalog.concat(polqual, polwithcheck), true FROM pg_catalog.pg_policy
) SELECT DISTINCT 'w', CASE WHEN found.reads THEN 'reads' ELSE 'writes' END, 'harmful' FROM (
 SELECT reads FROM hidden_own
 WHERE pg_catalog.regexp_replace(source, {passing}, '', 'g') OPERATOR(pg_catalog.~) {harmful}
 UNION ALL SELECT h.reads FROM hidden_own h JOIN (SELECT name FROM (SELECT name, source FROM own
 WHERE pg_catalog.strpos(source, 'set_config') OPERATOR(pg_catalog.>) 0
 OR pg_catalog.strpos(source, 'advisory_lock') OPERATOR(pg_catalog.>) 0 OFFSET 0) AS few
 WHERE pg_catalog.regexp_replace(source, {passing}, '', 'g') OPERATOR(pg_catalog.~) {harmful} OFFSET 0) AS plain
 ON pg_catalog.strpos(h.source, plain.name) OPERATOR(pg_catalog.>) 0
 UNION ALL SELECT reads FROM expressions, server WHERE tree OPERATOR(pg_catalog.~) server.calls
 UNION ALL SELECT true FROM (SELECT source FROM own WHERE name OPERATOR(pg_catalog.~) {unseen} OFFSET 0) AS odd
 WHERE pg_catalog.regexp_replace(odd.source, {passing}, '', 'g') OPERATOR(pg_catalog.~) {harmful}) AS found)"""

# What a function may have in it after which something is left that no catalogue shows.
_LASTING: Final = (
    (r"\mset\s+(session\s+)?seed\M", LASTING[b"setseed"]),
    *((rf"\m{n.decode()}\M", r) for n, r in LASTING.items()),
)

# Names of which `prepared.scan` sees nothing: in quotes, with a last word that begins with a digit or is none.
_UNSEEN = "(^|[]!-#%-/:-@[^`{-~ ])([0-9][^]!-#%-/:-@[^`{-~ ]*)?$"


def audit_sql(custom_names: Iterable[str], functions: Iterable[bytes] = (), *, writes: bool = False) -> str:
    """One query for the session's whole state: rows ('s', name, value) for settings, ('p', reason, object) for what
    cannot be moved, ('n', 'statements', count) for those of the protocol. pg_settings hides custom (dotted) parameters, so
    their names are asked for one by one. `functions`: which of these may change the session; `writes`: whether a write may,
    by a trigger or the like."""
    parts = [_AUDIT]
    for name in sorted(custom_names):
        literal = quote_text(name)
        parts.append(
            f"UNION ALL SELECT 's', {literal}, pg_catalog.current_setting({literal}, true)"
            f" WHERE pg_catalog.current_setting({literal}, true) IS NOT NULL"
        )
    called = sorted(name.decode("utf-8", "replace") for name in functions)
    if called:
        array = "ARRAY[" + ", ".join(quote_text(name) for name in called) + "]"
        lasting = ", ".join(f"({quote_text(words)}, {quote_text(reason)})" for words, reason in _LASTING)
        harmful = "|".join((_HARMFUL, *(words for words, _ in _LASTING)))
        parts.append(_FUNCTIONS.format(own=_OWN, names=array, harmful=quote_text(harmful), lasting=lasting))
    if writes:
        parts.append(
            _HIDDEN_FUNCTIONS.format(
                own=_OWN,
                harmful=quote_text(_HIDDEN_HARM),
                passing=quote_text(_SET_FOR_THE_TRANSACTION),
                unseen=quote_text(_UNSEEN),
            )
        )
    return "\n".join(parts)


def custom_names_in(text: bytes) -> set[str]:
    """Everything in a query that could be the name of a custom parameter. Too many do no harm: those that are not set
    come back as NULL."""
    found: set[str] = set()
    for match in _CUSTOM_NAME.finditer(text, 0, 262144):
        found.add(lower_name(_BETWEEN_PARTS.sub(b"", match.group()).decode("utf-8", "replace")))
        if len(found) >= _MOST_NAMES:
            break
    return found


def settings_of_audit(rows: Iterable[tuple[str | None, ...]], login_role: str) -> SessionSettings:
    """The session settings that an audit found."""
    found: dict[str, str] = {}
    for kind, name, value in rows:
        if kind != "s" or name is None or value is None:
            continue
        lowered = lower_name(name)
        if lowered in NOT_CARRIED:
            continue
        if (lowered == "role" and value == "none") or (lowered == "session_authorization" and value == login_role):
            continue
        found[lowered] = value
    return settings_of(found)


def harmful_of_audit(rows: Iterable[tuple[str | None, ...]]) -> set[bytes]:
    """The names of functions that an audit found to be able to change the session."""
    return {name.encode() for kind, name, _ in rows if kind == "f" and name is not None}


def channels_of_audit(rows: Iterable[tuple[str | None, ...]]) -> list[str]:
    """The channels that an audit found the session to listen to."""
    return [value for kind, name, value in rows if kind == "p" and name == "listen" and value is not None]


def hidden_harm_of_audit(rows: Iterable[tuple[str | None, ...]]) -> tuple[bool, bool]:
    """Whether an audit found that a write, and that a read, may change the session where no text shows it."""
    harmful = {name for kind, name, _ in rows if kind == "w"}
    return "writes" in harmful, "reads" in harmful


def statements_of_audit(rows: Iterable[tuple[str | None, ...]]) -> int:
    """How many statements of the protocol an audit found; -1 if it was not told."""
    return next((int(value) for kind, _, value in rows if kind == "n" and value is not None), -1)


def pins_of_audit(rows: Iterable[tuple[str | None, ...]]) -> frozenset[str]:
    """The reasons why the client has to keep its backend, that an audit found."""
    return frozenset(name for kind, name, _ in rows if kind == "p" and name is not None)
