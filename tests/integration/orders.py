"""Fixed message orders: each rule of the exchange, and each order that has broken a pooler before.

A case is a scenario (see tests.support.scenario) played with PostgreSQL directly and through the pooler. Schemas c0,
c1, c2 belong to clients 0, 1, 2; `numbers` holds 1 to 20 (tests.support.oracle has the tables).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tests.support.scenario import Step, Turn
from tests.support.wire import (
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
    frame,
    function_call,
    parse,
    query,
    raw,
    sync,
    terminate,
)

P, B, E, S, H, Q = parse, bind, execute, sync, flush, query
ADD = "select $1::int + $2::int"
ROWS = "select n from numbers order by n"
FEW = "select n from numbers where n < 4 order by n"


@dataclass(frozen=True, slots=True)
class Order:
    """One case. `pins` says that it holds state that cannot move, so that every client needs a backend of its own;
    `logins` are the clients' startup parameters, where they matter."""

    name: str
    turns: tuple[Turn, ...]
    clients: int = 1
    pins: bool = False
    logins: tuple[Mapping[str, str], ...] = ()

    def __str__(self) -> str:
        return self.name

    @property
    def startups(self) -> list[Mapping[str, str]]:
        same = {"application_name": "same"}
        return [{**same, **login} for login in self.logins] or [same] * self.clients


def one(name: str, *steps: Step) -> Order:
    """One client, one turn."""
    return Order(name, (Turn(0, steps),))


def several(name: str, *turns: Turn, pins: bool = False) -> Order:
    return Order(name, turns, max(turn.client for turn in turns) + 1, pins)


def t(client: int, *steps: Step, early: bool = False) -> Turn:
    return Turn(client, steps, early)


def run(name: str, *values: str, portal: str = "") -> Step:
    """Bind, Describe, Execute of a statement."""
    return (B(portal, name, values), describe_portal(portal), E(portal))


def shot(name: str, sql: str, *values: str) -> Step:
    """Parse, Describe, Bind, Execute."""
    return (P(name, sql), describe_statement(name), *run(name, *values))


WARM = (*shot("warm", ADD, "1", "2"), *shot("few", FEW), S())

PREPARED = (
    one(
        "a named statement over several syncs",
        (*shot("a", ADD, "1", "2"), S()),
        (*run("a", "3", "4"), S()),
        (*run("a", "5", "6"), S()),
    ),
    several(
        "one text under two clients' names",
        t(0, (*shot("a", ADD, "1", "2"), S())),
        t(1, (*shot("b", ADD, "3", "4"), S())),
        t(0, (*run("a", "5", "6"), S())),
    ),
    several(
        "one name for two clients' texts",
        t(0, (P("a", ADD), S())),
        t(1, (P("a", FEW), S())),
        t(0, (*run("a", "5", "6"), S())),
        t(1, (*run("a"), S())),
    ),
    one(
        "ParseComplete of a known text stands behind earlier rows",
        WARM,
        (*run("few"), P("x", FEW), *run("x"), P("y", ADD), *run("y", "1", "1"), S()),
    ),
    one(
        "several known texts parsed in one batch",
        WARM,
        (P("x", FEW), P("y", ADD), P("z", FEW), describe_statement("y"), S()),
    ),
    one("a known text parsed behind a Flush", WARM, (*run("few"), H()), (P("x", FEW), H()), (*run("x"), H()), (S(),)),
    one(
        "a known text parsed in a batch that failed before",
        WARM,
        (P("bad", "selec"), P("x", FEW), *run("x"), S()),
        (*run("x"), S()),
    ),
    one(
        "a known text whose batch fails behind it",
        WARM,
        (P("x", FEW), B("", "missing"), *run("x"), S()),
        (*run("x"), S()),
    ),
    one(
        "a known text parsed in a failed transaction",
        WARM,
        (Q("begin"), Q("select 1/0")),
        (P("x", FEW), S()),
        (P("", FEW), S()),
        (Q("rollback"), *run("x"), S()),
    ),
    one(
        "a known text parsed where a pipelined block may have failed",
        WARM,
        (Q("begin"),),
        (*shot("", "select 1/0"), S(), P("x", FEW), S(), Q("rollback")),
    ),
    one("a live name parsed again", (P("a", ADD), S()), (P("a", FEW), S()), (*run("a", "1", "2"), S())),
    one(
        "a live name parsed again with the same text",
        (P("a", ADD), S()),
        (P("a", ADD), *run("a", "1", "2"), S()),
        (*run("a", "1", "2"), S()),
    ),
    one(
        "a live name parsed again with a bad text",
        (P("a", ADD), S()),
        (P("a", "selec"), S()),
        (*run("a", "1", "2"), S()),
    ),
    one(
        "a live name parsed again in a failed transaction",
        (P("a", ADD), S()),
        (Q("begin"), Q("select 1/0"), P("a", ADD), S()),
        (Q("rollback"), *run("a", "1", "2"), S()),
    ),
    one("a live name parsed twice in one batch", (P("a", ADD), P("a", ADD), S()), (*run("a", "1", "2"), S())),
    one(
        "close, then parse the same name",
        (P("a", ADD), S()),
        (close_statement("a"), P("a", FEW), *run("a"), S()),
        (*run("a"), S()),
    ),
    one(
        "parse, close, parse, run in one batch",
        (P("a", ADD), close_statement("a"), P("a", FEW), *run("a"), close_statement("a"), P("a", ADD), S()),
        (*run("a", "1", "1"), S()),
    ),
    one(
        "parse and close mixed over known texts",
        WARM,
        (
            P("x", FEW),
            close_statement("x"),
            P("x", ADD),
            close_statement("warm"),
            P("warm", FEW),
            *run("warm"),
            *run("x", "2", "2"),
            S(),
        ),
    ),
    one(
        "close of unknown names",
        (close_statement("none"), close_portal("none"), close_statement(""), close_portal(""), S()),
    ),
    one(
        "a closed name is gone",
        (P("a", ADD), S()),
        (close_statement("a"), S()),
        (*run("a", "1", "2"), S()),
        (describe_statement("a"), S()),
    ),
    one(
        "a close that an error skipped has closed nothing",
        (P("a", ADD), S()),
        (P("", "selec"), close_statement("a"), S()),
        (*run("a", "1", "2"), S()),
    ),
    one(
        "a parse that an error skipped has made nothing",
        (B("", "none"), P("a", ADD), S()),
        (*run("a", "1", "2"), S()),
        (P("a", FEW), *run("a"), S()),
    ),
    one(
        "a skipped parse leaves the old text",
        (P("a", ADD), S()),
        (B("", "none"), close_statement("a"), P("a", FEW), S()),
        (*run("a", "1", "2"), S()),
    ),
    one("a failed parse leaves no name", (P("a", "selec"), S()), (*run("a"), S()), (P("a", FEW), *run("a"), S())),
    one(
        "a failed parse after a close leaves no name",
        (P("a", ADD), S()),
        (close_statement("a"), P("a", "selec"), S()),
        (*run("a"), S()),
    ),
    one(
        "the same failing text twice",
        (P("a", "select * from missing"), S()),
        (P("a", "select * from missing"), S()),
        (P("b", "select * from missing"), S()),
    ),
    one(
        "a text that begins to work",
        (P("a", "select * from c0.x"), S()),
        (Q("create table c0.x (i int)"),),
        (*shot("a", "select * from c0.x"), S()),
    ),
    one("bind of an unknown name", (B("", "none"), describe_portal(), E(), S()), (Q("select 1"),)),
    one(
        "bind of an unknown name inside a transaction", (Q("begin"), B("", "none"), S()), (Q("select 1"), Q("rollback"))
    ),
    one(
        "describe of unknown names",
        (describe_statement("none"), S()),
        (describe_portal("none"), S()),
        (describe_statement(""), S()),
        (E("none"), S()),
    ),
    one(
        "an unnamed statement that does not exist",
        (B(), S()),
        (describe_statement(), S()),
        (Q("begin"), B(), S(), Q("rollback")),
    ),
    one(
        "an unnamed statement over several syncs",
        (P("", ADD), S()),
        (*run("", "1", "2"), S()),
        (*run("", "3", "4"), S()),
        (describe_statement(), S()),
    ),
    several(
        "an unnamed statement with others in between",
        t(0, (P("", ADD), S())),
        t(1, (P("", FEW), S())),
        t(0, (*run("", "1", "2"), S())),
        t(1, (*run(""), S())),
        t(2, (*run(""), S())),
    ),
    one("a simple query drops the unnamed statement", (P("", ADD), S()), (Q("select 1"),), (*run("", "1", "2"), S())),
    one("a failing simple query drops it too", (P("", ADD), S()), (Q("selec"),), (*run("", "1", "2"), S())),
    one("an empty simple query drops it too", (P("", ADD), S()), (Q(""),), (*run("", "1", "2"), S())),
    one(
        "a skipped simple query does not drop it",
        (P("", ADD), S()),
        (B("", "none"), Q("select 1"), S()),
        (*run("", "1", "2"), S()),
    ),
    one(
        "a failing parse drops the unnamed statement",
        (P("", ADD), S()),
        (P("", "selec"), S()),
        (*run("", "1", "2"), S()),
    ),
    one("close of the unnamed statement", (P("", ADD), close_statement(), S()), (*run("", "1", "2"), S())),
    one(
        "function call leaves the unnamed statement",
        (P("", ADD), S()),
        (function_call(177, ["1", "2"], binary=False),),
        (*run("", "1", "2"), S()),
    ),
    one(
        "a name with one Sync outstanding",
        (P("", "selec"), P("a", ADD), S(), *run("a", "1", "2"), S()),
        (*run("a", "1", "2"), S()),
    ),
    one(
        "a name with one Sync outstanding that holds",
        (P("a", ADD), S(), *run("a", "1", "2"), S(), *run("a", "3", "4"), S()),
    ),
    one(
        "an old name, parsed anew behind an error, pipelined",
        (P("a", ADD), S()),
        (P("", "selec"), close_statement("a"), P("a", FEW), S(), *run("a", "1", "2"), S()),
    ),
    one(
        "an old name closed and made anew, pipelined",
        (P("a", ADD), S()),
        (close_statement("a"), S(), P("a", FEW), S(), *run("a"), S(), close_statement("a"), S(), *run("a"), S()),
    ),
    one(
        "more statements than any cache holds",
        *((P(f"s{i}", f"select {i} + $1::int"), *run(f"s{i}", "1"), S()) for i in range(6)),
        *((*run(f"s{i}", "2"), S()) for i in range(6)),
    ),
    one(
        "more statements than any cache holds, in one batch",
        (*tuple(r for i in range(8) for r in (P(f"s{i}", f"select {i} + $1::int"), *run(f"s{i}", "1"))), S()),
        (*tuple(r for i in range(8) for r in run(f"s{i}", "2")), S()),
    ),
    one(
        "the same with Flush",
        *((P(f"s{i}", f"select {i} + $1::int"), *run(f"s{i}", "1"), H()) for i in range(5)),
        (S(),),
        *((*run(f"s{i}", "2"), H()) for i in range(5)),
    ),
    one(
        "an open portal outlives its statement's eviction",
        (Q("begin"), P("s", ROWS), B("p", "s"), E("p", 2), H()),
        (*shot("a", "select 1"), *shot("b", "select 2"), *shot("c", "select 3"), H()),
        (E("p", 2), H()),
        (*run("s", portal="q"), E("p"), S()),
        (Q("commit"),),
    ),
    one(
        "a cursor outlives closing its statement",
        (Q("begin"), P("s", ROWS), B("p", "s"), close_statement("s"), E("p", 3), S()),
        (E("p", 3), S(), Q("commit")),
    ),
    one("many unnamed texts", *((*shot("", f"select {i}"), S()) for i in range(6)), (*run(""), S())),
    one(
        "two texts with the same hash elsewhere",
        (*shot("a", "SELECT 1 /* force_close_72_1104700233803323 */"), S()),
        (*shot("b", "SELECT 1 /* force_close_246_1106019706635764 */"), S()),
        (*run("a"), *run("b"), S()),
    ),
    one(
        "one text with different parameter types",
        (P("a", "select $1", [23]), describe_statement("a"), S()),
        (P("b", "select $1", [25]), describe_statement("b"), S()),
        (P("c", "select $1"), describe_statement("c"), S()),
        (*run("a", "1"), *run("b", "1"), *run("c", "1"), S()),
    ),
    several(
        "one text, two search paths",
        t(0, (Q("set search_path = c0"), *shot("a", "select * from t order by id"), S())),
        t(
            1,
            (
                Q("set search_path = c1"),
                Q("insert into t (name) values ('mine')"),
                *shot("a", "select * from t order by id"),
                S(),
            ),
        ),
        t(0, (*run("a"), S())),
        t(1, (*run("a"), S())),
    ),
    one(
        "wrong numbers and kinds of parameters",
        (P("a", ADD), S()),
        (B("", "a", ["1"]), S()),
        (B("", "a", ["1", "2", "3"]), S()),
        (B("", "a", ["x", "2"]), S()),
        (B("", "a", ["1", "2"], parameter_formats=[1]), S()),
        (*run("a", "1", "2"), S()),
    ),
    one(
        "binary parameters and results",
        (
            P("", ADD),
            B("", "", [b"\0\0\0\1", b"\0\0\0\2"], parameter_formats=[1], result_formats=[1]),
            describe_portal(),
            E(),
            S(),
        ),
    ),
    one("several statements in one Parse", (P("", "select 1; select 2"), S()), (P("a", "select 1; select 2"), S())),
    one(
        "empty texts in Parse",
        (*shot("", ""), S()),
        (*shot("e", "-- nothing"), S()),
        (*shot("f", ";"), S()),
        (*run("e"), S()),
    ),
    one(
        "a long name and a long text",
        (P("n" * 5000, "select 1 /*" + "x" * 100_000 + "*/"), S()),
        (*run("n" * 5000), S()),
        (close_statement("n" * 5000), S()),
    ),
    one(
        "names with odd characters",
        *(
            (*shot(name, FEW), *run(name), close_statement(name), S())
            for name in ('a"b', "A B", "ä€", "a'b", "%s", "$1")
        ),
    ),
    one(
        "deallocate all forgets names",
        (P("a", ADD), P("b", FEW), S()),
        (Q("deallocate all"),),
        (*run("a", "1", "2"), S()),
        (P("a", FEW), *run("a"), S()),
    ),
    one(
        "deallocate all in a batch", (P("a", ADD), S()), (*shot("", "deallocate all"), S()), (*run("a", "1", "2"), S())
    ),
    one(
        "discard all forgets names",
        (P("a", ADD), S()),
        (Q("discard all"),),
        (*run("a", "1", "2"), S()),
        (P("a", FEW), *run("a"), S()),
    ),
    several(
        "discard all of one client leaves another's names",
        t(0, (P("a", ADD), S())),
        t(1, (P("a", FEW), S()), (Q("discard all"),), (*run("a"), S())),
        t(0, (*run("a", "1", "2"), S())),
    ),
    several(
        "deallocate all of one client leaves another's names",
        t(0, (P("a", ADD), S())),
        t(1, (P("b", ADD), S()), (Q("deallocate all"),)),
        t(0, (*run("a", "1", "2"), S())),
        t(1, (*run("b", "1", "2"), S())),
    ),
    one(
        "deallocate of a protocol-level name",
        (P("a", ADD), S()),
        (Q("deallocate a"),),
        (*run("a", "1", "2"), S()),
        (Q("deallocate a"),),
    ),
    one(
        "execute of a protocol-level name",
        (P("a", ADD), S()),
        (Q("execute a (1, 2)"),),
        (Q("execute a (1)"),),
        (Q("execute none"),),
        (Q("explain (costs off) execute a (1, 2)"), Q("EXPLAIN EXECUTE none"), Q("explain execute")),
        (*shot("e", "explain (analyze, costs off, timing off, summary off) execute a(1, 2)"), S()),
    ),
)

