"""LISTEN and NOTIFY through a transaction pool: notifications reach those who listen, when they are idle too, and nobody
else; and no listener keeps a backend."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.integration.conftest import StartDoorman
from tests.support.doorman import Doorman, pool, user
from tests.support.postgres import Postgres
from tests.support.process import wait_until
from tests.support.wire import Reply, ServerError, Wire, bind, execute, flush, parse, query, sync

PATIENCE = 15.0


def notes(replies: list[Reply]) -> list[str]:
    """`channel: payload` of the notifications among them."""
    found = []
    for reply in replies:
        if reply.kind == "A":
            channel, payload = reply.body[4:].split(b"\0")[:2]
            found.append(f"{channel.decode()}: {payload.decode()}")
    return found


def heard(wire: Wire, count: int, patience: float = PATIENCE) -> list[str]:
    """The next notifications of an idle client, `count` or whatever has come in time."""
    found: list[str] = []
    deadline = time.monotonic() + patience
    while len(found) < count and time.monotonic() < deadline:
        found += notes(wire.poll(0.2))
    return found


def order(replies: list[Reply]) -> str:
    return "".join(reply.kind for reply in replies)


@pytest.fixture(scope="module")
def doorman(postgres: Postgres, start_module_doorman: StartDoorman) -> Doorman:
    """One backend for everybody."""
    return start_module_doorman(
        pools={
            "app": pool(postgres, user("alice", pool_size=1), pool_mode="transaction"),
            "two": pool(postgres, user("alice", pool_size=2), pool_mode="transaction", server_database="app"),
        },
        general={"worker_threads": 2},
    )


@pytest.fixture
def connect(doorman: Doorman) -> Iterator["Connect"]:
    with ExitStack() as stack:
        yield Connect(doorman, stack)


class Connect:
    def __init__(self, doorman: Doorman, stack: ExitStack) -> None:
        self._doorman = doorman
        self._stack = stack

    def __call__(self, database: str = "app", **parameters: str) -> Wire:
        # An answer may wait ten seconds for the notifications in front of it (`client.listening.MOST_DELAY`).
        wire = self._doorman.connect(database, "alice", parameters=parameters, patience=60)
        return self._stack.enter_context(wire)


def test_idle_clients_hear_at_once(connect: "Connect", postgres: Postgres) -> None:
    listeners = [connect() for _ in range(5)]
    stranger = connect()
    for number, wire in enumerate(listeners):
        assert order(wire.ask(query(f"listen all_of_us; listen only_{number}"))) == "CCZ"
    assert stranger.value("select 1") == "1"  # the only backend is free
    postgres.run("notify all_of_us, 'one'", "notify only_3, 'two'", "notify nobody", database="app")
    stranger.run("notify all_of_us, 'three'")
    for number, wire in enumerate(listeners):
        wanted = ["all_of_us: one", *(["only_3: two"] if number == 3 else []), "all_of_us: three"]
        assert heard(wire, len(wanted)) == wanted
    assert stranger.poll(0.3) == []
    assert [wire.poll(0) for wire in listeners] == [[]] * 5


def test_own_notifications_stand_where_postgres_puts_them(connect: "Connect", postgres: Postgres) -> None:
    """Behind the command's answer, in front of ReadyForQuery; in the order of the server."""
    requests = (
        (query("listen one"),),
        (query("notify one, 'a'"),),
        (query("notify one, 'b'"),),
        (parse("", "select pg_notify('one', $1)"), bind("", "", ["c"]), execute(), sync()),
        (query("begin"),),
        (query("notify one, 'd'"), query("notify one, 'd'"), query("select 1")),
        (query("commit"),),
        (query("begin; notify one, 'e'; rollback"),),
        (query("begin"), query("notify one, 'e'"), query("rollback")),
        (query("select 1"),),
        (query("notify one, 'f'; select 1; notify one, 'g'"),),
        (query("listen two; notify two, 'f'"),),
        (query("unlisten one"),),
        (query("notify one, 'g'; notify two, 'h'"),),
        (query("discard all"),),
        (query("notify two, 'i'"),),
    )
    with postgres.connect("other", "alice") as direct:
        pooled = connect()
        for step in requests:
            wanted, got = direct.ask(*step), pooled.ask(*step)
            assert (order(got), notes(got)) == (order(wanted), notes(wanted)), step
        assert pooled.poll(0.2) == []


