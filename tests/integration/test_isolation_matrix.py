"""What a client leaves behind, the next one must not see; what it set, it must find again.

Every row: client A does something on a pool of one and leaves (or stays, idle). Two others, one that was connected all
the time and one that is new, then look at everything that a session can differ in, and must see what a fresh session
sees. If A has stayed, it must still see its own state.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import pytest

from tests.integration.conftest import StartDoorman
from tests.support.doorman import Doorman, pool, user
from tests.support.postgres import Postgres
from tests.support.process import wait_until
from tests.support.wire import (
    Request,
    ServerError,
    Wire,
    bind,
    copy_data,
    describe_portal,
    execute,
    flush,
    parse,
    query,
    sync,
    terminate,
)

# --- What A does ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Action:
    """One row of the matrix.

    `does`: SQL texts (each must succeed unless it starts with "fails: "), or requests, which are sent all together; if
    they end with a Sync their answers are read. `sees` is what A, if it stayed, must still get: an SQL text and its
    first value. `holds`: A keeps the backend, so that staying would rightly keep the others waiting. `pins`: the state
    cannot move, so that with A staying the pool needs a second backend.
    """

    name: str
    does: tuple[str | tuple[Request | bytes, ...], ...]
    sees: tuple[str, str | None] | None = None
    startup: tuple[tuple[str, str], ...] = ()
    holds: bool = False
    pins: bool = False

    def __str__(self) -> str:
        return self.name


def carried(name: str, *does: str | tuple[Request | bytes, ...], sees: tuple[str, str | None]) -> Action:
    return Action(name, does, sees)


def pinned(name: str, *does: str | tuple[Request | bytes, ...], sees: tuple[str, str | None]) -> Action:
    return Action(name, does, sees, pins=True)


def passing(name: str, *does: str | tuple[Request | bytes, ...]) -> Action:
    """Nothing is left that A could ask for."""
    return Action(name, does)


def holding(name: str, *does: str | tuple[Request | bytes, ...]) -> Action:
    return Action(name, does, holds=True)


SETTINGS: Final = (
    carried("SET", "set work_mem = '5MB'", sees=("show work_mem", "5MB")),
    carried("SET of a reported one", "set timezone = 'Asia/Tokyo'", sees=("show timezone", "Asia/Tokyo")),
    carried("SET TO", "set session work_mem to '5MB'", sees=("show work_mem", "5MB")),
    carried(
        "SET two, RESET one",
        "set work_mem = '5MB'",
        "set timezone = 'Asia/Tokyo'",
        "reset work_mem",
        sees=("show timezone", "Asia/Tokyo"),
    ),
    carried(
        "several in one query",
        "set work_mem = '5MB'; set lock_timeout = '9s'; select 1",
        sees=("show lock_timeout", "9s"),
    ),
    carried("SET in a block", "begin", "set work_mem = '5MB'", "commit", sees=("show work_mem", "5MB")),
    carried("SET rolled back", "begin", "set work_mem = '5MB'", "rollback", sees=("show work_mem", "4MB")),
    carried(
        "SET, then a failed block",
        "set work_mem = '5MB'",
        "begin",
        "set work_mem = '6MB'",
        "fails: select 1/0",
        "rollback",
        sees=("show work_mem", "5MB"),
    ),
    carried(
        "RESET ALL undone to a savepoint",
        "set work_mem = '5MB'",
        "begin",
        "savepoint a",
        "reset all",
        "rollback to a",
        "commit",
        sees=("show work_mem", "5MB"),
    ),
    carried(
        "RESET ALL rolled back", "set work_mem = '5MB'", "begin", "reset all", "rollback", sees=("show work_mem", "5MB")
    ),
    carried(
        "DISCARD ALL failing in a block",
        "set work_mem = '5MB'",
        "begin",
        "fails: discard all",
        "rollback",
        sees=("show work_mem", "5MB"),
    ),
    carried("SET LOCAL", "begin", "set local work_mem = '5MB'", "commit", sees=("show work_mem", "4MB")),
    carried("SET LOCAL outside a block", "set local work_mem = '5MB'", sees=("show work_mem", "4MB")),
    carried(
        "SET and SET LOCAL of the same",
        "begin",
        "set work_mem = '5MB'",
        "set local work_mem = '6MB'",
        "commit",
        sees=("show work_mem", "5MB"),
    ),
    carried("set_config", "select set_config('search_path', '', false)", sees=("show search_path", "")),
    carried("set_config, local", "select set_config('work_mem', '5MB', true)", sees=("show work_mem", "4MB")),
    carried(
        "set_config, quoted name", """select "set_config"('work_mem', '5MB', false)""", sees=("show work_mem", "5MB")
    ),
    carried(
        "set_config, capitals", "SELECT PG_CATALOG.SET_CONFIG('work_mem', '5MB', false)", sees=("show work_mem", "5MB")
    ),
    carried(
        "set_config in the extended protocol",
        (parse("", "select set_config($1, $2, false)"), bind("", "", ["work_mem", "5MB"]), execute(), sync()),
        sees=("show work_mem", "5MB"),
    ),
    carried(
        "set_config in a named statement used later",
        (parse("s", "select set_config($1, $2, false)"), sync()),
        "select 1",
        (bind("", "s", ["work_mem", "5MB"]), execute(), sync()),
        sees=("show work_mem", "5MB"),
    ),
    carried(
        "pg_settings updated",
        "update pg_settings set setting = '5120' where name = 'work_mem'",
        sees=("show work_mem", "5MB"),
    ),
    carried(
        "SET in the extended protocol",
        (parse("", "set work_mem = '5MB'"), bind(), execute(), sync()),
        sees=("show work_mem", "5MB"),
    ),
    carried("SET in DO", "do $$ begin set work_mem = '5MB'; end $$", sees=("show work_mem", "5MB")),
    carried(
        "SET in DO, dynamic",
        "do $$ begin execute 'se' || 't work_mem = ''5MB'''; end $$",
        sees=("show work_mem", "5MB"),
    ),
    carried(
        "set_config in DO",
        "do $$ begin perform set_config('work_mem', '5MB', false); end $$",
        sees=("show work_mem", "5MB"),
    ),
    passing("SET in a function's body", "select set_in_function('5MB')"),
    passing("set_config in a function's body", "select set_config_in_function('5MB')"),
    passing("SET in a procedure's body", "call set_in_procedure('5MB')"),
    passing("SET in a trigger", "insert into watched values ('5MB')"),
    carried(
        "SET of a reported one in a function's body",
        "select set_timezone('Asia/Tokyo')",
        sees=("show timezone", "Asia/Tokyo"),
    ),
    passing("a function with its own SET clause", "select with_own_setting()"),
    carried("SET ROLE", "set role tenant", sees=("select current_user", "tenant")),
    carried("SET LOCAL ROLE", "begin", "set local role tenant", "commit", sees=("select current_user", "alice")),
    carried("role by set_config", "select set_config('role', 'tenant', false)", sees=("select current_user", "tenant")),
    carried("SET ROLE rolled back", "begin", "set role tenant", "rollback", sees=("select current_user", "alice")),
    carried("SET SESSION AUTHORIZATION", "set session authorization bob", sees=("select session_user", "bob")),
    carried(
        "SET SESSION AUTHORIZATION, then SET ROLE",
        "set session authorization bob",
        "set role tenant",
        sees=("select current_user || session_user", "tenantbob"),
    ),
    carried("role and RESET ALL", "set role tenant", "reset all", sees=("select current_user", "tenant")),
    carried(
        "default_transaction_read_only",
        "set default_transaction_read_only = on",
        sees=("show transaction_read_only", "on"),
    ),
    carried(
        "session characteristics",
        "set session characteristics as transaction isolation level serializable",
        sees=("show transaction_isolation", "serializable"),
    ),
    carried("statement_timeout", "set statement_timeout = '40ms'", sees=("show statement_timeout", "40ms")),
    carried("search_path", "set search_path = pg_catalog, other", sees=("show search_path", "pg_catalog, other")),
    carried("client_encoding", "set client_encoding = 'LATIN1'", sees=("show client_encoding", "LATIN1")),
    carried("SET NAMES", "set names 'SQL_ASCII'", sees=("show client_encoding", "SQL_ASCII")),
    carried("SET TIME ZONE", "set time zone -3", sees=("show timezone", "<-03>+03")),
    carried("a custom parameter", "set my.own = 'A''s'", sees=("select current_setting('my.own', true)", "A's")),
    carried(
        "a custom parameter by set_config",
        "select set_config('my.own', 'A', false)",
        sees=("select current_setting('my.own', true)", "A"),
    ),
    carried(
        "a custom parameter in DO",
        "do $$ begin set my.own = 'A'; end $$",
        sees=("select current_setting('my.own', true)", "A"),
    ),
    carried(
        "a value that needs care", "set my.own = E'\\\\ '' \" $1 %s ;--'", sees=("show my.own", "\\ ' \" $1 %s ;--")
    ),
    carried("application_name", "set application_name = 'A itself'", sees=("show application_name", "A itself")),
    carried(
        "session_replication_role",
        "set session_replication_role = replica",
        sees=("show session_replication_role", "replica"),
    ),
    carried(
        "DISCARD ALL after all that",
        "set work_mem = '5MB'",
        "set role tenant",
        "set my.own = 'A'",
        "discard all",
        sees=("show work_mem", "4MB"),
    ),
    Action("options at login", ("select 1",), ("show work_mem", "7MB"), (("options", "-c work_mem=7MB -c my.own=A"),)),
    Action(
        "options at login, then RESET ALL", ("reset all",), ("show work_mem", "7MB"), (("options", "-c work_mem=7MB"),)
    ),
    Action(
        "options at login, overlaid and RESET",
        ("set work_mem = '5MB'", "reset work_mem"),
        ("show work_mem", "7MB"),
        (("options", "-c work_mem=7MB"),),
    ),
    Action(
        "startup parameters",
        ("select 1",),
        ("show datestyle", "German, DMY"),
        (("DateStyle", "German"), ("TimeZone", "Asia/Tokyo")),
    ),
    Action(
        "a search_path at login", ("select 1",), ("show search_path", "pg_catalog"), (("search_path", "pg_catalog"),)
    ),
    Action(
        "a client_encoding at login",
        ("select 1",),
        ("show client_encoding", "LATIN1"),
        (("client_encoding", "LATIN1"),),
    ),
    Action(
        "read-only at login",
        ("select 1",),
        ("show transaction_read_only", "on"),
        (("default_transaction_read_only", "on"),),
    ),
)

ONES_OWN: Final = (
    pinned(
        "temporary table",
        "create temp table kept (i int)",
        "insert into kept values (7)",
        sees=("select i from kept", "7"),
    ),
    pinned(
        "temporary table, other spelling",
        "create temporary table kept as select 7 as i",
        sees=("select i from kept", "7"),
    ),
    pinned("temporary table by SELECT INTO", "select 7 as i into temp kept", sees=("select i from kept", "7")),
    pinned(
        "temporary table in pg_temp", "create table pg_temp.kept as select 7 as i", sees=("select i from kept", "7")
    ),
    pinned(
        "temporary table in a block",
        "begin",
        "create temp table kept as select 7 as i",
        "commit",
        sees=("select i from kept", "7"),
    ),
    pinned(
        "temporary table made in DO",
        "do $$ begin create temp table kept as select 7 as i; end $$",
        sees=("select i from kept", "7"),
    ),
    pinned(
        "temporary table in the extended protocol",
        (parse("", "create temp table kept as select 7 as i"), bind(), execute(), sync()),
        sees=("select i from kept", "7"),
    ),
    pinned("temporary view", "create temp view kept as select 7 as i", sees=("select i from kept", "7")),
    pinned("temporary sequence", "create temp sequence kept start 7", sees=("select nextval('kept')", "7")),
    pinned(
        "temporary function",
        "create function pg_temp.kept() returns int language sql as 'select 7'",
        sees=("select pg_temp.kept()", "7"),
    ),
    passing("temporary table dropped on commit", "begin", "create temp table kept (i int) on commit drop", "commit"),
    passing("temporary table made and dropped", "create temp table kept (i int)", "drop table kept"),
    pinned(
        "held cursor",
        "declare held cursor with hold for select n from generate_series(7, 9) n",
        sees=("fetch 1 from held", "7"),
    ),
    pinned(
        "held cursor made in a block",
        "begin",
        "declare held cursor with hold for select 7 as n",
        "commit",
        sees=("fetch 1 from held", "7"),
    ),
    passing("held cursor closed", "declare held cursor with hold for select 7 as n", "close held"),
    pinned("advisory lock", "select pg_advisory_lock(5)", sees=("select pg_advisory_unlock(5)", "t")),
    pinned(
        "advisory lock, shared", "select pg_advisory_lock_shared(5)", sees=("select pg_advisory_unlock_shared(5)", "t")
    ),
    pinned("advisory lock, tried", "select pg_try_advisory_lock(5, 6)", sees=("select pg_advisory_unlock(5, 6)", "t")),
    pinned(
        "advisory lock taken in a block",
        "begin",
        "select pg_advisory_lock(5)",
        "rollback",
        sees=("select pg_advisory_unlock(5)", "t"),
    ),
    pinned(
        "advisory lock in the extended protocol",
        (parse("", "select pg_advisory_lock($1)"), bind("", "", ["5"]), execute(), sync()),
        sees=("select pg_advisory_unlock(5)", "t"),
    ),
    pinned(
        "advisory lock taken in DO",
        "do $$ begin perform pg_advisory_lock(5); end $$",
        sees=("select pg_advisory_unlock(5)", "t"),
    ),
    passing("advisory lock for the transaction", "begin", "select pg_advisory_xact_lock(5)", "commit"),
    passing("advisory lock taken and freed", "select pg_advisory_lock(5)", "select pg_advisory_unlock(5)"),
    pinned("PREPARE", "prepare p as select 7", sees=("execute p", "7")),
    pinned("PREPARE in a block", "begin", "prepare p as select 7", "commit", sees=("execute p", "7")),
    pinned("PREPARE in a block rolled back", "begin", "prepare p as select 7", "rollback", sees=("execute p", "7")),
    passing("LISTEN", "listen news"),
    passing("LISTEN and UNLISTEN", "listen news", "unlisten news"),
    carried("LOAD", "load 'auto_explain'", sees=("select 7", "7")),
    passing("nextval", "select nextval('numbers_from')"),
    passing(
        "nextval, currval and lastval",
        "begin",
        "select nextval('numbers_from')",
        "select currval('numbers_from'), lastval()",
        "commit",
    ),
    carried("statement in the protocol", (parse("s", "select 7"), sync()), sees=("execute s", "7")),
    passing("unnamed statement", (parse("", "select 7"), sync())),
    passing("setting for a role", "alter role alice set statement_timeout = '99s'"),
)

UNFINISHED: Final = (
    holding("block", "begin", "select 1"),
    passing("block with nothing in it", "begin"),
    holding("block that has written", "begin", "insert into written values (1)", "lock table written"),
    holding("failed block", "begin", "fails: select 1/0"),
    holding("block with a cursor", "begin", "declare c cursor for select generate_series(1, 100)", "fetch 3 from c"),
    holding("block with settings", "begin", "set work_mem = '5MB'", "set local role tenant"),
    holding("block with a temporary table", "begin", "create temp table kept (i int)"),
    holding("batch without Sync", (parse("", "select 7"), bind(), execute())),
    holding("batch ended by Flush", (parse("", "select 7"), bind(), execute(), flush())),
    holding("batch that failed, without Sync", (bind("", "none"), flush())),
    holding(
        "portal half read", "begin", (parse("", "select generate_series(1, 1000)"), bind("p"), execute("p", 5), flush())
    ),
    holding("COPY in, nothing sent", (query("copy written from stdin"),)),
    holding("COPY in, some sent", (query("copy written from stdin"), copy_data("1\n"), copy_data("2"))),
    holding(
        "COPY in, extended, Sync sent ahead",
        (parse("", "copy written from stdin"), bind(), execute(), sync(), copy_data("1\n")),
    ),
    passing("COPY in that failed", (query("copy written from stdin"), copy_data("x\n"), copy_data("1\n"))),
    holding("COPY out, not read", (query("copy (select repeat('x', 1000) from generate_series(1, 60000)) to stdout"),)),
    holding("large result, not read", (query("select repeat('x', 1000) from generate_series(1, 60000)"),)),
    holding("one large row, not read", (query("select repeat('x', 60000000)"),)),
    holding("running query", (query("select pg_sleep(60)"),)),
    holding(
        "running query with more behind",
        (query("select pg_sleep(60)"), query("select 'A'"), query("set work_mem = '5MB'")),
    ),
    holding(
        "running batch with more behind",
        (
            parse("", "select pg_sleep(60)"),
            bind(),
            execute(),
            sync(),
            parse("", "select 'A'"),
            bind(),
            execute(),
            sync(),
        ),
    ),
    passing("half a message", (query("select 'half'").data[:-4],)),
    passing("only a type byte", (b"Q",)),
    passing("half a length", (b"P\0\0",)),
    holding("half a message in a block", "begin", "select 1", (query("select 'half'").data[:-4],)),
    holding(
        "half a large message in a block", "begin", "select 1", (query("select '" + "h" * 3_000_000 + "'").data[:-9],)
    ),
    holding("half a batch", (parse("", "select 7"), bind(), describe_portal(), execute().data[:-2])),
    holding("half a CopyData", (query("copy written from stdin"), copy_data("1\n2\n3").data[:-3])),
)

# --- What the others look at ----------------------------------------------------------------------------------------

# Each is one value; they are asked for in one query.
PROBES: Final = {
    "settings": "select string_agg(name || '=' || setting, E'\\n' order by name) from pg_settings"
    " where name not like '%.%' and name not in ('application_name')",
    "custom parameter": "select coalesce(current_setting('my.own', true), '')",
    "application name": "select current_setting('application_name')",
    "users": "select current_user || ' ' || session_user || ' ' || current_setting('role')",
    # Without the implicit ones: an empty pg_temp stays behind for as long as the backend lives, and shows nothing.
    "schemas": "select array_to_string(current_schemas(false), ' ')",
    "advisory locks": "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
    "table lock": "select count(*) from pg_locks l join pg_class c on c.oid = l.relation where relname = 'written'",
    "listening": "select string_agg(name, ' ') from pg_listening_channels() name",
    "temporary things": "select string_agg(relname, ' ') from pg_class where relnamespace = pg_my_temp_schema()",
    "temporary functions": "select string_agg(proname, ' ') from pg_proc where pronamespace = pg_my_temp_schema()",
    "name kept": "select to_regclass('kept')",
    "prepared in SQL": "select string_agg(name, ' ') from pg_prepared_statements where from_sql",
    "cursors": "select string_agg(name, ' ') from pg_cursors where name <> ''",
    "loaded": "select count(*) from pg_settings where name like 'auto_explain.%'",
    "isolation": "select current_setting('transaction_isolation') || current_setting('transaction_read_only')",
    "transaction left open": "select pg_current_xact_id_if_assigned()",
}

# Each of these is an error in a fresh session, or locks something, and so stands alone.
PROBES_ALONE: Final = {
    "lock is free": "select pg_try_advisory_xact_lock(5) and pg_try_advisory_xact_lock(5, 6)",
    "lastval": "select lastval()",
    "currval": "select currval('public.numbers_from')",
    "execute p": "execute p",
    "fetch": "fetch 1 from held",
    "A's writing": "select count(*) from public.written",
}


def look(wire: Wire) -> dict[str, str]:
    """Everything that a session can differ in, as text. Raises WireError if the answers are not what was asked for."""
    seen = {"told at login and since": " ".join(f"{k}={v}" for k, v in sorted(wire.parameters.items()))}
    values = wire.rows("select " + ", ".join(f"({sql})" for sql in PROBES.values()))[0]
    seen |= {name: str(value) for name, value in zip(PROBES, values, strict=True)}
    for name, sql in PROBES_ALONE.items():
        try:
            seen[name] = str(wire.value(sql))
        except ServerError as error:
            seen[name] = f"{error.sqlstate} {error.fields.get('M')}"
        assert wire.outstanding.status == "I", f"behind {sql!r} ReadyForQuery says {wire.outstanding.status}"
    for statement in ("s", ""):
        replies = wire.ask(bind("", statement), sync())
        seen[f"bind {statement!r}"] = ", ".join(
            f"{reply.fields().get('C')}" if reply.kind == "E" else reply.kind for reply in replies
        )
    return seen


def differences(baseline: dict[str, str], seen: dict[str, str]) -> str:
    """What leaked, one line each; for the long list of settings only those that differ."""
    lines = []
    for name, wanted in baseline.items():
        got = seen[name]
        if got == wanted:
            continue
        if "\n" in wanted:
            gone = sorted(set(wanted.split("\n")) - set(got.split("\n")))
            come = sorted(set(got.split("\n")) - set(wanted.split("\n")))
            lines.append(f"    {name}: {', '.join(gone)}  ->  {', '.join(come)}")
        else:
            lines.append(f"    {name}: {wanted!r}  ->  {got!r}")
    return "\n".join(lines)


# --- How A leaves ---------------------------------------------------------------------------------------------------

WAYS: Final[dict[str, Callable[[Wire], None] | None]] = {
    "terminate": Wire.terminate,
    "reset": Wire.reset,
    "hang up": Wire.hang_up,
    "stays": None,
}

_SCHEMA = """
create sequence numbers_from;
create table written (i int);
create table watched (value text);
create function set_in_function(text) returns text language plpgsql as
    $$ begin set work_mem = '5MB'; return $1; end $$;