PIPELINES = (
    several(
        "batches that end with Flush, others waiting",
        t(0, (P("", "select 'zero', $1::int"), describe_statement(), H()), (*run("", "1"), H()), (S(),)),
        t(1, (P("", "select 'one', $1::int"), describe_statement(), H()), (*run("", "2"), H()), (S(),), early=True),
        t(0, (P("", "select 'zero again'"), describe_statement(), H()), (*run(""), H()), (S(),), early=True),
    ),
    one("several Syncs", (S(), S(), S())),
    one("several Flushes", (H(), H(), *shot("", ADD, "1", "2"), H(), H(), S(), H()), (H(), S())),
    one("a Sync after every message", (P("a", FEW), S(), B("p", "a"), S(), E("p"), S(), close_portal("p"), S())),
    one(
        "a Sync after every message in a transaction",
        (Q("begin"), P("a", FEW), S(), B("p", "a"), S(), E("p", 2), S(), E("p"), S(), Q("commit")),
    ),
    one("a batch without its Sync, then a simple query", (*shot("", ADD, "1", "2"), Q("select 3")), (S(),)),
    one(
        "a failed batch without its Sync, then simple queries",
        (P("", "selec"), Q("select 1"), Q("select 2"), S(), Q("select 3")),
    ),
    one(
        "five batches pipelined, the third fails",
        tuple(r for i in range(5) for r in (*shot("", f"select 6 / {2 - i}"), S())),
    ),
    one(
        "an error in each place of a batch",
        *(
            (*before, *shot("", "select 1/0"), *after, S())
            for before, after in (
                ((), run("", "1")),
                (shot("", ADD, "1", "2"), ()),
                (shot("", FEW), shot("", ADD, "1", "2")),
            )
        ),
    ),
    one(
        "rows before the error",
        (*shot("", "select 1 / (n - 4) from numbers order by n"), *shot("", FEW), S()),
        (Q("select 1 / (n - 4) from numbers order by n"),),
    ),
    one(
        "an error rolls an implicit transaction back up to its Sync",
        (*shot("", "insert into c0.t (name) values ('gone')"), *shot("", "select 1/0"), S()),
        (*shot("", "insert into c0.t (name) values ('kept')"), S(), *shot("", "select 1/0"), S()),
        (Q("select name from c0.t order by id"),),
    ),
    one(
        "an error at Sync",
        (*shot("", "insert into c0.u values (1)"), S()),
        (*shot("", "insert into c0.u values (1)"), S(), *shot("", FEW), S()),
    ),
    one(
        "an error at commit",
        (Q("begin"), Q("insert into c0.u values (1)"), Q("commit")),
        (Q("begin"), Q("insert into c0.u values (2)")),
        (*shot("", "commit"), S()),
        (Q("select 1"),),
    ),
    one(
        "row limits over Flush",
        (Q("begin"), P("", ROWS), B("p"), E("p", 3), H()),
        (E("p", 4), H()),
        (E("p", 1), E("p", 2), H()),
        (E("p"), E("p"), S()),
        (Q("commit"),),
    ),
    one(
        "row limits over Sync inside a transaction",
        (Q("begin"), P("s", ROWS), B("p", "s"), E("p", 3), S()),
        (E("p", 4), S()),
        (E("p"), S(), E("p"), S()),
        (Q("commit"),),
    ),
    one(
        "a portal ends with its transaction",
        (P("s", ROWS), B("p", "s"), E("p", 3), S()),
        (E("p", 3), S()),
        (describe_portal("p"), S()),
    ),
    one(
        "a portal made twice",
        (Q("begin"), P("s", FEW), B("p", "s"), B("p", "s"), S()),
        (Q("rollback"), B("", "s"), B("", "s"), E(), S()),
    ),
    one(
        "two portals in turns",
        (Q("begin"), P("s", ROWS), B("p", "s"), B("q", "s"), E("p", 2), E("q", 3), E("p", 2), H()),
        (close_portal("p"), E("q", 1), E("p", 1), S()),
        (Q("rollback"),),
    ),
    one("a row limit that is exactly met", (P("", FEW), B("p"), E("p", 3), E("p", 3), S())),
    one("execute twice", (P("", "insert into c0.t (name) values ('x') returning id"), B(), E(), E(), S())),
    one(
        "row limit on a writing statement",
        (
            P("", "insert into c0.t (name) select 'x' from numbers returning id"),
            B("p"),
            E("p", 2),
            E("p", 2),
            E("p"),
            S(),
        ),
    ),
    one(
        "describe before, after and without execute",
        (P("", FEW), describe_statement(), B(), describe_portal(), E(), describe_portal(), S()),
        (P("", "insert into c0.t (name) values ('x')"), describe_statement(), B(), describe_portal(), S()),
    ),
    one(
        "three hundred pieces in one batch",
        (*tuple(r for i in range(300) for r in (P("", ADD), B("", "", [str(i), "1"]), E())), S()),
    ),
    one(
        "three hundred batches pipelined",
        (P("s", ADD), *(r for i in range(300) for r in (B("", "s", [str(i), "1"]), E(), S()))),
    ),
    one("simple queries pipelined", tuple(Q(f"select {i}; select {i} / {i - 3}") for i in range(6))),
    one(
        "simple and extended in turns",
        tuple(r for i in range(4) for r in (Q(f"select {i}"), *shot("", ADD, str(i), "1"), S())),
    ),
    one("empty queries", (Q(""), Q(";"), Q(";;"), Q(" "), Q("--"), Q("; select 1 ;;")), (*shot("", ""), S())),
    one(
        "several statements, one fails",
        (Q("insert into c0.t (name) values ('a'); select 1/0; select 2"),),
        (Q("begin; insert into c0.t (name) values ('b'); commit; select 1/0"),),
        (Q("select name from c0.t order by id"),),
    ),
    one(
        "function calls",
        (function_call(177, [b"\0\0\0\4", b"\0\0\0\5"]), function_call(177, ["4", "5"], binary=False)),
        (function_call(154, [b"\0\0\0\4", b"\0\0\0\0"]),),
        (function_call(4_000_000, []), function_call(177, ["4"], binary=False)),
        (
            Q("begin"),
            function_call(154, ["1", "0"], binary=False),
            function_call(177, ["1", "0"], binary=False),
            Q("rollback"),
        ),
    ),
    one(
        "function calls among extended messages",
        (*shot("", ADD, "1", "2"), function_call(177, ["4", "5"], binary=False), *run("", "3", "4"), S()),
        (B("", "none"), function_call(177, ["4", "5"], binary=False), S()),
    ),
    one(
        "a large object by fastpath",
        (
            Q("begin"),
            function_call(764, ["12345678"], binary=False),
            function_call(952, ["12345678", "393216"], binary=False),
            function_call(955, ["0", b"some bytes"], binary=False),
            function_call(956, ["0", "0", "0"], binary=False),
            function_call(954, ["0", "100"], binary=False),
            function_call(953, ["0"], binary=False),
            Q("rollback"),
        ),
    ),
    one(
        "large values both ways",
        (P("", "select $1::text, length($1)"), *run("", "v" * 2_000_000), S()),
        (Q("select repeat('w', 3000000)"),),
        (Q("select '" + "z" * 1_500_000 + "'"),),
    ),
    one(
        "values around buffer sizes",
        tuple(
            r
            for size in (4080, 8180, 8192, 16370, 16384, 32760, 65500, 65536, 131072)
            for delta in (-1, 0, 1)
            for r in (P("", "select $1::text"), *run("", "x" * (size + delta)), S())
        ),
    ),
    one(
        "rows around buffer sizes",
        tuple(
            Q(f"select repeat('y', {size + delta}), 'end'")
            for size in (8150, 8192, 65490, 65536, 262144)
            for delta in (-2, -1, 0, 1, 2)
        ),
    ),
    one(
        "many notices",
        (Q("do $$ begin for i in 1..500 loop raise notice 'notice %', i; end loop; end $$"),),
        (*shot("", "do $$ begin raise warning 'one'; end $$"), S()),
    ),
    one("many rows, then an error", (Q("select 1 / (30000 - n) from generate_series(1, 30001) n"),), (Q("select 1"),)),
)

