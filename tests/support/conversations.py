"""Random conversations from a seed: what three clients might say, sensible and senseless things mixed.

Profiles: `protocol` knows no session state; `movable` uses what a pooler can carry from one backend to another;
`pinning` adds temporary tables, held cursors, advisory locks, LISTEN and SQL-level PREPARE. Each is played by three
clients in turns. tests.support.oracle makes the databases that the texts speak of, and judges the answers.
"""

import itertools
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from tests.support.scenario import Step, Turn
from tests.support.wire import (
    Parameter,
    Request,
    bind,
    close_portal,
    close_statement,
    copy_data,
    copy_done,
    copy_fail,
    describe_portal,
    describe_statement,
    execute,
    flush,
    function_call,
    parse,
    query,
    sync,
)

CLIENTS: Final = 3
TURNS_A_SCENARIO: Final = 24


@dataclass(frozen=True, slots=True)
class Text:
    """An SQL text; {0} is the client's number. `parameters` are good values for it."""

    sql: str
    parameters: tuple[Parameter, ...] = ()
    weight: float = 1.0

    def for_client(self, number: int) -> "Text":
        return replace(self, sql=self.sql.replace("{0}", str(number)))


_READING = (
    Text("select 1", weight=4),
    Text("select 1, 'two'::text, null::text"),
    Text("select n from numbers where n < 6 order by n", weight=4),
    Text("select n, repeat('x', n) from numbers order by n", weight=2),
    Text("select"),
    Text("values (1, 'a'), (2, 'b')"),
    Text("select id, name from c{0}.t order by id", weight=2),
    Text("select * from t order by 1"),
    Text("select say('word')"),
    Text("select date '2024-01-02', interval '1 day 2 hours', timestamptz '2024-01-02 03:04:05+00'", weight=2),
    Text("select 1.1::float8 / 3"),
    Text("select 'good'::mood"),
    Text("select E'\\u00e4\\u20ac'::text"),
    Text("select current_user, session_user"),
    Text("show timezone"),
    Text("show search_path"),
    Text("show work_mem"),
    Text("show application_name"),
    Text("select coalesce(current_setting('my.own', true), '')"),
    Text("select current_setting('statement_timeout'), current_setting('transaction_read_only')"),
    Text("select pg_current_xact_id_if_assigned() is null"),
    Text("select repeat('long ', 3000)", weight=0.3),
    Text("copy numbers to stdout", weight=0.5),
)

_WITH_PARAMETERS = (
    Text("select $1::int", ("7",), weight=4),
    Text("select $1::int + $2::int", ("7", "8"), weight=3),
    Text("select $1::text, $2::text", ("a", None), weight=2),
    Text("select n from numbers where n > $1 order by n", ("15",), weight=3),
    Text("insert into c{0}.t (name) values ($1) returning id", ("new",), weight=2),
    Text("update c{0}.t set name = name || $1 where id = $2", ("!", "1")),
    Text("delete from c{0}.t where id = $1", ("3",)),
    Text("select $1::mood", ("bad",)),
    Text("select set_config($1, $2, false)", ("work_mem", "6MB")),
    Text("select say($1)", ("loud",)),
)

_WRITING = (
    Text("insert into c{0}.t (name) values ('x')", weight=2),
    Text("insert into c{0}.t (id, name) values (1, 'twice')"),
    Text("insert into c{0}.u values (1)"),
    Text("update c{0}.t set name = upper(name)"),
    Text("delete from c{0}.t where id > 3"),
    Text("create table c{0}.x (i int)"),
    Text("drop table c{0}.x"),
    Text("lock table c{0}.t"),
    Text("do $$ begin raise notice 'done %', 1; end $$"),
    Text("do $$ begin raise warning 'before'; perform 1 / 0; end $$"),
    Text("explain (costs off) select 1"),
    Text("vacuum c{0}.t", weight=0.2),
)