create function set_config_in_function(text) returns text language sql as
    $$ select set_config('work_mem', $1, false) $$;
create procedure set_in_procedure(text) language plpgsql as $$ begin perform set_config('work_mem', $1, false); end $$;
create function set_in_trigger() returns trigger language plpgsql as
    $$ begin perform set_config('work_mem', new.value, false); return null; end $$;
create trigger t before insert on watched for each row execute function set_in_trigger();
create function set_timezone(text) returns text language sql as $$ select set_config('timezone', $1, false) $$;
create function with_own_setting() returns text language sql set work_mem = '5MB' as
    $$ select current_setting('work_mem') $$;
create schema other;
grant usage on schema public to public;
grant all on all tables in schema public to public;
grant all on all sequences in schema public to public;
"""


class Hall:
    """Pools that nobody has used yet, in one pooler that is started anew if it dies."""

    _POOLS = 420

    def __init__(self, server: Postgres, start: StartDoorman) -> None:
        self.server = server
        self._start = start
        self._numbers = itertools.count()
        self._doorman: Doorman | None = None

    def doorman(self) -> Doorman:
        if self._doorman is None or not self._doorman.is_running:
            self._numbers = itertools.count()
            alias = {"server_database": "matrix"}
            pools = {
                f"{kind}{number}": pool(self.server, user("alice", pool_size=size), pool_mode=mode, **alias)
                for number in range(self._POOLS // 3)
                for kind, size, mode in (
                    ("one", 1, "transaction"),
                    ("two", 2, "transaction"),
                    ("session", 1, "session"),
                )
            }
            self._doorman = self._start(pools=pools, general={"query_wait_timeout": "6s"})
        return self._doorman

    def fresh(self, kind: str) -> Callable[..., Wire]:
        """A function that logs alice in to a pool of its own: `one`, `two` or `session`."""
        doorman = self.doorman()
        database = f"{kind}{next(self._numbers) % (self._POOLS // 3)}"

        def connect(**parameters: str) -> Wire:
            named = {"application_name": "matrix", **parameters}
            return doorman.connect(database, "alice", parameters=named, patience=8.0)

        return connect


@pytest.fixture(scope="module")
def hall(postgres: Postgres, start_module_doorman: StartDoorman) -> Hall:
    postgres.run("drop database if exists matrix with (force)", "create database matrix")
    postgres.run(_SCHEMA, database="matrix")
    return Hall(postgres, start_module_doorman)


@pytest.fixture(autouse=True)
def tidy(postgres: Postgres) -> Iterator[None]:
    """The server is as it was before, whatever a row did."""
    yield
    postgres.run(
        "alter role alice reset all",
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'matrix'",
    )
    postgres.run("truncate written, watched", database="matrix")


# --- The rows -------------------------------------------------------------------------------------------------------


def act(wire: Wire, action: Action) -> None:
    for doing in action.does:
        if isinstance(doing, tuple):
            _send(wire, doing)
        elif doing.startswith("fails: "):
            with pytest.raises(ServerError):
                wire.run(doing.removeprefix("fails: "))
        else:
            wire.run(doing)


def _send(wire: Wire, requests: Sequence[Request | bytes]) -> None:
    wire.send(*requests)
    if isinstance(requests[-1], Request) and requests[-1].kind == "S" and not _runs_long(requests):
        wire.settle()


def _runs_long(requests: Sequence[Request | bytes]) -> bool:
    return any("pg_sleep" in repr(one) or "copy " in repr(one) for one in requests)


def _fair(action: Action, mode: str, way: str) -> bool:
    if way == "stays":
        return mode == "transaction" and not action.holds
    return mode == "transaction" or way != "hang up"


ROWS: Final = [
    pytest.param(action, mode, way, id=f"{action}-{mode}-{way}".replace(" ", "_"))
    for action in (*SETTINGS, *ONES_OWN, *UNFINISHED)
    for mode in ("transaction", "session")
    for way in WAYS
    if _fair(action, mode, way)
]


@pytest.mark.timeout(40)
@pytest.mark.parametrize(("action", "mode", "way"), ROWS)
def test_nothing_is_left_behind(hall: Hall, action: Action, mode: str, way: str) -> None:
    """Others see what a fresh session sees; a client that stays sees its own state."""
    leave = WAYS[way]
    kind = "session" if mode == "session" else "two" if action.pins and leave is None else "one"
    connect = hall.fresh(kind)
    with connect() as first:
        baseline = look(first)
        used = first.value("select pg_backend_pid()")
    if leave is None and "advisory" in action.name and action.pins:
        del baseline["lock is free"]  # rightly: A holds it
    with connect(**dict(action.startup)) as wire, connect() as before:
        act(wire, action)
        if leave is not None:
            leave(wire)
        story = f"A did {action.does} and {'left by ' + way if leave else 'stayed'}"
        _must_see_nothing(story, baseline, before, "was connected all the time")
        if mode == "session":
            before.terminate()
        with connect() as fresh:
            _must_see_nothing(story, baseline, fresh, "logged in afterwards")
            _must_be_one_backend(hall, kind, used, fresh)
        if leave is None and action.sees is not None:
            _must_see_its_own(wire, action, story)


def _must_see_nothing(story: str, baseline: dict[str, str], wire: Wire, who: str) -> None:
    seen = look(wire)
    if leaked := differences(baseline, seen):
        pytest.fail(f"{story}; a client that {who} does not see a fresh session:\n{leaked}", pytrace=False)


def _must_see_its_own(wire: Wire, action: Action, story: str) -> None:
    assert action.sees is not None
    sql, wanted = action.sees
    try:
        got = wire.value(sql)
    except ServerError as error:
        got = f"the error {error}"
    if wanted is not None and got != wanted:
        pytest.fail(
            f"{story}; others came in between; then A asked {sql!r}: {got!r} instead of {wanted!r}", pytrace=False
        )


def _must_be_one_backend(hall: Hall, kind: str, used: str | None, wire: Wire) -> None:
    """On a pool of one the others must have had A's own backend, or it must be gone: else nothing was tried."""
    if kind != "one":
        return
    now = wire.value("select pg_backend_pid()")
    if now != used:
        wait_until(lambda: int(used or 0) not in hall.server.backends("matrix"), 5, f"backend {used} gone")