DATA = tuple(copy_data(f"{i}\tcopied {i}\n") for i in range(10, 60))
TWICE = (copy_data("1\ttwice\n"), *DATA)


def copy_in(*behind: Request, sql: str = "copy c0.t from stdin") -> Step:
    """COPY FROM in the extended protocol, with what follows its Execute."""
    return (P("", sql), B(), E(), *behind)


COPY = (
    one("copy in", (Q("copy c0.t from stdin"),), (*DATA, copy_done()), (Q("select count(*), max(name) from c0.t"),)),
    one("copy in, all sent at once", (Q("copy c0.t from stdin"), *DATA, copy_done(), Q("select count(*) from c0.t"))),
    one("copy in, given up", (Q("copy c0.t from stdin"), *DATA, copy_fail("no more"), Q("select count(*) from c0.t"))),
    one(
        "copy in fails at the first row while data still comes",
        (Q("copy c0.t from stdin"), *TWICE, copy_done(), Q("select count(*) from c0.t")),
    ),
    one(
        "copy in fails, the rest comes later",
        (Q("copy c0.t from stdin"),),
        (*TWICE, copy_done()),
        (*DATA, copy_done()),
        (copy_fail(), Q("select count(*) from c0.t")),
    ),
    several(
        "copy in fails, the rest comes when another has the backend",
        t(0, (Q("copy c0.t from stdin"),), (*TWICE, copy_done())),
        t(1, (Q("begin"), Q("select 1"), Q("commit")), early=True),
        t(0, (*DATA, copy_done(), Q("select 2"))),
    ),
    one("copy in fails, CopyFail follows", (Q("copy c0.t from stdin"), *TWICE, copy_fail(), Q("select 1"))),
    one(
        "copy in of bad lines",
        (Q("copy c0.t from stdin"), copy_data("not a number\tx\n"), copy_done()),
        (Q("copy c0.t from stdin"), copy_data("77\n"), copy_done()),
        (Q("copy c0.t from stdin"), copy_data("unfinished"), copy_done()),
    ),
    one("copy in refused", (Q("copy missing from stdin"), *DATA, copy_done(), Q("select 1"))),
    one(
        "copy in inside a transaction",
        (
            Q("begin"),
            Q("copy c0.t from stdin"),
            *DATA,
            copy_done(),
            Q("select count(*) from c0.t"),
            Q("rollback"),
            Q("select count(*) from c0.t"),
        ),
    ),
    one(
        "copy in fails inside a transaction",
        (Q("begin"), Q("copy c0.t from stdin"), *TWICE, copy_done(), Q("select 1"), Q("rollback")),
    ),
    one(
        "copy in among several statements",
        (
            Q("select 1; copy c0.t from stdin; select 2; copy c0.u from stdin; select 3"),
            *DATA,
            copy_done(),
            copy_data("90\n"),
            copy_done(),
            Q("select count(*) from c0.u"),
        ),
    ),
    one(
        "copy in of nothing",
        (Q("copy c0.t from stdin"), copy_done(), Q("copy c0.t from stdin"), copy_data(""), copy_data(""), copy_done()),
    ),
    one(
        "copy in cut anywhere",
        (
            Q("copy c0.t from stdin"),
            *(copy_data(piece) for piece in ("10", "\tte", "n\n1", "1\televen", "\n")),
            copy_done(),
            Q("select name from c0.t order by id"),
        ),
    ),
    one("extended copy in", (*copy_in(H()),), (*DATA, copy_done(), S()), (Q("select count(*) from c0.t"),)),
    one(
        "extended copy in, Sync before the data",
        (*copy_in(S()),),
        (*DATA, copy_done(), S()),
        (Q("select count(*) from c0.t"),),
    ),
    one(
        "extended copy in, several Syncs before the data",
        (*copy_in(S(), S(), H(), S()),),
        (*DATA, copy_done(), S()),
        (Q("select count(*) from c0.t"),),
    ),
    one("extended copy in, all sent at once", (*copy_in(*DATA, copy_done(), S()), Q("select count(*) from c0.t"))),
    one(
        "extended copy in, all at once with a Sync before the data",
        (*copy_in(S(), *DATA, copy_done(), S()), Q("select count(*) from c0.t")),
    ),
    one(
        "extended copy in, Sync and Flush among the data",
        (*copy_in(H()),),
        (*DATA[:5], S()),
        (*DATA[5:9], H()),
        (copy_done(), S()),
        (Q("select count(*) from c0.t"),),
    ),
    one(
        "extended copy in, given up",
        (*copy_in(S()),),
        (*DATA, copy_fail("no more"), S()),
        (Q("select count(*) from c0.t"),),
    ),
    one(
        "extended copy in, given up, more messages behind",
        (*copy_in(H()),),
        (copy_fail("no more"), *shot("", FEW), S()),
        (Q("select 1"),),
    ),
    one(
        "extended copy in fails at the first row",
        (*copy_in(S()),),
        (*TWICE, copy_done(), S()),
        (Q("select count(*) from c0.t"),),
    ),
    one(
        "extended copy in refused, data ignored",
        (*copy_in(S(), *DATA, copy_done(), S(), sql="copy missing from stdin"), Q("select 1")),
    ),
    one(
        "extended copy in behind an error is skipped",
        (P("", "selec"), *copy_in(*DATA, copy_done(), S()), Q("select count(*) from c0.t")),
    ),
    one("extended copy in with more behind", (*copy_in(*DATA, copy_done()), *shot("", FEW), S())),
    one(
        "extended copy in inside a transaction",
        (Q("begin"), *copy_in(*DATA, copy_done(), S()), Q("select count(*) from c0.t"), Q("rollback")),
    ),
    one(
        "extended copy in from a named statement, twice",
        (
            P("c", "copy c0.u from stdin"),
            B("", "c"),
            E(),
            copy_data("91\n"),
            copy_done(),
            S(),
            B("", "c"),
            E(),
            copy_data("92\n"),
            copy_done(),
            S(),
            Q("select count(*) from c0.u"),
        ),
    ),
    one(
        "stray copy messages",
        (copy_data("x"), copy_done(), copy_fail(), Q("select 1"), copy_data("x"), Q("select 2")),
        (*shot("", FEW), copy_data("x"), copy_done(), S()),
    ),
    one(
        "copy out",
        (Q("copy (select n, n * 2 from numbers order by n) to stdout"),),
        (Q("select 1; copy c0.t to stdout; select 2"),),
    ),
    one("copy out of much", (Q("copy (select n, repeat('r', 500) from generate_series(1, 4000) n) to stdout"),)),
    one(
        "copy out fails half-way",
        (Q("copy (select 1 / (n - 900) from generate_series(1, 1000) n) to stdout"), Q("select 1")),
    ),
    one(
        "extended copy out",
        (*shot("", "copy c0.t to stdout"), S()),
        (P("", "copy c0.t to stdout"), B(), E("", 1), E(), S()),
        (*shot("", "copy c0.t to stdout"), *shot("", FEW), S()),
    ),
    one(
        "binary copy out and in",
        (
            Q("copy c0.t to stdout with (format binary)"),
            Q("copy c0.t from stdin with (format binary)"),
            copy_data(b"PGCOPY\n\xff\r\n\0" + bytes(8) + b"\xff\xff"),
            copy_done(),
        ),
    ),
    several(
        "terminate behind a copy that failed",
        t(0, (Q("copy c0.t from stdin"),), (*TWICE, copy_done()), (terminate(),)),
        t(1, (Q("select 1"),), (*shot("", FEW), S())),
    ),
    several(
        "terminate inside a copy",
        t(0, (Q("copy c0.t from stdin"),), (*DATA,), (terminate(),)),
        t(1, (Q("select 1"),), (*shot("", FEW), S())),
    ),
    several(
        "terminate behind an unfinished batch",
        t(0, (*shot("", ADD, "1", "2"), terminate())),
        t(1, (Q("select 1"), *shot("", FEW), S())),
    ),
    several(
        "terminate inside a transaction",
        t(0, (Q("begin"), Q("insert into c0.t (name) values ('lost')")), (terminate(),)),
        t(1, (Q("select 1"), Q("select count(*) from c0.t"))),
    ),
)