_TRANSACTION = (
    Text("begin", weight=4),
    Text("BEGIN;", weight=1.5),
    Text("begin isolation level serializable, read only"),
    Text("start transaction", weight=1.5),
    Text("start transaction read only"),
    Text("commit", weight=4),
    Text("COMMIT;"),
    Text("end"),
    Text("rollback", weight=4),
    Text("abort"),
    Text("commit and chain"),
    Text("rollback and chain"),
    Text("savepoint a", weight=2),
    Text("rollback to savepoint a", weight=2),
    Text("release savepoint a"),
    Text("rollback prepared 'none'", weight=0.3),
    Text("declare cur cursor for select n from numbers order by n", weight=1.5),
    Text("fetch 3 from cur", weight=1.5),
    Text("move 2 from cur"),
    Text("close cur"),
    Text("set transaction isolation level repeatable read"),
    Text("set constraints all immediate"),
    Text("select pg_advisory_xact_lock({0})"),
)

_BROKEN = (
    Text("select 1 / 0", weight=2),
    Text("select 1 / (n - 4) from numbers order by n", weight=2),
    Text("selec 1"),
    Text("select * from missing"),
    Text("select nothing(1)"),
    Text("select fail(3)"),
    Text("select 'x'::int"),
    Text("commit; nonsense"),
    Text("set work_mem = 'lots'"),
    Text("set nothing = 1"),
    Text("close nothing"),
    Text("execute nothing"),
    Text("deallocate nothing"),
    Text("copy (select 1 / (n - 4) from numbers order by n) to stdout"),
    Text("copy missing to stdout", weight=0.5),
)

# SQL that speaks of statements which, as a rule, the protocol has made.
_NAMES = (
    Text("execute s1", weight=2),
    Text("execute s1 (1)"),
    Text("execute s2 (1, 2)"),
    Text("execute s3"),
    Text('execute "S1"'),
    Text('execute "odd ""name"""'),
    Text("explain (costs off) execute s1", weight=0.3),
    Text("deallocate s1", weight=1.5),
    Text("deallocate prepare s2"),
    Text('deallocate "odd ""name"""'),
    Text("deallocate all", weight=0.7),
)
_SPEAKING: Final = re.compile(r"(?:explain .*)?(?:execute|deallocate|prepare)\b")
# Their own name: a statement that executes itself does so until its stack is full. It is never described: PostgreSQL has made
# up its mind at its Parse, a pooler when it is used.
_SPEAKER: Final = "speaking"

_EMPTY = (Text(""), Text(";"), Text(" -- nothing\n"), Text("/* nothing */ ;"))

_SEVERAL = (
    Text("select 1; select 2"),
    Text("insert into c{0}.t (name) values ('m'); select count(*) from c{0}.t; select 1 / 0; select 'never'", weight=2),
    Text("begin; select 1"),
    Text("begin; insert into c{0}.t (name) values ('m'); commit"),
    Text("commit; begin"),
    Text("select 1; ; select 2;"),
    Text("begin; select 1 / 0; commit"),
    Text("set timezone = 'UTC'; show timezone"),
    Text("set work_mem = '9MB'; select 1 / 0"),
    Text("select 1; begin; set local timezone = 'Europe/Oslo'; show timezone; savepoint a"),
)