CHANGES = (
    ("listen a", "a"),
    ("listen b; listen c", "a b c"),
    ("begin; listen d; rollback", "a b c"),
    ("begin; listen d; commit", "a b c d"),
    ("begin; savepoint s; unlisten a; rollback to s; unlisten b; commit", "a c d"),
    ("begin; unlisten *; listen e; rollback", "a c d"),
    ("begin; unlisten *; listen e; commit", "e"),
    ("unlisten nothing", "e"),
    ("select 1; unlisten e; listen f; listen f", "f"),
    ('listen "Odd ""name; --"', 'Odd "name; -- f'),
    ("unlisten f", 'Odd "name; --'),
    ("discard all", ""),
    ("listen again", "again"),
    ("create temp table kept (); listen b", "again b"),
    ("unlisten again", "b"),
    ("drop table kept", "b"),
    ("unlisten *", ""),
)


@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
def test_channels_are_what_the_client_made_them(connect: "Connect", extended: bool) -> None:
    """Whatever changes them, and however: what pg_listening_channels says, and what is heard."""
    wire, other = connect("two"), connect("two")
    for change, wanted in CHANGES:
        for text in change.split("; ") if extended and "--" not in change else [change]:
            if extended and "--" not in change:
                wire.ask(parse("", text), bind(), execute(), sync())
            else:
                wire.ask(query(text))
        listed = wire.value(
            "select string_agg(name, ' ' order by name collate \"C\") from pg_listening_channels() name"
        )
        assert (listed or "") == wanted, change
        for channel in ("a", "b", "c", "d", "e", "f", "again"):
            other.run(f"notify {channel}, '{change}'".replace('"', "") if '"' in change else f"notify {channel}")
        got = {note.partition(":")[0] for note in notes(wire.ask(query("select 1")))}
        assert got == {name for name in wanted.split() if len(name) == 1 or name == "again"}, change


def test_a_listener_holds_no_backend(connect: "Connect", doorman: Doorman) -> None:
    wire = connect()
    wire.run("listen free")

    def pins() -> list[str | None]:
        return [row["pinned"] for row in doorman.show("clients") if row["database"] == "app"]

    wait_until(lambda: not any(pins()), 10, "the pin to end")
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(connect()).run("select 1")
    wire.run("create temp table held ()")
    wire.run("drop table held")
    assert connect().value("select 1") == "1"


@pytest.mark.timeout(300)
def test_nothing_is_lost_or_repeated_while_a_channel_is_taken_over(connect: "Connect", postgres: Postgres) -> None:
    """A stream of numbered notifications: from the answer to LISTEN on, and even in a pipeline behind it, none is missing."""
    stop = threading.Event()
    sent: list[int] = []

    def notify() -> None:
        with postgres.connect("app", "alice") as sender:
            while not stop.is_set():
                sent.append(len(sent))
                sender.run(f"select pg_notify('stream', '{len(sent) - 1}')")
                # A listener that gets them faster than it can read answers nothing else: so is PostgreSQL.
                time.sleep(0.002)

    thread = threading.Thread(target=notify)
    thread.start()
    try:
        for _ in range(15):
            wire = connect("two")
            replies = wire.ask(query("listen stream"), query("select 1"))
            first_known = len(sent)  # sent, at the latest, when this client knew that it listens
            replies += wire.ask(query("select 1"), query("listen other"), query("select 1"))
            while not (got := [int(note.split()[1]) for note in notes(replies)]) or got[-1] < first_known + 20:
                replies += wire.poll(0.5)
            assert got == list(range(got[0], got[0] + len(got)))
            assert got[0] <= first_known
            replies = wire.ask(query("unlisten stream"), query("select 1"))
            replies = wire.ask(query("select 1"))
            assert notes(replies) == []
            wire.terminate()
    finally:
        stop.set()
        thread.join()


def test_nothing_comes_in_the_middle(connect: "Connect", postgres: Postgres) -> None:
    """Not in a transaction, and not inside a large answer that is read slowly."""
    wire = connect("two")
    wire.run("listen news")
    wire.send(query("begin"), query("select 1"))
    assert order(wire.settle()) == "CZTDCZ"
    postgres.run("notify news, 'while in a transaction'", database="app")
    assert wire.poll(0.3) == []
    assert order(wire.ask(query("select 2"))) == "TDCZ"
    assert order(wire.ask(query("commit"))) == "CAZ"
    # A row of 8 MB fills every buffer between: the notification comes while its middle is on the way.
    wire.send(query("select repeat('x', 8000000), pg_sleep(0.1) union all select 'y', pg_sleep(0.3)"))
    time.sleep(0.2)
    for number in range(20):
        postgres.run(f"notify news, '{number}'", database="app")
    replies = wire.settle()
    assert order(replies).startswith("TDDC")
    got = notes(replies) + heard(wire, 20 - len(notes(replies)))
    assert got == [f"news: {number}" for number in range(20)]