def test_notifications_reach_nobody_else(hall: Hall) -> None:
    """A listens and leaves or stays; a NOTIFY must not reach the client that has A's old backend."""
    for leave in (Wire.terminate, Wire.reset, None):
        connect = hall.fresh("two" if leave is None else "one")
        with connect() as listener, connect() as other:
            listener.run("listen news")
            if leave is not None:
                leave(listener)
            other.run("select 1")
            hall.server.run("notify news, 'private'", database="matrix")
            replies = other.ask(query("select 1"), query("select 2")) + other.poll(0.3)
            stray = [reply for reply in replies if reply.kind == "A"]
            assert not stray, f"a client that never listened got {stray} (the listener {leave or 'stayed'})"
            if leave is None:
                replies = listener.poll(2.0)
                assert any(reply.kind == "A" for reply in replies), "the idle listener was told nothing within 2 s"


def test_reporting_stays_exact(hall: Hall) -> None:
    """What a client is told by ParameterStatus equals what its backend says, whoever used the backend before."""
    connect = hall.fresh("one")
    with connect() as one, connect(TimeZone="Asia/Tokyo") as two:
        for round_ in range(3):
            for wire, zone in ((one, f"Etc/GMT+{round_ + 1}"), (two, f"Etc/GMT-{round_ + 1}")):
                if round_ == 1:
                    wire.run(f"set timezone = '{zone}'")
                for name in ("TimeZone", "DateStyle", "client_encoding", "application_name"):
                    assert wire.parameters[name] == wire.value(f"show {name}"), f"round {round_}, {name}"