_SETTINGS = (
    Text("set timezone = 'Asia/Tokyo'", weight=2),
    Text("set timezone = 'America/Lima'"),
    Text("set datestyle = 'German'"),
    Text("set intervalstyle = 'iso_8601'"),
    Text("set application_name = 'client {0}'", weight=2),
    Text("set search_path = c{0}", weight=2),
    Text("set search_path to 'c{0}', public"),
    Text("set work_mem = '5MB'", weight=2),
    Text("set statement_timeout = '77s'"),
    Text("set my.own = 'value {0}'", weight=2),
    Text("set extra_float_digits = 0"),
    Text("set bytea_output = 'escape'"),
    Text("set client_encoding = 'LATIN1'"),
    Text("set client_min_messages = 'warning'"),
    Text("set default_transaction_read_only = on"),
    Text("set session characteristics as transaction isolation level repeatable read"),
    Text("set local timezone = 'Europe/Oslo'", weight=2),
    Text("set local work_mem = '8MB'"),
    Text("reset timezone"),
    Text("reset work_mem"),
    # No RESET of it: a custom parameter once set on a backend can be emptied, but never unmade, by nobody.
    Text("reset all", weight=2),
    Text("set timezone to default"),
    Text("select set_config('statement_timeout', '66s', false)"),
    Text("select set_config('timezone', 'Asia/Seoul', true)"),
    Text("select set_config('my.own', 'by function {0}', false)"),
    Text("do $$ begin set work_mem = '4MB'; end $$"),
    Text("do $$ begin set timezone = 'Asia/Dubai'; end $$"),
    Text("set role tenant"),
    Text("set role none"),
    Text("reset role"),
    Text("set session authorization bob"),
    Text("reset session authorization"),
    Text("discard all"),
    Text("discard plans"),
    Text("deallocate all", weight=2),
)

_PINNING = (
    Text("create temp table kept (i int)", weight=2),
    Text("insert into kept values ({0})", weight=2),
    Text("select * from kept", weight=2),
    Text("drop table kept"),
    Text("create temp table gone (i int) on commit drop"),
    Text("select 1 as i into temp into_kept"),
    Text("select * from into_kept"),
    Text("discard temp"),
    Text("declare held cursor with hold for select n from numbers order by n", weight=2),
    Text("fetch 2 from held", weight=2),
    Text("close held"),
    Text("close all"),
    Text("select pg_advisory_lock({0})", weight=2),
    Text("select pg_try_advisory_lock(99)", weight=2),
    Text("select pg_advisory_unlock({0})", weight=2),
    Text("select pg_advisory_unlock(99)"),
    Text("select pg_advisory_unlock_all()"),
    Text("listen one", weight=2),
    Text("listen two"),
    Text("notify one, 'from {0}'", weight=3),
    Text("select pg_notify('two', 'by function')", weight=2),
    Text("unlisten one"),
    Text("unlisten *"),
    Text("select pg_listening_channels()"),
    Text("prepare p as select $1::int + {0}", weight=2),
    Text("prepare p as select 'again'"),
    Text("prepare q (text) as insert into c{0}.t (name) values ($1)"),
    Text("prepare broken as selec"),
    Text("execute p (1)", weight=3),
    Text("execute p ('x')"),
    Text("execute q ('by execute')", weight=2),
    Text("deallocate p", weight=2),
    Text("deallocate prepare q"),
    Text("execute s1 (1)"),
    Text("deallocate s1"),
    Text("discard sequences"),
    Text("select nextval('c{0}.s')"),
    Text("begin; select nextval('c{0}.s'); select currval('c{0}.s'); commit"),
)

_GROUPS: Final[Mapping[str, tuple[tuple[Text, ...], float]]] = {
    "reading": (_READING, 5),
    "with parameters": (_WITH_PARAMETERS, 5),
    "writing": (_WRITING, 2),
    "transaction": (_TRANSACTION, 4),
    "broken": (_BROKEN, 1.2),
    "empty": (_EMPTY, 0.4),
    "several": (_SEVERAL, 1),
    "names": (_NAMES, 0.8),
    "settings": (_SETTINGS, 2),
    "pinning": (_PINNING, 4),
}

PROFILES: Final[Mapping[str, tuple[str, ...]]] = {
    # (An EXECUTE of what is a RESET in itself is not known for one.)
    "movable": tuple(name for name in _GROUPS if name not in ("pinning", "names")),
    "protocol": ("reading", "with parameters", "writing", "transaction", "broken", "empty", "several", "names"),
    "pinning": tuple(name for name in _GROUPS if name != "names"),
}