def test_what_flush_left_open(connect: "Connect", postgres: Postgres) -> None:
    wire = connect("two")
    wire.run("listen news")
    wire.send(parse("", "select 1"), bind(), execute(), flush())
    assert order(wire.receive_until("C")) == "12DC"
    postgres.run("notify news, 'soon'", database="app")
    assert wire.poll(0.2) == []
    assert order(wire.ask(sync())) == "AZ"


def test_the_pools_connection_is_lost(connect: "Connect", postgres: Postgres, doorman: Doorman) -> None:
    """It is opened again, listens to the same, and the clients are told that they may have missed something."""
    wire, late = connect("two"), connect("two")
    wire.run("listen news")
    wire.run("select 1")  # answered when the channel has been taken over
    ended = postgres_end_listeners(postgres)
    assert ended in (1, 2)  # each pool that ever had a listener has one for a minute
    warnings: list[Reply] = []
    deadline = time.monotonic() + PATIENCE
    while not warnings and time.monotonic() < deadline:
        warnings += [reply for reply in wire.poll(0.2) if reply.kind == "N"]
    assert warnings[0].fields()["C"] == "01000"
    late.run("listen late")
    postgres.run("notify news, 'again'", "notify late, 'too'", database="app")
    assert heard(wire, 1) == ["news: again"]
    assert heard(late, 1) == ["late: too"]
    doorman.check_alive()


def postgres_end_listeners(postgres: Postgres) -> int:
    """Ends the pooler's own listening connections to `app`."""
    with postgres.connect("app") as wire:
        return int(
            wire.value(
                "select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = 'app'"
                " and application_name ~ 'listen$' and pid <> pg_backend_pid()"
            )
            or 0
        )


def test_leaving_and_coming(connect: "Connect", postgres: Postgres) -> None:
    """Politely, by reset, in the middle: what one has listened to, the next does not hear."""
    for leave in (Wire.terminate, Wire.reset, Wire.hang_up):
        for before in ("listen news", "begin; listen news", "listen news; begin; select 1"):
            wire = connect()
            for text in before.split("; "):
                wire.run(text)
            leave(wire)
            with connect() as other:
                other.run("select 1")
                postgres.run("notify news, 'private'", database="app")
                replies = other.ask(query("select 1"), query("select 2")) + other.poll(0.1)
                assert notes(replies) == [], before
                assert other.value("select count(*) from pg_listening_channels()") == "0"


def test_the_clients_encoding(connect: "Connect", postgres: Postgres) -> None:
    wire = connect("two", client_encoding="LATIN1")
    wire.run(b'listen "caf\xe9"'.decode("latin-1").encode("latin-1"))  # type: ignore[arg-type]
    postgres.run("notify \"café\", 'über'", database="app")
    deadline = time.monotonic() + PATIENCE
    replies: list[Reply] = []
    while not replies and time.monotonic() < deadline:
        replies = wire.poll(0.2)
    assert replies[0].body[4:] == b"caf\xe9\0\xfcber\0"


def test_statements_that_fail_leave_everything_as_it_was(connect: "Connect") -> None:
    wire = connect()
    wire.run("listen news")
    with pytest.raises(ServerError):
        wire.run("unlisten *; select 1 / 0")
    assert notes(wire.ask(query("notify news, 'still'"))) == ["news: still"]


def test_many_come_and_go(doorman: Doorman, postgres: Postgres) -> None:
    """Thirty listeners over two backends, each with a channel of its own and one in common, all at work."""
    failures: list[str] = []

    def live(number: int) -> None:
        with doorman.connect("two", "alice", patience=60) as wire:
            got: list[str] = []
            for turn in range(6):
                got += notes(wire.ask(query(f"listen own_{number}"), query("listen common")))
                got += notes(wire.ask(query(f"notify own_{number}, '{turn}'")))
                got += notes(wire.ask(query("begin"), query("select 1"), query("commit")))
                got += notes(wire.ask(query(f"unlisten own_{number}")))
                got += notes(wire.ask(query(f"notify own_{number}, 'unheard'")))
            own = [note for note in got if note.startswith("own")]
            if own != [f"own_{number}: {turn}" for turn in range(6)]:
                failures.append(f"{number}: {own}")
            wire.run("notify common, 'done'")

    threads = [threading.Thread(target=live, args=(number,)) for number in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    doorman.check_alive()
    assert "Traceback" not in doorman.log()
