"""What drivers, pools and psql say to every server, answered so that they are content.

None of it does anything: the console has no transactions, no cursors and no settings of a session. It exists so that
a program need not be told that it is talking to a pooler. Both originals refuse all of this (and PgBouncer takes
`SELECT 1` for `SHOW 1`).
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from pgdoorman.admin.flavour import Flavour
from pgdoorman.admin.grammar import Kind, Order, Select, Set, Token
from pgdoorman.admin.plans import Asker, Outcome, Plan, answer, ignored
from pgdoorman.protocol.results import BOOL, INT4, TEXT, Column, Value

# --- transactions, cursors, clean-up ----------------------------------------------------------------------------------

_EMPTY_VERBS: Final = {
    "BEGIN": "BEGIN",
    "START": "START TRANSACTION",
    "COMMIT": "COMMIT",
    "END": "COMMIT",
    "ROLLBACK": "ROLLBACK",
    "ABORT": "ROLLBACK",
    "SAVEPOINT": "SAVEPOINT",
    "RELEASE": "RELEASE",
    "CLOSE": "CLOSE CURSOR",
    "LISTEN": "LISTEN",
    "UNLISTEN": "UNLISTEN",
    "SET TRANSACTION": "SET",
    "SET CONSTRAINTS": "SET CONSTRAINTS",
    "SET SESSION": "SET",
}


def empty_order(order: Order) -> Plan | None:
    """A statement that is only acknowledged; None if it is not one of those."""
    if tag := _EMPTY_VERBS.get(order.verb):
        return answer(tag)
    words = " ".join((order.verb, *order.arguments)).upper()
    if words in ("DISCARD ALL", "DISCARD PLANS", "DISCARD TEMP", "DISCARD SEQUENCES", "DEALLOCATE ALL"):
        return answer(words)
    return None


# --- settings of a session --------------------------------------------------------------------------------------------

SESSION_SETTINGS: Final = {
    "client_encoding": "UTF8",
    "datestyle": "ISO, MDY",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "extra_float_digits": "1",
    "in_hot_standby": "off",
    "integer_datetimes": "on",
    "intervalstyle": "postgres",
    "server_encoding": "UTF8",
    "standard_conforming_strings": "on",
    "timezone": "GMT",
    "transaction_isolation": "read committed",
    "transaction_read_only": "off",
}
"""What SHOW answers for settings that drivers ask for. The five of PgBouncer are among them."""

_PGBOUNCER_TEXTS: Final = {"client_encoding": "UTF-8", "datestyle": "ISO"}

_IGNORED_SETTINGS: Final = frozenset(SESSION_SETTINGS) | {
    "application_name",
    "bytea_output",
    "client_min_messages",
    "default_transaction_deferrable",
    "idle_in_transaction_session_timeout",
    "jit",
    "lc_messages",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "lock_timeout",
    "role",
    "row_security",
    "search_path",
    "session_authorization",
    "statement_timeout",
    "synchronize_seqscans",
    "transaction_deferrable",
    "transaction_timeout",
}


def show_setting(name: str) -> Plan | None:
    """SHOW of a setting that PostgreSQL has and drivers ask for."""
    key = name.lower()
    if key not in SESSION_SETTINGS:
        return None

    def run(asker: Asker) -> Outcome:
        texts = _PGBOUNCER_TEXTS if asker.flavour is Flavour.PGBOUNCER else {}
        return Outcome("SHOW", [(texts.get(key, SESSION_SETTINGS[key]),)])

    return Plan(run, (Column(key),), verb="SHOW")


def set_setting(statement: Set) -> Plan | None:
    """SET of a setting that only means something in PostgreSQL."""
    return ignored() if statement.key in _IGNORED_SETTINGS else None


def reset_setting(key: str) -> Plan | None:
    """RESET of one. RESET ALL belongs here too: pools of connections send it whenever one comes back, and it must not
    undo what an operator has SET for the pooler."""
    return answer("RESET") if key == "all" or key in _IGNORED_SETTINGS else None


# --- SELECT without a table -------------------------------------------------------------------------------------------

type _Answer = Callable[[Asker], Value]


_FUNCTIONS: Final[dict[str, tuple[int, _Answer]]] = {
    # SQLAlchemy wants to read a version of PostgreSQL out of this, and nobody else looks at it.
    "version": (
        TEXT,
        lambda asker: f"console of pgdoorman {asker.overview.identity().version} for PostgreSQL 14 clients",
    ),
    "current_database": (TEXT, lambda asker: asker.database),
    "current_catalog": (TEXT, lambda asker: asker.database),
    "current_schema": (TEXT, lambda _asker: "pg_catalog"),
    "current_user": (TEXT, lambda asker: asker.user),
    "session_user": (TEXT, lambda asker: asker.user),
    "user": (TEXT, lambda asker: asker.user),
    "pg_backend_pid": (INT4, lambda asker: asker.process_id),
    "pg_is_in_recovery": (BOOL, lambda _asker: False),
    "pg_advisory_unlock_all": (TEXT, lambda _asker: ""),
}
_WITHOUT_PARENTHESES: Final = frozenset({"current_catalog", "current_schema", "current_user", "session_user", "user"})
_BOTH_FORMS: Final = frozenset({"current_schema"})


def select(statement: Select) -> Plan | None:
    """SELECT of constants and of the few functions that drivers call; None if it is anything else."""
    items = list(_items(statement.tokens))
    chosen = [_item(item) for item in items]
    if not chosen or any(item is None for item in chosen):
        return None
    answers = [item for item in chosen if item is not None]

    def run(asker: Asker) -> Outcome:
        return Outcome("SELECT 1", [[value(asker) for _, value in answers]])

    return Plan(run, [column for column, _ in answers], verb="SELECT")


def _items(tokens: Sequence[Token]) -> Iterator[Sequence[Token]]:
    start = depth = 0
    for index, token in enumerate(tokens):
        depth += token.is_sign("(") - token.is_sign(")")
        if token.is_sign(",") and depth == 0:
            yield tokens[start:index]
            start = index + 1
    yield tokens[start:]


def _item(tokens: Sequence[Token]) -> tuple[Column, _Answer] | None:
    """One element of the select list: a constant or a call, perhaps with AS and a name."""
    label = ""
    if len(tokens) > 2 and tokens[-2].is_word("AS") and tokens[-1].kind in (Kind.WORD, Kind.NAME):
        label, tokens = tokens[-1].text, tokens[:-2]
    if not tokens:
        return None
    found = _constant(tokens) or _call(tokens)
    if found is None:
        return None
    name, type_oid, value = found
    return Column(label or name, type_oid), value


def _constant(tokens: Sequence[Token]) -> tuple[str, int, _Answer] | None:
    if len(tokens) != 1:
        return None
    token = tokens[0]
    if token.kind is Kind.STRING:
        return "?column?", TEXT, lambda _asker: token.text
    if token.kind is Kind.WORD and re.fullmatch(r"[+-]?[0-9]{1,9}", token.text):
        number = int(token.text)
        return "?column?", INT4, lambda _asker: number
    if token.is_word("TRUE", "FALSE"):
        truth = token.is_word("TRUE")
        return "bool", BOOL, lambda _asker: truth
    if token.is_word("NULL"):
        return "?column?", TEXT, lambda _asker: None
    return None


def _call(tokens: Sequence[Token]) -> tuple[str, int, _Answer] | None:
    if tokens[0].kind is not Kind.WORD:
        return None
    name = tokens[0].text.lower().removeprefix("pg_catalog.")
    arguments = tokens[1:]
    if name == "current_setting" and len(arguments) >= 3 and arguments[1].kind is Kind.STRING:
        key = arguments[1].text.lower()
        return name, TEXT, lambda _asker: SESSION_SETTINGS.get(key)
    if name not in _FUNCTIONS:
        return None
    called = len(arguments) == 2 and arguments[0].is_sign("(") and arguments[1].is_sign(")")
    bare = not arguments and name in _WITHOUT_PARENTHESES
    if not bare and not (called and (name not in _WITHOUT_PARENTHESES or name in _BOTH_FORMS)):
        return None
    type_oid, value = _FUNCTIONS[name]
    return name, type_oid, value


_TYPE_LOOKUP: Final = re.compile(r"\bpg_type\b", re.IGNORECASE)


def is_type_lookup(statement: Select) -> bool:
    """Whether this looks for types, as libraries do on every new connection to find hstore and its like."""
    return bool(_TYPE_LOOKUP.search(statement.source))


def no_types() -> Plan:
    """The answer: there are none beyond the built-in ones."""
    return Plan(lambda _asker: Outcome("SELECT 0"), (Column("oid", INT4),), verb="SELECT", takes_parameters=True)


# --- completion in psql -----------------------------------------------------------------------------------------------

# psql asks pg_settings for names when Tab is pressed behind SHOW, SET and RESET; up to version 14 with substring(),
# since 15 with LIKE. Which of the two it is about can be seen from what it says about `context`.
_PREFIX: Final = re.compile(
    r"(?:lower\(name\)\s+LIKE\s+(?:pg_catalog\.)?lower\(|substring\(name,\s*1,\s*[0-9]+\)\s*=\s*)(?:E?'((?:[^']|'')*)')",
    re.IGNORECASE,
)


def is_completion(statement: Select) -> bool:
    """Whether this asks for the names in pg_settings."""
    return "pg_settings" in statement.source.lower()


type Names = Callable[[Asker], Iterable[str]]


def completion(statement: Select, show: Names, settable: Names) -> Plan:
    """The answer: what can stand behind SHOW, or behind SET and RESET, in small letters."""
    source = statement.source
    match = _PREFIX.search(source)
    pattern = match.group(1) if match else ""
    prefix = pattern.replace("''", "'").replace("\\\\", "\\").removesuffix("%").replace("\\_", "_").lower()
    if "enumvals" in source.lower():  # the values of one setting, which nobody has listed
        return Plan(lambda _asker: Outcome("SELECT 0"), (Column("val"),), verb="SELECT")
    names = settable if "context" in source.lower() else show

    def run(asker: Asker) -> Outcome:
        found = sorted({name.lower() for name in names(asker) if name.lower().startswith(prefix)})
        return Outcome(f"SELECT {len(found)}", [(name,) for name in found])

    return Plan(run, (Column("name"),), verb="SELECT")
