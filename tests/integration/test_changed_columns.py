"""A table changes under statements that clients have prepared.

What a client hears is what it would hear from PostgreSQL directly: who has prepared a statement before is refused if its
columns have changed, and who parses the same text afterwards is not; wherever in the pool that happens to be.
"""

import contextlib
import difflib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import pytest

from tests.integration.conftest import StartDoorman
from tests.support.doorman import Doorman, pool, user
from tests.support.postgres import Postgres
from tests.support.wire import (
    Normaliser,
    Request,
    Wire,
    bind,
    close_statement,
    describe_portal,
    describe_statement,
    execute,
    flush,
    parse,
    query,
    sync,
)

# Each takes the table {t} (a int, b text; one row) to another shape, or to the same.
CHANGES: Final = {
    "a column more": "alter table {t} add c int default 3",
    "a column less": "alter table {t} drop b",
    "another type": "alter table {t} alter a type bigint",
    "another name": "alter table {t} rename b to z",
    "made anew": "drop table {t}; create table {t} (a int, b text); insert into {t} values (1, 'new')",
    "gone": "drop table {t}",
    "there and back": "alter table {t} add c int; alter table {t} drop c",
}

QUERIES: Final = {
    "all columns": ("select * from {t} where a = $1", ("1",)),
    "a parameter whose type was found": ("select $1 = a, b from {t}", ("1",)),
    "rows of an update": ("update {t} set b = 'updated' where a = $1 returning a, b", ("1",)),
    "no rows": ("update {t} set b = 'updated' where a = $1", ("1",)),
}


class Party:
    """A client, the one that changes tables, and one that looks; through a pooler or not."""

    def __init__(self, name: str, connect: Callable[[], Wire], owner: Callable[[], Wire]) -> None:
        self.name = name
        self._connect = connect
        self._open = contextlib.ExitStack()
        self.client = self.another()
        self.owner = self._open.enter_context(owner())
        self.normaliser = Normaliser()
        self.heard: list[str] = []
        self.numbers = itertools.count(1000)

    def another(self) -> Wire:
        """One more client."""
        return self._open.enter_context(self._connect())

    def ask(self, wire: Wire, *requests: Request) -> None:
        """What the answer is counts."""
        self.heard += [self.normaliser.line(reply) for reply in wire.ask(*requests)]

    def close(self) -> None:
        self._open.close()