def test_a_role_that_is_dropped_meanwhile(hall: Hall) -> None:
    """A value that can no longer be set is an ERROR for its own client, which lives on; nobody else is touched."""
    hall.server.run("drop role if exists fleeting", "create role fleeting")
    connect = hall.fresh("one")
    with connect() as holder, connect() as other:
        holder.run("set role fleeting")
        other.run("drop role fleeting")
        for _ in range(3):
            assert other.value("select current_user") == "alice"
            with contextlib.suppress(ServerError):
                holder.value("select current_user")
        holder.run("reset role")
        assert holder.value("select current_user") == "alice"


@pytest.mark.parametrize("name", ["seed", "transaction_read_only", "transaction_isolation", "transaction_deferrable"])
def test_start_up_parameters_that_nothing_can_reset(hall: Hall, name: str) -> None:
    """One that stayed on the backend would have every other client refused."""
    connect = hall.fresh("one")
    value = {"seed": "0.5", "transaction_isolation": "serializable"}.get(name, "on")
    with connect(**{name: value}) as wire:
        assert wire.value("select 1") == "1"
        others: list[dict[str, str]] = [{}, {"TimeZone": "Asia/Tokyo"}]
        for own in others:
            with connect(**own) as other:
                assert other.value("select 2") == "2"
        assert wire.value("select 3") == "3"


def test_what_was_sent_before_terminate_is_done(hall: Hall) -> None:
    """PostgreSQL takes messages in order: Terminate behind a query does not undo the query."""
    connect = hall.fresh("one")
    sent = {
        "a query": (query("insert into written values (1)"),),
        "a batch": (parse("", "insert into written values (2)"), bind(), execute(), sync()),
        "a batch without Sync": (parse("", "insert into written values (0)"), bind(), execute()),
        "two queries": (query("insert into written values (3)"), query("insert into written values (4)")),
    }
    for requests in sent.values():
        wire = connect()
        wire.send(*requests, terminate())
        wire.wait_closed()
        wire.hang_up()
    with connect() as wire:
        done = wire.value("select string_agg(i::text, ' ' order by i) from written")
    assert done == "1 2 3 4", f"of the rows 1 to 4 (0 had no Sync) these were written: {done}"