_STATEMENTS = (
    "",
    "",
    "s1",
    "s1",
    "s2",
    "s3",
    'odd "name"',
    "S1",
    "a name that is longer than the sixty-three bytes of an identifier in PostgreSQL",
)
_PORTALS = ("", "", "", "p1", "p2")
# Startup parameters: those of one scenario's clients differ, except where the protocol alone is tried.
PLAIN: Final[tuple[Mapping[str, str], ...]] = tuple({"application_name": "same"} for _ in range(CLIENTS))
DIFFERENT: Final[tuple[Mapping[str, str], ...]] = (
    {"application_name": "zero"},
    {"application_name": "one", "options": "-c work_mem=7MB -c my.own=start", "DateStyle": "SQL"},
    {"application_name": "two", "TimeZone": "Asia/Kolkata", "client_encoding": "LATIN1"},
)  # fmt: skip


@dataclass(slots=True)
class _Belief:
    """What the generator thinks that a client has made; errors make it wrong, which is welcome."""

    statements: dict[str, Text] = field(default_factory=dict)
    portals: list[str] = field(default_factory=lambda: [""])


class Generator:
    """Scenarios from one seed; the same seed, profile and number always give the same scenario."""

    def __init__(self, seed: int, profile: str) -> None:
        self._seed = seed
        self._groups = PROFILES[profile]
        self._early = profile != "pinning"  # notifications and locks make the order between clients visible
        self._random = random.Random()
        self._choices = [self._choices_of(client) for client in range(CLIENTS)]
        self._client = 0
        self._belief = _Belief()

    def scenario(self, number: int, turns: int = TURNS_A_SCENARIO) -> list[Turn]:
        self._random.seed(f"{self._seed}/{number}")
        beliefs = [_Belief() for _ in range(CLIENTS)]
        found = []
        for _ in range(turns):
            self._client = self._random.randrange(CLIENTS)
            self._belief = beliefs[self._client]
            steps = tuple(self._step() for _ in range(self._random.choice((1, 1, 2, 2, 3, 4))))
            found.append(Turn(self._client, steps, early=self._early and self._random.random() < 0.3))
            self._belief.portals = [""]
        return found

    def _choices_of(self, client: int) -> tuple[list[Text], list[float]]:
        """A client's texts, with their weights added up."""
        texts: list[Text] = []
        weights: list[float] = []
        for name in self._groups:
            group, share = _GROUPS[name]
            total = sum(text.weight for text in group)
            texts += (text.for_client(client) for text in group)
            weights += (share * text.weight / total for text in group)
        return texts, list(itertools.accumulate(weights))

    def _text(self) -> Text:
        texts, weights = self._choices[self._client]
        return self._random.choices(texts, cum_weights=weights)[0]

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability

    # -- steps --

    def _step(self) -> Step:
        kind = self._random.choices(
            (
                self._simple,
                self._extended,
                self._pipeline,
                self._mixed,
                self._copy_in,
                self._fastpath,
                self._portal_walk,
                self._block_walk,
            ),
            (3, 5, 3, 1.5, 1, 0.5, 1, 1),
        )[0]
        return tuple(kind())

    def _simple(self) -> Iterator[Request]:
        for _ in range(self._random.choice((1, 1, 1, 2, 3))):
            text = self._text()
            yield query(text.sql)
            if "deallocate all" in text.sql or "discard all" in text.sql:
                self._belief.statements.clear()
            self._belief.statements.pop("", None)

    def _extended(self) -> Iterator[Request]:
        for _ in range(self._random.choice((1, 1, 2, 3, 5))):
            yield from self._piece()
            if self._chance(0.08):
                yield flush()
        yield self._end()

    def _pipeline(self) -> Iterator[Request]:
        for _ in range(self._random.choice((2, 3, 4))):
            for _ in range(self._random.choice((0, 1, 1, 2))):
                yield from self._piece()
            yield sync()

    def _mixed(self) -> Iterator[Request]:
        yield from self._piece()
        if self._chance(0.5):
            yield sync()
        yield query(self._text().sql) if self._chance(0.9) else function_call(177, [b"\0\0\0\4", b"\0\0\0\5"])
        yield from self._piece()
        yield self._end()

    def _end(self) -> Request:
        return self._random.choices((sync, flush), (6, 1))[0]()

    def _piece(self) -> Iterator[Request]:
        """Some messages of the extended protocol that belong together, and some that do not."""
        kind = self._random.choices(
            (self._one_shot, self._make, self._use, self._close, self._stray, self._copy_out), (5, 2, 4, 1, 1, 0.5)
        )[0]
        yield from kind()

    def _one_shot(self) -> Iterator[Request]:
        text = self._text()
        name = self._name_for(text)
        yield self._parse(name, text)
        if self._chance(0.4) and name != _SPEAKER:
            yield describe_statement(name)
        yield from self._run(name, text)

    def _make(self) -> Iterator[Request]:
        text = self._text()
        name = self._name_for(text)
        if self._chance(0.3):
            yield close_statement(name)
        yield self._parse(name, text)
        if self._chance(0.3) and name != _SPEAKER:
            yield describe_statement(name)

    def _use(self) -> Iterator[Request]:
        if self._belief.statements and self._chance(0.9):
            name = self._random.choice(list(self._belief.statements))
        else:
            name = self._random.choice(_STATEMENTS)
        yield from self._run(name, self._belief.statements.get(name, Text("select 1")))

    def _run(self, name: str, text: Text) -> Iterator[Request]:
        portal = self._random.choice(_PORTALS)
        yield self._bind(portal, name, text)
        if self._chance(0.4):
            yield describe_portal(portal)
        limit = self._random.choice((0, 0, 0, 1, 2, 100))
        yield execute(portal, limit)
        if limit and self._chance(0.6):
            if self._chance(0.3):
                yield flush()
            yield execute(portal, self._random.choice((0, 1, 2)))
        self._belief.portals.append(portal)

    def _close(self) -> Iterator[Request]:
        if self._chance(0.6):
            name = self._statement_name()
            yield close_statement(name)
            self._belief.statements.pop(name, None)
        else:
            yield close_portal(self._random.choice(_PORTALS))

    def _stray(self) -> Iterator[Request]:
        """Messages out of place."""
        choice = self._random.randrange(8)
        if choice == 0:
            yield describe_statement(self._random.choice(_STATEMENTS))
        elif choice == 1:
            yield describe_portal(self._random.choice(_PORTALS))
        elif choice == 2:
            # Not the unnamed portal: PostgreSQL 17.10 dies of an Execute of what a Query that failed in a block has left there.
            yield execute(self._random.choice(("p1", "p2")), self._random.choice((0, 1)))
        elif choice == 3:
            yield copy_data("1\tstray\n")
        elif choice == 4:
            yield self._random.choice((copy_done, copy_fail))()
        elif choice == 5:
            yield sync()
        elif choice == 6:
            yield flush()
        else:
            yield close_portal("never")

    def _copy_out(self) -> Iterator[Request]:
        text = Text(f"copy (select * from c{self._client}.t order by id) to stdout")
        yield self._parse("", text)
        yield from self._run("", text)

    def _copy_in(self) -> Iterator[Request]:
        """The data always follows in the same step: what else is sent in copy mode ends a connection in PostgreSQL."""
        target = self._random.choice(
            (f"c{self._client}.t (name)", f"c{self._client}.t", f"c{self._client}.t", "missing")
        )
        sql = f"copy {target} from stdin"
        if self._chance(0.5):
            yield query(self._random.choice((sql, sql, f"select 1; {sql}; select 2", f"begin; {sql}")))
        else:
            yield from self._copy_in_extended(sql)
        good = "copied\n" if "(name)" in target else f"{self._random.randrange(10, 999)}\tcopied\n"
        for _ in range(self._random.choice((0, 1, 2, 4))):
            yield copy_data(
                self._random.choice((good, good, good, "1\ttwice\n", "bad\tline\twith\tmore\n", "unfinished"))
            )
        yield copy_done() if self._chance(0.75) else copy_fail("changed my mind")
        yield sync()

    def _copy_in_extended(self, sql: str) -> Iterator[Request]:
        """Under a name of its own, so that nothing else can start a COPY whose data is not at hand."""
        yield close_statement("copy in")
        yield parse("copy in", sql)
        yield bind("copy portal", "copy in")
        if self._chance(0.3):
            yield describe_portal("copy portal")
        yield execute("copy portal", self._random.choice((0, 0, 1)))
        if self._chance(0.5):
            yield sync()

    def _fastpath(self) -> Iterator[Request]:
        four = b"\0\0\0\4"
        choices: Sequence[Request] = (
            function_call(177, [four, b"\0\0\0\5"]),
            function_call(177, ["4", "5"], binary=False),
            function_call(154, [four, b"\0\0\0\0"]),
            function_call(999999, []),
            function_call(177, [four]),
            function_call(177, ["4", None], binary=False),
        )
        for _ in range(self._random.choice((1, 1, 2))):
            yield self._random.choice(choices)
        if self._chance(0.3):
            yield sync()

    def _portal_walk(self) -> Iterator[Request]:
        """Portals that stay open over several Flushes, inside a transaction."""
        yield query("begin")
        for portal in ("p1", "p2"):
            text = self._random.choice(_READING).for_client(self._client)
            yield self._parse("", text)
            yield self._bind(portal, "", text)
        for _ in range(self._random.choice((2, 3, 5))):
            yield execute(self._random.choice(("p1", "p2")), self._random.choice((1, 2, 3)))
            yield self._random.choice((flush, flush, sync))()
        if self._chance(0.5):
            yield close_portal("p1")
        yield sync()
        if self._chance(0.6):
            yield query(self._random.choice(("commit", "rollback")))

    def _block_walk(self) -> Iterator[Request]:
        """A block that fails somewhere, perhaps is taken back to a savepoint, and ends somehow."""
        yield query("begin")
        yield query("savepoint a")
        for _ in range(self._random.choice((0, 1, 2))):
            yield from self._piece()
        yield sync()
        yield query(self._random.choice(_BROKEN).sql)
        for _ in range(self._random.choice((1, 1, 2))):
            yield from self._piece()
            yield self._random.choice((sync, sync, flush))()
        ending = self._random.choice(("rollback to savepoint a", "rollback to savepoint a", "rollback", "commit", ""))
        if self._chance(0.5):
            yield query(ending)
        else:
            yield parse("", ending)
            yield bind()
            yield execute()
        yield from self._piece()
        yield sync()
        if self._chance(0.5):
            yield query(self._random.choice(("commit", "rollback")))

    # -- messages --

    def _statement_name(self) -> str:
        return self._random.choice(_STATEMENTS)

    def _name_for(self, text: Text) -> str:
        return _SPEAKER if _SPEAKING.match(text.sql) else self._statement_name()

    def _parse(self, name: str, text: Text) -> Request:
        known = name in self._belief.statements
        if not (known and name):
            self._belief.statements[name] = text  # a named one that lives is refused: the old text stays
        types = self._random.choice(((), (), (), (), (23,), (25,), (0, 25)))
        return parse(name, text.sql, types if text.parameters else ())

    def _bind(self, portal: str, name: str, text: Text) -> Request:
        values = list(text.parameters)
        if self._chance(0.06):
            values = list[Parameter](("1", "2", "3"))[: self._random.choice((0, 1, 3))]
        if values and self._chance(0.08):
            values[0] = self._random.choice((None, "abc", "", "99999999999999999999"))
        formats: Sequence[int] = self._random.choice(((), (), (), (0,), (1,), (0, 1)))
        if self._chance(0.04) and values:
            return bind(portal, name, values, parameter_formats=(1,), result_formats=formats)
        return bind(portal, name, values, result_formats=formats)