TRANSACTIONS = (
    one("begin, commit", (Q("begin"),), (Q("commit"),), (Q("begin"), Q("rollback")), (Q("BEGIN;"), Q("END;"))),
    one(
        "begin with nothing in it, many spellings",
        *(
            (Q(sql), Q("commit"))
            for sql in (
                "begin",
                "BEGIN",
                "begin;",
                "Begin Work",
                "begin transaction",
                "start transaction",
                " begin ",
                "/* x */ begin",
                "begin -- x",
                "begin; ;",
                "begin isolation level serializable",
                "begin read only",
                "begin read write, isolation level repeatable read",
                "start transaction isolation level read committed, read only, deferrable",
            )
        ),
    ),
    one(
        "spellings of begin that fail",
        *(
            (Q(sql), Q("select 1"), Q("commit"))
            for sql in (
                "begin nonsense",
                "begin isolation level",
                "begin work work",
                "start",
                "begin isolation level serializable isolation level serializable",
                "begin read only read write",
            )
        ),
    ),
    one(
        "endings with nothing to end",
        *(
            (Q(sql),)
            for sql in (
                "commit",
                "rollback",
                "end",
                "abort",
                "commit and chain",
                "rollback and chain",
                "rollback to a",
                "release a",
                "savepoint a",
                "commit prepared 'none'",
            )
        ),
    ),
    one(
        "endings of an empty block",
        *(
            (Q("begin"), Q(sql), Q("select 1"), Q("rollback"))
            for sql in (
                "commit",
                "rollback",
                "end",
                "abort",
                "commit and chain",
                "rollback and chain",
                "commit work",
                "rollback transaction;",
                "commit; select 1",
                "rollback to a",
                "release a",
            )
        ),
    ),
    one(
        "begin twice",
        (Q("begin"), Q("begin"), Q("select 1"), Q("commit")),
        (Q("begin"), Q("start transaction"), Q("commit")),
    ),
    one(
        "begin, then an error first",
        (Q("begin"), Q("selec"), Q("select 1"), Q("commit"), Q("select 1")),
        (Q("begin"), Q("selec"), Q("begin"), Q("rollback")),
    ),
    one("begin, then an extended batch", (Q("begin"),), (*shot("", ADD, "1", "2"), S()), (Q("commit"),)),
    one("begin, then only a Sync", (Q("begin"),), (S(),), (H(), S()), (Q("commit"), S())),
    one("begin, then an empty query", (Q("begin"), Q(""), Q(";"), Q("commit"))),
    one(
        "begin in the extended protocol",
        (*shot("", "begin"), S()),
        (*shot("", ADD, "1", "2"), S()),
        (*shot("", "commit"), S()),
        (*shot("b", "begin"), S(), *shot("c", "rollback"), S(), *run("b"), S(), *run("c"), S()),
    ),
    one(
        "begin in the extended protocol in one batch with more",
        (*shot("", "begin"), *shot("", FEW), *shot("", "commit"), S()),
        (*shot("", "begin"), *shot("", "select 1/0"), *shot("", "commit"), S()),
        (Q("rollback"),),
    ),
    one("begin without its Sync", (*shot("", "begin"), H()), (*shot("", FEW), H()), (S(),), (Q("commit"),)),
    one("begin, bad bind, commit", (Q("begin"), B("", "none"), S(), Q("select 1"), Q("commit"))),
    one(
        "begin keeps the unnamed statement only until it runs",
        (P("", ADD), S()),
        (Q("begin"), *run("", "1", "2"), S(), Q("commit")),
    ),
    one(
        "a modes block is honoured",
        (
            Q("begin read only"),
            Q("show transaction_read_only"),
            Q("insert into c0.t (name) values ('x')"),
            Q("rollback"),
        ),
        (Q("start transaction isolation level serializable"), Q("show transaction_isolation"), Q("commit")),
    ),
    one(
        "savepoints",
        (
            Q("begin"),
            Q("savepoint a"),
            Q("selec"),
            Q("select 1"),
            Q("rollback to a"),
            Q("select 1"),
            Q("release a"),
            Q("release a"),
            Q("rollback"),
        ),
        (Q("savepoint a"),),
    ),
    one(
        "savepoints in the extended protocol",
        (
            Q("begin"),
            *shot("", "savepoint a"),
            S(),
            *shot("", "select 1/0"),
            S(),
            *shot("", "rollback to a"),
            S(),
            *shot("", FEW),
            S(),
            *shot("", "commit"),
            S(),
        ),
    ),
    one(
        "a failed block refuses everything",
        (
            Q("begin"),
            Q("select 1/0"),
            Q("select 1"),
            *shot("", ADD, "1", "2"),
            S(),
            function_call(177, ["1", "2"], binary=False),
            Q(""),
            Q("commit"),
        ),
    ),
    one(
        "commit and chain",
        (
            Q("begin read only"),
            Q("select 1"),
            Q("commit and chain"),
            Q("show transaction_read_only"),
            Q("rollback and chain"),
            Q("commit"),
        ),
    ),
    one(
        "two-phase",
        (
            Q("begin"),
            Q("insert into c0.t (name) values ('two')"),
            Q("prepare transaction 'phase'"),
            Q("select count(*) from c0.t"),
            Q("rollback prepared 'phase'"),
        ),
    ),
    several(
        "begin held by one while another works",
        t(0, (Q("begin"),)),
        t(1, (Q("select 1"),)),
        t(0, (Q("begin"), Q("select 1")), (Q("commit"),)),
        t(1, (Q("begin"), Q("commit"), Q("select 1")), early=True),
    ),
    one(
        "vacuum and others that refuse a block",
        (Q("vacuum c0.t"),),
        (Q("begin"), Q("vacuum c0.t"), Q("rollback")),
        (Q("select 1; vacuum c0.t"),),
        (*shot("", FEW), *shot("", "vacuum c0.t"), S()),
        (*shot("", "vacuum c0.t"), S()),
    ),
    one(
        "cursors",
        (
            Q("begin"),
            Q("declare c cursor for select n from numbers order by n"),
            Q("fetch 3 from c"),
            *shot("", "fetch 2 from c"),
            S(),
            Q("close c"),
            Q("fetch 1 from c"),
            Q("rollback"),
        ),
        (Q("declare c cursor for select 1"), Q("fetch c")),
    ),
)