Where = Callable[[Party], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def same(party: Party) -> Iterator[None]:
    """The backend that has the statement."""
    yield


@contextlib.contextmanager
def other(party: Party) -> Iterator[None]:
    """One that lacks it."""
    with contextlib.ExitStack() as stack:
        holder = party.another()
        stack.callback(holder.run, "rollback")
        holder.run("begin")
        holder.value("select 1")
        yield


@contextlib.contextmanager
def evicted(party: Party) -> Iterator[None]:
    """The one that had it, until others came."""
    busy = party.another()
    for number in range(4):
        busy.ask(parse(f"n{number}", f"select {number}"), sync())
        busy.ask(bind("", f"n{number}"), execute(), sync())
    yield


WHERE: Final = {"same backend": same, "other backend": other, "evicted": evicted}


@pytest.fixture(scope="module")
def pooled(start_module_doorman: StartDoorman, postgres: Postgres) -> Doorman:
    """Two backends, three statements on each; `bob` is a pool of its own."""
    return start_module_doorman(
        pools={"app": pool(postgres, user("alice", pool_size=2), user("bob", pool_size=1))},
        general={"worker_threads": 1, "server_prepared_statements_cache_size": 3},
    )


@pytest.fixture
def parties(pooled: Doorman, postgres: Postgres) -> Iterator[Sequence[Party]]:
    """The same people, directly and through the pooler. Tables are changed past the pooler."""

    def direct() -> Wire:
        return postgres.connect("other", "alice")

    def through() -> Wire:
        return pooled.connect("app", "alice")

    found = (
        Party("directly", direct, direct),
        Party("through the pooler", through, lambda: postgres.connect("app", "alice")),
    )
    yield found
    for party in found:
        party.close()


def judge(parties: Sequence[Party], play: Callable[[Party], None]) -> None:
    """Both are to hear the same. Raises AssertionError, with both answers."""
    for party in parties:
        play(party)
    direct, through = (party.heard for party in parties)
    if through != direct:
        pytest.fail(
            "\n".join(difflib.unified_diff(direct, through, "directly", "through the pooler", n=12)), pytrace=False
        )


def used(name: str, values: Sequence[str]) -> tuple[Request, ...]:
    return bind("", name, values), describe_portal(), execute(), sync()


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("change", CHANGES)
def test_prepared_before(parties: Sequence[Party], change: str, where: str) -> None:
    """Named and unnamed; bound, described; in a block and outside; in a pipeline."""

    def play(party: Party) -> None:
        for sql, values in (QUERIES["all columns"], QUERIES["rows of an update"], QUERIES["no rows"]):
            for block in (False, True):
                for name in ("s", ""):
                    _play_one(party, sql, values, change, where, name, block)

    judge(parties, play)


def _play_one(party: Party, sql: str, values: Sequence[str], change: str, where: str, name: str, block: bool) -> None:
    table = f"t{next(party.numbers)}"
    owner, client = party.owner, party.client
    owner.run(
        f"drop table if exists {table}; create table {table} (a int, b text); insert into {table} values (1, 'old')"
    )
    party.heard.append(f"-- {sql}, {change}, {where}, {name or 'unnamed'}, {'in a block' if block else 'outside'}")
    if name:
        party.ask(client, parse(name, sql.format(t=table)), sync())
        party.ask(client, *used(name, values))
    else:
        party.ask(client, parse(name, sql.format(t=table)), describe_statement(name), sync())
    for statement in CHANGES[change].format(t=table).split("; "):
        owner.run(statement)
    with WHERE[where](party):
        if block:
            # (A Query would drop the unnamed statement.)
            party.ask(client, parse("begin", "begin"), bind("", "begin"), execute(), close_statement("begin"), sync())
            party.ask(client, *used(name, values))
            party.ask(client, *used(name, values))
            party.ask(client, query("rollback"))
        else:
            party.ask(client, *used(name, values))
            party.ask(client, describe_statement(name), sync())
            party.ask(client, *used(name, values)[:-1], flush(), *used(name, values))
    party.ask(client, close_statement(name), sync())
    if (
        sql != QUERIES["no rows"][0]
    ):  # it was not refused, and so nobody has noticed yet that a parameter has another type
        party.ask(client, parse(name, sql.format(t=table)), describe_statement(name), *used(name, values))
        party.ask(client, close_statement(name), sync())
    owner.run(f"drop table if exists {table}")


# Who parses it afterwards.

FRESH: Final[dict[str, Callable[[str, Sequence[str]], tuple[tuple[Request, ...], ...]]]] = {
    "unnamed, at once": lambda sql, values: ((parse("", sql), *used("", values)),),
    "unnamed, at once, as some drivers do": lambda sql, values: (
        (parse("", sql), bind("", "", values), execute(), sync()),
        (parse("", sql), bind("", "", values), execute(), sync()),
    ),
    "unnamed, described first": lambda sql, values: (
        (parse("", sql), describe_statement(""), sync()),
        used("", values),
    ),
    "named, described first": lambda sql, values: (
        (parse("f", sql), describe_statement("f"), sync()),
        used("f", values),
        used("f", values),
    ),
    "named, parsed first": lambda sql, values: ((parse("f", sql), sync()), used("f", values), used("f", values)),
    "named, at once": lambda sql, values: ((parse("f", sql), *used("f", values)), used("f", values)),
}


@pytest.mark.parametrize("route", ["past the pooler", "through it"])
@pytest.mark.parametrize(
    "change", ["a column more", "a column less", "another type", "another name", "made anew", "gone"]
)
def test_parsed_after(parties: Sequence[Party], change: str, route: str) -> None:
    """A client that has nothing to do with what others had prepared, on the backend where they had."""

    def play(party: Party) -> None:
        owner = party.another() if route == "through it" else party.owner
        for sql, values in (QUERIES["all columns"], QUERIES["no rows"], QUERIES["a parameter whose type was found"]):
            for how, fresh in FRESH.items():
                if route == "past the pooler" and sql == QUERIES["no rows"][0] and not how.endswith("at once"):
                    continue  # the Describe of such a statement is answered without looking at the table
                for block in (False, True) if route == "through it" else (False,):
                    party.heard.append(f"-- {sql}, {change}, {how}, {'in a block' if block else 'outside'}")
                    _play_fresh(party, owner, sql, values, change, fresh, block)

    if route == "past the pooler":
        # Nothing was refused where only a parameter would be of another type now: nobody has noticed that yet.
        for party in parties:
            play(party)
            party.heard = [line for line in party.heard if not line.startswith("ParameterDescription")]
        judge(parties, lambda party: None)
    else:
        judge(parties, play)


def _play_fresh(
    party: Party,
    owner: Wire,
    sql: str,
    values: Sequence[str],
    change: str,
    fresh: Callable[[str, Sequence[str]], tuple[tuple[Request, ...], ...]],
    block: bool,
) -> None:
    table = f"t{next(party.numbers)}"
    sql = sql.format(t=table)
    owner.run(
        f"drop table if exists {table}; create table {table} (a int, b text); insert into {table} values (1, 'old')"
    )
    for _ in range(3):
        party.client.ask(parse("", sql), *used("", values))
    party.client.ask(parse("s", sql), *used("s", values))
    with party.another() as new:
        for _ in range(2):
            new.ask(parse("", sql), *used("", values))  # it is familiar with the text
        for statement in CHANGES[change].format(t=table).split("; "):
            owner.run(statement)
        if block:
            party.ask(new, query("begin"))
        for step in fresh(sql, values):
            party.ask(new, *step)
        if block:
            party.ask(new, query("rollback"))
    party.client.ask(close_statement("s"), sync())
    owner.run(f"drop table if exists {table}")