STATE = (
    several(
        "a setting stays with its client",
        t(0, (Q("set timezone = 'Asia/Tokyo'"), Q("set work_mem = '5MB'"), Q("set my.own = 'zero'"))),
        t(1, (Q("show timezone"), Q("show work_mem"), Q("select coalesce(current_setting('my.own', true), '')"))),
        t(0, (Q("show timezone"), Q("show work_mem"), Q("show my.own"))),
    ),
    several(
        "settings of two clients in turns",
        *(
            t(
                i % 2,
                (
                    Q(f"set timezone = '{('Asia/Tokyo', 'America/Lima')[i % 2]}'"),
                    Q("show timezone"),
                    Q("select timestamptz '2024-01-01 00:00+00'"),
                ),
            )
            for i in range(4)
        ),
        t(0, (*shot("", "show timezone"), S())),
        t(1, (*shot("", "show timezone"), S())),
    ),
    several(
        "a setting in the extended protocol",
        t(0, (*shot("", "set timezone = 'Asia/Tokyo'"), S())),
        t(1, (*shot("", "show timezone"), S())),
        t(0, (*shot("", "show timezone"), S())),
    ),
    several(
        "a setting rolled back",
        t(0, (Q("begin"), Q("set timezone = 'Asia/Tokyo'"), Q("set work_mem = '5MB'"), Q("rollback"))),
        t(1, (Q("select 1"),)),
        t(0, (Q("show timezone"), Q("show work_mem"))),
    ),
    several(
        "a setting rolled back by an error",
        t(
            0,
            (
                Q("begin; set timezone = 'Asia/Tokyo'; set work_mem = '5MB'; select 1/0"),
                Q("rollback"),
                Q("set datestyle = 'German'; select 1/0"),
            ),
        ),
        t(1, (Q("select 1"),)),
        t(0, (Q("show timezone"), Q("show work_mem"), Q("show datestyle"))),
    ),
    several(
        "a setting undone to a savepoint",
        t(
            0,
            (
                Q("set work_mem = '3MB'"),
                Q("begin"),
                Q("savepoint a"),
                Q("set work_mem = '5MB'"),
                Q("set timezone = 'Asia/Tokyo'"),
                Q("rollback to a"),
                Q("commit"),
            ),
        ),
        t(1, (Q("show work_mem"),)),
        t(0, (Q("show work_mem"), Q("show timezone"))),
    ),
    several(
        "reset all undone to a savepoint",
        t(
            0,
            (
                Q("set work_mem = '3MB'"),
                Q("set timezone = 'Asia/Tokyo'"),
                Q("begin"),
                Q("savepoint a"),
                Q("reset all"),
                Q("rollback to a"),
                Q("commit"),
            ),
        ),
        t(1, (Q("show work_mem"), Q("show timezone"))),
        t(0, (Q("show work_mem"), Q("show timezone"))),
    ),
    several(
        "set local",
        t(
            0,
            (
                Q("begin"),
                Q("set local work_mem = '5MB'"),
                Q("set local timezone = 'Asia/Tokyo'"),
                Q("show work_mem"),
                Q("commit"),
                Q("show work_mem"),
                Q("show timezone"),
            ),
        ),
        t(1, (Q("show work_mem"), Q("show timezone"))),
    ),
    several(
        "set and set local of the same",
        t(0, (Q("begin"), Q("set work_mem = '3MB'"), Q("set local work_mem = '5MB'"), Q("commit"))),
        t(1, (Q("show work_mem"),)),
        t(0, (Q("show work_mem"),)),
    ),
    several(
        "two settings, one reset",
        t(0, (Q("set work_mem = '3MB'"), Q("set timezone = 'Asia/Tokyo'"), Q("reset work_mem"))),
        t(1, (Q("show timezone"), Q("show work_mem"))),
        t(0, (Q("show timezone"), Q("show work_mem"))),
    ),
    several(
        "reset all",
        t(0, (Q("set work_mem = '3MB'"), Q("set timezone = 'Asia/Tokyo'"), Q("set my.own = 'x'"), Q("reset all"))),
        t(1, (Q("select 1"),)),
        t(0, (Q("show timezone"), Q("show work_mem"), Q("show my.own"))),
    ),
    several(
        "set_config",
        t(
            0,
            (Q("select set_config('search_path', 'c0', false), set_config('my.own', 'zero', false)"),),
            (Q("select * from t order by id"),),
        ),
        t(1, (Q("show search_path"), Q("select * from t"))),
        t(0, (Q("select * from t order by id"), Q("show my.own"))),
    ),
    several(
        "set_config with parameters",
        t(0, (P("", "select set_config($1, $2, false)"), *run("", "work_mem", "5MB"), S())),
        t(1, (Q("show work_mem"),)),
        t(0, (Q("show work_mem"),)),
    ),
    several(
        "a setting made in a DO block",
        t(0, (Q("do $$ begin set work_mem = '5MB'; set timezone = 'Asia/Tokyo'; end $$"),)),
        t(1, (Q("show work_mem"), Q("show timezone"))),
        t(0, (Q("show work_mem"), Q("show timezone"))),
    ),
    several(
        "a reported setting made inside a function",
        t(
            0,
            (
                Q(
                    "create function c0.tz() returns text language sql as"
                    " $$ select set_config('timezone', 'Asia/Aden', false) $$"
                ),
                Q("select c0.tz()"),
            ),
        ),
        t(1, (Q("show timezone"),)),
        t(0, (Q("show timezone"), Q("drop function c0.tz()"))),
    ),
    several(
        "role",
        t(0, (Q("set role tenant"), Q("select current_user, session_user"))),
        t(1, (Q("select current_user, session_user"),)),
        t(0, (Q("select current_user, session_user"), Q("reset role"), Q("select current_user"))),
    ),
    several(
        "session authorization",
        t(0, (Q("set session authorization bob"), Q("select current_user, session_user"))),
        t(1, (Q("select current_user, session_user"),)),
        t(0, (Q("select current_user, session_user"), Q("reset session authorization"), Q("select session_user"))),
    ),
    several(
        "read-only by default",
        t(0, (Q("set default_transaction_read_only = on"), Q("insert into c0.t (name) values ('x')"))),
        t(1, (Q("insert into c1.t (name) values ('x')"),)),
        t(0, (Q("insert into c0.t (name) values ('x')"),)),
    ),
    several(
        "session characteristics",
        t(0, (Q("set session characteristics as transaction isolation level serializable"),)),
        t(1, (Q("show transaction_isolation"),)),
        t(0, (Q("show transaction_isolation"),)),
    ),
    several(
        "client encoding",
        t(0, (Q("set client_encoding = 'LATIN1'"), Q("select chr(228)"))),
        t(1, (Q("select chr(228)"),)),
        t(0, (Q("select chr(228)"), Q("reset client_encoding"), Q("select chr(228)"))),
    ),
    several(
        "names",
        t(0, (Q("set names 'LATIN1'"), Q("select chr(228)"))),
        t(1, (Q("show client_encoding"),)),
        t(0, (Q("show client_encoding"),)),
    ),
    several(
        "time zone in its own spelling",
        t(
            0,
            (
                Q("set time zone interval '+02:00' hour to minute"),
                Q("set time zone local"),
                Q("set time zone 'Europe/Oslo'"),
            ),
        ),
        t(1, (Q("show time zone"),)),
        t(0, (Q("show time zone"),)),
    ),
    several(
        "discard all",
        t(
            0,
            (
                Q("set work_mem = '3MB'"),
                Q("set timezone = 'Asia/Tokyo'"),
                Q("set role tenant"),
                Q("discard all"),
                Q("show work_mem"),
                Q("select current_user"),
            ),
        ),
        t(1, (Q("show work_mem"),)),
        t(0, (Q("show timezone"),)),
    ),
    several(
        "values that need quoting",
        t(
            0,
            (
                Q("set my.own = 'it''s \\ \"odd\" $1 %s ä'"),
                Q("set application_name = 'o''clock \\n'"),
                Q('set search_path = "c 0", c0, "$user"'),
            ),
        ),
        t(1, (Q("select 1"),)),
        t(0, (Q("show my.own"), Q("show application_name"), Q("show search_path"))),
    ),
    several(
        "settings while others wait",
        t(0, (Q("begin"), Q("set timezone = 'Asia/Tokyo'")), (Q("commit"),)),
        t(1, (Q("show timezone"),), early=True),
        t(0, (Q("show timezone"),), early=True),
        t(2, (Q("show timezone"),), early=True),
    ),
)

PINS = (
    several(
        "a temporary table",
        t(0, (Q("create temp table kept (i int)"), Q("insert into kept values (1)"))),
        t(1, (Q("select * from kept"),)),
        t(0, (Q("select * from kept"), Q("drop table kept"), Q("select * from kept"))),
        pins=True,
    ),
    several(
        "a held cursor",
        t(0, (Q("declare held cursor with hold for select n from numbers order by n"), Q("fetch 2 from held"))),
        t(1, (Q("fetch 2 from held"),)),
        t(0, (Q("fetch 2 from held"), Q("close held"))),
        pins=True,
    ),
    several(
        "an advisory lock",
        t(0, (Q("select pg_advisory_lock(5)"),)),
        t(1, (Q("select pg_try_advisory_lock(5)"),)),
        t(0, (Q("select pg_advisory_unlock(5), pg_advisory_unlock(5)"),)),
        t(1, (Q("select pg_try_advisory_lock(5)"), Q("select pg_advisory_unlock_all()"))),
        pins=True,
    ),
    several(
        "prepare and execute in SQL",
        t(0, (Q("prepare p as select $1::int + 1"), Q("execute p (1)"))),
        t(1, (Q("execute p (1)"), Q("prepare p as select 'other'"), Q("execute p"))),
        t(0, (Q("execute p (2)"), Q("prepare p as select 1"), Q("deallocate p"), Q("execute p (2)"))),
        t(1, (Q("execute p"), Q("deallocate all"), Q("execute p"))),
        pins=True,
    ),
    several(
        "a statement prepared in SQL, used in the protocol",
        t(0, (Q("prepare p as select $1::int + 1"),)),
        t(1, (Q("select 1"),)),
        t(
            0,
            (
                *run("p", "4"),
                describe_statement("p"),
                S(),
                P("p", FEW),
                S(),
                close_statement("p"),
                S(),
                Q("execute p (1)"),
            ),
        ),
        pins=True,
    ),
    several(
        "prepare that fails",
        t(
            0,
            (
                Q("prepare p as selec"),
                Q("execute p"),
                Q("begin"),
                Q("prepare p as select 1"),
                Q("rollback"),
                Q("execute p"),
            ),
        ),
        pins=True,
    ),
    several(
        "listen, notified by another",
        t(0, (Q("listen one"),)),
        t(1, (Q("notify one, 'hello'"), Q("notify other, 'nobody'"))),
        t(0, (Q("select 1"),)),
        t(2, (Q("select pg_notify('one', 'again')"),)),
        t(0, (Q("unlisten one"),)),
        t(1, (Q("notify one, 'too late'"),)),
    ),
    several(
        "listen in a block",
        t(0, (Q("begin"), Q("listen one"), Q("rollback"))),
        t(1, (Q("notify one, 'not heard'"),)),
        t(0, (Q("begin"), Q("listen one"), Q("commit"))),
        t(
            1,
            (
                Q("begin"),
                Q("notify one, 'lost'"),
                Q("rollback"),
                Q("begin"),
                Q("notify one, 'heard'"),
                Q("notify one, 'heard'"),
                Q("commit"),
            ),
        ),
        t(0, (Q("unlisten *"),)),
    ),
    several(
        "notify to oneself",
        t(
            0,
            (
                Q("listen one"),
                Q("notify one, 'me'"),
                *shot("", "notify one, 'extended'"),
                S(),
                Q("discard all"),
                Q("notify one, 'no more'"),
            ),
        ),
    ),
    several(
        "everyone listens",
        t(0, (Q("listen one"),)),
        t(1, (Q("listen one"),)),
        t(2, (Q("listen two"),)),
        t(2, (Q("notify one, 'a'"), Q("notify two, 'b'"))),
        t(0, (Q("notify two, 'c'"),)),
    ),
    several(
        "sequences",
        t(0, (Q("begin"), Q("select nextval('c0.s')"), Q("select currval('c0.s'), lastval()"), Q("commit"))),
        pins=True,
    ),
)


def _malformed(kind: str, *bodies: bytes) -> Order:
    """Messages that are whole but make no sense: idle, behind a statement, in a block, in a failed one."""
    bad = tuple(raw(frame(kind, body), kind if kind in "SQF" else "?") for body in bodies)
    states = ((), (P("", "select 1"),), (P("n", FEW), B("", "n")))
    blocks = ((Q("begin"),), (Q("begin"), Q("select 1")), (Q("begin"), Q("select 1/0")))
    return one(
        f"malformed {kind}",
        *((*state, message, S()) for state in states for message in bad),
        *((*block, message, S(), Q("rollback"), close_statement("n"), S()) for block in blocks for message in bad),
    )


_NONSENSE = (b"", b"\0", b"x", b"\0\0", b"P\0", b"\xff" * 7, b"\0begin\0\0\0")

MALFORMED = (
    *(_malformed(kind, *_NONSENSE) for kind in "PBDECF"),
    *(_malformed(kind, *_NONSENSE[1:4]) for kind in "HS"),
    _malformed("Q", *_NONSENSE, b"begin", b"begin;x", b"commit\0\0", b"discard all", b";"),
)

# PostgreSQL ends the connection after these.
ENDINGS = (
    one("an unknown type behind a good batch", (*shot("", FEW), S(), raw(b"!\0\0\0\4"))),
    one("an unknown type behind a good query", (Q("select 1"), raw(b"!\0\0\0\4"))),
    one("a length that cannot be behind a good query", (Q("select 1"), raw(b"Q\0\0\0\3"))),
    one("an unknown type behind a batch without Sync", (*shot("", FEW), raw(b"!\0\0\0\4"))),
    one("an unknown type behind a failed batch", (P("", "selec"), *run(""), raw(b"!\0\0\0\4"))),
    one("an unknown type in a block", (Q("begin"), Q("select 1 / 0"), *shot("a", FEW), S(), raw(b"!\0\0\0\4"))),
    one("a length that cannot be behind a good batch", (*shot("a", FEW), S(), *run("a"), S(), raw(b"B\0\0\0\3"))),
    one("a length that cannot be behind a flush", (*shot("a", FEW), S(), *run("a"), H(), raw(b"B\0\0\0\3"))),
    one("a message that is too long to be small, behind a query", (Q("select 1"), raw(b"S\0\0\x40\0"))),
    one("a query while a copy waits for data", (Q("copy c0.t from stdin"),), (Q("select 1"),)),
    one("an extended message while a copy waits for data", (*copy_in(H()),), (P("", "select 1"), S())),
)

# What random orders have found, each as short as it gets.
FOUND = (
    several(
        "deallocate of a statement that was evicted, in an open batch",
        t(0, (P("s1", "select 1"), S()), (P("s2", FEW), *run("s2"), S()), (P("s3", ADD), *run("s3", "1", "2"), S())),
        t(
            0,
            (P("", "select 2"), Q("deallocate s1"), Q("execute s1")),
            (P("", "selec"), Q("deallocate s2"), S(), *run("s2"), S()),
        ),
    ),
    several(
        "deallocate of a statement that was evicted, with others to evict",
        t(0, (P("", "select 2"), P("s1", "select 1"), P("s2", FEW), *run("s1"), *run("s2"), S()), (*run(""), S())),
        t(0, (Q("deallocate s1"), Q("execute s1")), (*run("s2"), S())),
    ),
    one(
        "a query that is skipped leaves the unnamed statement where it is",
        (Q("begin"), P("", FEW), S()),
        (P("bad", "selec 1"), Q("select 1"), S()),
        (P("", FEW), S()),
        (B("", "", ["1"]), E(), S()),
        (Q("rollback"),),
    ),
    one(
        "a statement made again under its name, its text also under another",
        (P("a", "select $1::int"), S()),
        (close_statement("a"), P("a", "select $1::int"), S()),
        (P("b", "select $1::int"), S()),
        (B("", "b"), E(), B("", "a"), E(), S()),
        (B("", "a"), E(), B("", "b"), E(), S()),
    ),
    several(
        "a name parsed with Flush, then a simple query",
        t(0, (P("a", FEW), H()), (Q("select 1"),)),
        t(1, (Q("select 2"),)),
    ),
    several(
        "a name run with Flush, then a simple query",
        t(0, (P("a", FEW), S()), (*run("a"), H()), (Q("select 1"),)),
        t(1, (Q("select 2"),)),
    ),
    several(
        "a name run with Flush, then a query and a deferred begin",
        t(0, (P("a", FEW), S()), (*run("a"), H()), (Q("select 1"), Q("begin read only")), (Q("rollback"),)),
        t(1, (Q("select 2"),)),
    ),
    one("two names of one text, a wrong bind of the second", (P("a", ADD), P("b", ADD), B("", "b"), S())),
    one("two names of one text, the second parsed again", (P("a", ADD), S()), (P("b", ADD), P("b", FEW), S())),
    one("a named and the unnamed statement of one text, a wrong bind", (P("a", ADD), P("", ADD), B(), S())),
    one(
        "a live name parsed again where its text has gone",
        (Q("create table c0.x (i int)"), P("a", "select * from c0.x"), S()),
        (Q("drop table c0.x"), P("a", FEW), S()),
        (P("b", "select 1"), S()),
    ),
    one(
        "a live name parsed again in a failed block, with texts that such a block takes",
        (P("a", ADD), S(), Q("begin"), Q("select 1 / 0")),
        *((P("a", text), S()) for text in ("", " -- nothing", ";", "commit", "rollback", "selec", ADD)),
        (Q("rollback"), *run("a", "1", "2"), S()),
    ),
    several(
        "binds in a failed block of what the backend lacks",
        t(0, (P("a", ADD), S(), P("b", "select 1"), S(), P("c", "rollback"), S(), P("d", "select $1::int", [25]), S())),
        t(1, *((P(f"s{number}", f"select {number}"), *run(f"s{number}"), S()) for number in range(5))),
        t(
            0,
            (Q("begin"), Q("select 1 / 0")),
            *(
                (B("", *bound), E(), S())
                for bound in (("a",), ("a", ["1"]), ("a", ["1", "2"]), ("b",), ("b", ["1"]), ("d",))
            ),
            (P("", "select 2"), S(), B("", "a", ["1"]), S()),
            (*run("c"), *run("a", "1", "2"), S()),
        ),
    ),
    one(
        "a DISCARD ALL and a Query behind it, without a Sync between them",
        (P("s1", "discard all"), B("", "s1"), E(), Q("select 1 / (n - 4) from numbers order by n")),
        (Q("show application_name"),),
        (B("", "s1"), E(), Q("select 1"), Q("show application_name")),
        (B("", "s1"), E(), H(), B("", "s1"), E(), Q("select 2"), P("", "show application_name"), B(), E(), S()),
    ),
    several(
        "binds of what the backend lacks, sent with the failure of the block",
        t(0, (P("a", ADD), S(), P("b", "select 1"), S())),
        t(1, *((P(f"s{number}", f"select {number}"), *run(f"s{number}"), S()) for number in range(5))),
        t(0, (Q("begin"), Q("selec"), B("", "b", ["15"]), E(), S(), B("", "a"), E(), S(), Q("rollback"))),
    ),
    one(
        "names of one text, closed and parsed again",
        (P("a", ADD), P("b", ADD), P("", ADD), S()),
        (B("", "a"), S(), B("", "b"), S(), B(), S()),
        (close_statement("a"), P("c", ADD), P("a", ADD), S(), B("", "c"), S(), B("", "a"), S()),
        (P("", ADD), S(), B(), S(), P("", ADD), S(), B(), S()),
    ),
    one(
        "a statement parsed before the one that it deallocates",
        (P("d", "deallocate a"), S(), P("a", ADD), S(), *run("a", "1", "2"), *run("d"), *run("a", "1", "2"), S()),
        (*run("d"), S(), P("a", FEW), *run("a"), S(), *run("d"), S(), *run("a"), S()),
    ),
    one(
        "a statement parsed before the one that it executes",
        (P("e", "execute a (1, 2)"), S(), P("a", ADD), S(), B("", "e"), E(), S()),
        (close_statement("a"), P("a", "select $1::int - $2::int"), B("", "e"), E(), S()),
        (Q("deallocate a"), B("", "e"), E(), S()),
    ),
    one("a statement that deallocates itself", (P("a", "deallocate a"), *run("a"), S()), (*run("a"), S())),
    one(
        "an unknown portal, then a sequence",
        (E("p1"), S(), Q("begin; select nextval('c0.s'); select currval('c0.s'); commit")),
        (B("", "none"), S(), Q("select nextval('c0.s')")),
    ),
    Order(
        "one date style upon another",
        (t(0, (Q("set datestyle = 'German'"),)), t(1, (Q("show datestyle"),)), t(0, (Q("show datestyle"),))),
        2,
        logins=({}, {"DateStyle": "SQL"}),
    ),
    Order(
        "RESET goes back to the login's value",
        (t(0, (Q("set timezone = 'Asia/Aden'"), Q("reset timezone"), Q("show timezone"))), t(0, (Q("show timezone"),))),
        1,
        logins=({"TimeZone": "Asia/Tokyo"},),
    ),
    Order(
        "RESET of a value that came with the login",
        (t(0, (Q("reset timezone"), Q("show timezone"))),),
        1,
        logins=({"TimeZone": "Asia/Tokyo"},),
    ),
    Order(
        "RESET ALL goes back to the login's values",
        (
            t(0, (Q("set work_mem = '5MB'"), Q("reset all"), Q("show work_mem"), Q("show datestyle"))),
            t(1, (Q("show work_mem"), Q("show datestyle"))),
            t(0, (*shot("", "reset all"), S()), (Q("show work_mem"),)),
        ),
        2,
        logins=({"options": "-c work_mem=7MB", "DateStyle": "SQL"}, {}),
    ),
    Order(
        "DISCARD ALL goes back to the login's values",
        (
            t(0, (Q("set work_mem = '5MB'"), Q("discard all"), Q("show work_mem"), Q("show datestyle"))),
            t(1, (Q("show work_mem"),)),
        ),
        2,
        logins=({"options": "-c work_mem=7MB", "DateStyle": "SQL"}, {}),
    ),
    Order(
        "a custom parameter of another's login",
        (
            t(1, (*shot("", "set datestyle = 'German'"), S())),
            t(0, (Q("select coalesce(current_setting('my.own', true), '')"),)),
            t(1, (Q("show my.own"),)),
        ),
        2,
        logins=({}, {"options": "-c my.own=start"}),
    ),
)

_LOGIN = {
    "TimeZone": "Asia/Tokyo",
    "DateStyle": "SQL",
    "application_name": "mine",
    "options": "-c work_mem=7MB -c my.own=start -c search_path=c0,public",
}
_LOOK = "select current_setting('timezone'), current_setting('work_mem'), current_setting('application_name')"
_MANY = "set timezone = 'Asia/Aden'; set work_mem = '5MB'; set application_name = 'other'; set datestyle = 'German'"


def after_login(name: str, *steps: Step) -> Order:
    """One client whose login sets much, and another that must not see it."""
    return Order(name, (t(0, *steps), t(1, (Q(_LOOK),)), t(0, (Q(_LOOK),))), 2, logins=(_LOGIN, {}))


RESETS = (
    one(
        "deallocate all, in a query and in batches, and what comes behind it",
        (P("a", FEW), P("b", ADD), S(), Q("deallocate all"), *run("a"), S(), P("a", ADD), *run("a", "1", "2"), S()),
        (*shot("d", "deallocate all"), *run("a", "1", "2"), S()),
        (P("a", FEW), *run("d"), P("a", ADD), *run("a", "1", "2"), S()),
        (P("d", "deallocate all"), P("b", FEW), *run("d"), P("a", FEW), *run("a"), *run("b"), S(), *run("a"), S()),
        (P("e", "discard all"), S(), *run("e"), S(), P("e", FEW), *run("e"), S()),
        (P("", "deallocate all"), B(), E(), P("a", ADD), B("", "a"), S()),
        (P("", "deallocate all"), B(), E(), B("p", ""), E("p"), S()),
    ),
    after_login("reset in the middle of a query", (Q(f"{_MANY}; reset timezone; {_LOOK}; select 1"),)),
    after_login("reset all in the middle of a query", (Q(f"{_MANY}; reset all; {_LOOK}; show my.own; reset all"),)),
    after_login("reset at the end of a query", (Q(f"{_MANY}; /* to */ ReSeT /* what? */ ALL -- all"),)),
    after_login("reset in a query that fails", (Q(f"{_MANY}"), Q("reset all; select 1 / 0")), (Q(_LOOK),)),
    after_login(
        "positions of errors behind a reset",
        (Q("reset timezone; select nothing"),),
        (Q("select 1; reset all; select 'ä', 1 +; select 2"),),
        (Q("reset timezone; select 'ä'; reset work_mem; select nothing(1)"),),
    ),
    after_login(
        "reset in a block",
        (Q("begin"), Q(_MANY)),
        (Q("reset timezone"), Q(_LOOK)),
        (Q("savepoint a"), Q("reset all"), Q(_LOOK), Q("rollback to a"), Q(_LOOK)),
        (Q("reset work_mem"), Q("rollback"), Q(_LOOK)),
    ),
    after_login("reset in a failed block", (Q("begin"), Q("select 1 / 0"), Q("reset all"), Q("rollback"), Q(_LOOK))),
    after_login(
        "to default",
        (
            Q(_MANY),
            Q("set timezone to default"),
            Q("set work_mem = default"),
            Q("SET SESSION application_name TO DEFAULT"),
        ),
        (Q("set time zone default"), Q("set datestyle to default"), Q(_LOOK), Q("show datestyle")),
        (Q("set local timezone to default"), Q("set timezone to 'UTC'; set local timezone to default; show timezone")),
        (
            Q("begin"),
            Q("set local timezone = 'UTC'"),
            Q("set local timezone to default"),
            Q("show timezone"),
            Q("commit"),
        ),
    ),
    after_login(
        "names of encodings to default",
        (Q("set names 'LATIN1'"), Q("set names"), Q("select 'ä'"), Q("set names 'LATIN1'"), Q("set names default")),
    ),
    after_login(
        "names that need quoting", (Q(_MANY), Q('reset "TimeZone"'), Q("reset my.own"), Q('set "my" . own to default'))
    ),
    after_login("reset time zone", (Q(_MANY), Q("reset time zone"), Q(_LOOK), Q("set time zone local"), Q(_LOOK))),
    after_login(
        "reset in a batch",
        (Q(_MANY), *shot("", "reset all"), *shot("", _LOOK), S()),
        (Q(_MANY), *shot("a", "reset timezone"), *shot("", _LOOK), *run("a"), S(), *shot("", _LOOK), S()),
        (*shot("b", "set work_mem to default"), H()),
        (*shot("", "show work_mem"), S()),
    ),
    after_login(
        "reset in a batch, in a block, with an error behind it",
        (Q("begin"), Q(_MANY), *shot("", "reset all"), *shot("", "select 1 / 0"), S(), Q("rollback"), Q(_LOOK)),
        (Q(_MANY), *shot("", "reset all"), *shot("", "select 1 / 0"), S(), Q(_LOOK)),
    ),
    after_login(
        "a portal that resets, executed late",
        (Q("begin"), Q(_MANY), P("a", "reset timezone"), B("p", "a"), *shot("", _LOOK), E("p"), *shot("", _LOOK), S()),
        (Q("commit"), Q(_LOOK)),
    ),
    after_login(
        "discard all in a batch, and what goes on",
        (Q(_MANY), *shot("", "discard all"), S(), copy_done(), Q(_LOOK)),
        (Q(_MANY), *shot("", "discard all"), S(), function_call(177, ["4", "5"]), S(), S()),
        (Q(_MANY), *shot("a", "discard all"), *run("a"), S(), *shot("", _LOOK), S()),
    ),
    after_login(
        "a name that resets, kept and closed",
        (P("a", "reset all"), S(), P("a", "select 1"), S(), Q(_MANY), *run("a"), S()),
        (close_statement("a"), P("a", "select 1"), S(), Q(_MANY), *run("a"), S(), Q(_LOOK)),
    ),
    after_login("discard all alone", (Q(_MANY),), (Q("discard all"),), (Q(_LOOK),)),
    after_login(
        "discard all among others",
        (Q(_MANY), Q("discard  all ;"), Q(_LOOK), Q("select 2")),
        (Q(_MANY),),
        (Q(" Discard ALL ;"),),
        (Q(_LOOK),),
    ),
    after_login("discard all in a block", (Q("begin"), Q(_MANY), Q("discard all"), Q("commit"), Q(_LOOK))),
    after_login(
        "discard all in a batch", (Q(_MANY), *shot("", "discard all"), S()), (Q(_LOOK),), (*shot("x", FEW), S())
    ),
    after_login(
        "discard all with statements",
        (P("a", FEW), S(), Q(_MANY), Q("discard all"), *run("a"), S(), P("a", ADD), *run("a", "1", "2"), S()),
    ),
    after_login(
        "discard all in a batch that fails behind it",
        (Q(_MANY), *shot("", "discard all"), E("none"), *shot("", _LOOK), S()),
        (Q(_LOOK),),
        (Q(_MANY), E("none"), *shot("", "discard all"), S(), Q(_LOOK)),
    ),
    after_login(
        "discard all with another", (Q(_MANY), Q("discard all; select 1"), Q("select 1; discard all"), Q(_LOOK))
    ),
    after_login(
        "what only looks like a reset",
        (Q(_MANY), Q("select 'reset all'; select 1 -- ; reset all\n; select $x$; reset all; $x$"), Q(_LOOK)),
        (Q("do $$ begin perform '; reset timezone'; end $$"), Q(_LOOK), Q('select 1 as "; reset all;"'), Q(_LOOK)),
    ),
)

_LEVEL = "show transaction_isolation"


def _crowd(client: int, number: int) -> Turn:
    """So many statements that none of before stays on a backend with a tiny cache."""
    return t(client, *((*shot(f"n{number}.{other}", f"select {number} + {other}"), S()) for other in range(4)))


HUNTED = (
    one("a name that is no text", (P(b"\xff", "select 1"), S()), (P(b"\xc3\xa4", FEW), S(), *run("\u00e4"), S())),
    one("a failed block, a name that is no text", (Q("begin"), Q("selec"), P(b"\xff", "select 1"), S(), Q("rollback"))),
    one(
        "a message in a copy whose name is not certain yet",
        (P("a", "selec"), S(), Q("copy c0.t from stdin"), B()),
    ),
    one(
        "a name that is no text while a copy waits for data",
        (Q("copy c0.t from stdin"),),
        (P(b"\xff", "select 1"), S()),
    ),
    one(
        "too few parameters for what speaks of another statement",
        (P("a", "select 1"), P("b", "execute a", [23]), B("", "b"), S()),
        (P("c", "deallocate c", [23]), B("", "c"), S()),
    ),
    several(
        "SQL PREPARE of a name of the protocol, as a statement",
        t(0, (P("a", "select 1"), *shot("b", "prepare a as select 2"), S())),
        t(0, (*shot("c", "prepare new as select 3"), S()), (P("new", "select 4"), S()), (Q("deallocate new"),)),
        pins=True,
    ),
    several(
        "SQL PREPARE and Parse of the same name at once",
        t(0, (Q("prepare a as select 1"), P("a", "select 2"), S()), (Q("deallocate a"),)),
        t(0, (Q("prepare b as select 1"), Q("select 1"), P("b", "select 2"), S()), (Q("deallocate b"),)),
        pins=True,
    ),
    one("DEALLOCATE of a name that was just parsed", (P("a", "select 1"), Q("deallocate a"), P("a", FEW), S())),
    several(
        "a failed block describes what another backend has",
        t(0, (P("a", "insert into c0.t (id) values ($1)"), P("b", FEW), P("c", "commit"), P("d", ""), S())),
        t(1, *((*shot(f"n{number}", f"select {number}"), S()) for number in range(12))),
        t(0, (Q("begin"), Q("select 1/0"))),
        t(0, *((describe_statement(name), S()) for name in "abcd"), (Q("rollback"), *run("b"), S())),
        t(0, (Q("begin"), Q("selec"), describe_statement("a"), S(), describe_statement("b"), S(), Q("rollback"))),
    ),
    several(
        "binds in a failed block of what the backend lacks, in the middle of a segment",
        t(
            0,
            (
                P("a", ADD),
                P("b", FEW),
                P("w", "insert into c0.t (id) values ($1)"),
                P("r", "rollback"),
                P("e", ""),
                S(),
            ),
        ),
        *(
            turn
            for number, step in enumerate(
                (
                    (P("x1", "commit"), B("", "b", ["1"]), E(), S()),
                    (P("x2", "commit"), B("", "b"), E(), S()),
                    (B("", "e"), E(), B("", "b", ["1"]), E(), S()),
                    (B("", "e"), E(), B("", "b"), E(), S()),
                    (B("", "e"), E(), describe_statement("w"), B("", "a", ["1"]), S()),
                    (B("p", "e"), E("p"), B("p", "a", ["1", "2"]), S()),
                    (*run("r"), *run("b"), describe_statement("w"), *run("a", "1", "2"), S()),
                    (*run("r"), B("", "b", ["1"]), E(), S()),
                    (B("p", "r"), E("p"), B("p", "b"), E("p"), S()),
                    (Q("select 1"), P("x3", "commit"), B("", "a"), E(), S()),
                )
            )
            for turn in (_crowd(1, number), t(0, (Q("begin"), Q("selec")), step, (Q("rollback"),)))
        ),
    ),
    several(
        "texts that another search_path makes wrong",
        t(0, (P("a", "select n from numbers where n > $1"), P("w", "insert into numbers values ($1)"), S())),
        t(0, (P("l", "select n, '$9' as \"$9\" /* $9 */ from numbers where n > $1 -- $9"), S())),
        t(0, (Q("set search_path = c0"),)),
        *(
            turn
            for number, step in enumerate(
                (
                    (B("", "a"), S(), B("", "a", ["17"]), S()),
                    (describe_statement("a"), S()),
                    (describe_statement("w"), B("", "w"), S()),
                    (describe_statement("w"), B("", "w", ["1"]), S()),
                    (P("", "select 1"), B("p", ""), B("p", "a", ["17"]), S()),
                    (B("", "l"), S(), B("", "l", ["17"]), S()),
                    (Q("begin"), B("", "a"), S(), B("", "a", ["17"]), S(), Q("rollback")),
                    (Q("set search_path = public"), *run("a", "17"), *run("l", "17"), S()),
                )
            )
            for turn in (_crowd(1, number), t(0, step))
        ),
    ),
    several(
        "a text of which the types of parameters are known, made wrong",
        t(0, (P("a", "select say($1)"), P("b", "select say($1), $2 + 1"), S(), Q("set search_path = c0"))),
        _crowd(1, 0),
        t(0, (B("", "a", ["1"]), S(), describe_statement("a"), S(), B("", "b", ["1", "2"]), S())),
    ),
    several(
        "texts that a DROP makes wrong",
        t(0, (Q("create table c0.x (i int)"), P("a", "select i from c0.x where i = $1"), S())),
        t(0, (P("w", "delete from c0.x where i = $1"), S(), Q("drop table c0.x"))),
        _crowd(1, 0),
        t(0, (B("", "a"), S(), B("", "a", ["1"]), S(), describe_statement("a"), S())),
        t(0, (B("", "w"), S(), describe_statement("w"), S())),
    ),
    after_login(
        "a name that resets, skipped, given to another text",
        (Q("set timezone = 'Asia/Dubai'"),),
        (E("none"), P("a", "set timezone to default"), S(), P("a", "select 1"), *run("a"), S(), Q("show timezone")),
        (Q("deallocate a"), P("a", "reset timezone"), S(), Q("deallocate a"), P("a", FEW), S(), *run("a"), S()),
        (P("b", "reset timezone"), S(), E("none"), close_statement("b"), S(), *run("b"), S(), Q("show timezone")),
        (Q("set timezone = 'Asia/Dubai'"), P("", "reset timezone"), S(), P("", "selec"), S(), B(), E(), S()),
        (P("", "reset timezone"), S(), E("none"), P("", "select 1"), S(), B(), E(), S(), Q("show timezone")),
    ),
    after_login(
        "the unnamed statement outlives resets",
        *(
            step
            for text in ("reset all", "discard sequences", "discard plans", "set timezone to default", "discard all")
            for step in (
                (P("", FEW), P("r", text), S(), *run("r"), S(), *run(""), S(), close_statement("r"), S()),
                (P("", text), S(), *run(""), S(), *run(""), S(), Q("select 1")),
            )
        ),
    ),
    Order(
        "a reset, then the isolation level",
        tuple(
            t(0, step)
            for text in ("reset timezone", "reset all", "set work_mem to default")
            for step in (
                (*shot("", text), *shot("", "set transaction isolation level serializable"), *shot("", _LEVEL), S()),
                (Q(f"{text}; set transaction isolation level serializable; {_LEVEL}"),),
                (Q("begin"), Q(text), Q("set transaction isolation level serializable"), Q(_LEVEL), Q("rollback")),
            )
        ),
        logins=({"TimeZone": "Asia/Tokyo", "options": "-c work_mem=7MB"},),
    ),
    after_login(
        "a block that is begun behind a DISCARD ALL, without a Sync between them",
        (P("a", "discard all"), B("", "a"), E(), Q("start transaction"), Q(_LOOK), Q(_MANY), Q("rollback"), Q(_LOOK)),
        (B("", "a"), E("none"), Q("begin"), S(), Q(_MANY)),
        (P("a", "discard all"), B("", "a"), E(), H(), Q("select 1 / 0"), Q(_LOOK)),
        (P("a", "discard all"), B("", "a"), E(), B("", "none"), Q("begin"), E(), S(), Q(_LOOK)),
    ),
    Order(
        "search paths that came with the login",
        tuple(t(client, (Q("set search_path = c1"), Q("reset all"), Q("show search_path"))) for client in range(4)),
        4,
        logins=tuple({"options": f"-c search_path={path}"} for path in ("c0,public", "c0,\\ public", "user", '""')),
    ),
)

EVERY_ORDER = (
    *PREPARED,
    *PIPELINES,
    *COPY,
    *TRANSACTIONS,
    *STATE,
    *PINS,
    *MALFORMED,
    *ENDINGS,
    *FOUND,
    *RESETS,
    *HUNTED,
)
