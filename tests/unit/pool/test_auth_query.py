"""Look-ups in front of servers that live, die, lie and dawdle; and among threads."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import pytest

from pgdoorman.auth.found_user import FoundUser
from pgdoorman.auth.secrets import PlainSecret
from pgdoorman.config.load import load_text
from pgdoorman.config.settings import Settings
from pgdoorman.errors import PgDoormanError
from pgdoorman.pool.auth_query import PENDING, AuthQuery, LookupFailed
from pgdoorman.pool.pool import Surroundings
from pgdoorman.runtime.helpers import Helpers
from pgdoorman.runtime.worker import Worker
from tests.support import doorman
from tests.support.fake_server import FakeServer, Peer, complete, data_row, ready, row_description
from tests.support.process import free_port, wait_until

PATIENCE = 15.0
WORKER = Worker("not-started", 0)


def settings_for(address: tuple[str, int], **section: Any) -> Settings:
    query = {"query": "SELECT passwd FROM t WHERE name = $1", "user": "u", "password": "p", **section}
    general = {"host": "127.0.0.1", "port": 1, "admin_username": "admin", "admin_password": "admin"}
    return load_text(doorman.toml({"general": general, "pools": {"app": doorman.pool(address, auth_query=query)}}))


@contextmanager
def looking_up(address: tuple[str, int], **section: Any) -> Iterator[AuthQuery]:
    settings = settings_for(address, **section)
    helpers = Helpers(4, "test-lookup")
    query = AuthQuery(settings, settings.pools["app"], Surroundings([WORKER], helpers), helpers)
    yield query
    query.close()
    helpers.close(PATIENCE)


class Asker:
    """One that waits for answers."""

    def __init__(self, query: AuthQuery) -> None:
        self.query = query
        self.told: SimpleQueue[tuple[FoundUser | None, PgDoormanError | None]] = SimpleQueue()

    def ask(self, user: str, *, stale: bool = False) -> FoundUser | None:
        """Raises what was told for an error."""
        found = self.query.find(user, lambda *told: self.told.put(told), stale=stale)
        return self.wait() if found is PENDING else found

    def wait(self) -> FoundUser | None:
        found, error = self.told.get(timeout=PATIENCE)
        if error is not None:
            raise error
        return found


def answer(secret: str | None) -> bytes:
    """To one question about the user, one about its role, and DISCARD ALL."""
    row = b"" if secret is None else data_row(secret)
    head = b"1" + (4).to_bytes(4) + b"2" + (4).to_bytes(4) + row_description("passwd")
    facts = b"1" + (4).to_bytes(4) + b"2" + (4).to_bytes(4) + row_description("a", "b") + complete()
    return head + row + complete() + ready() + facts + ready() + complete("DISCARD ALL") + ready()


def read_question(peer: Peer) -> str:
    """The user asked for; reads up to the last message of the question."""
    user = ""
    while (message := peer.receive()).kind != "Q":
        if message.kind == "X":
            raise ConnectionError
        if message.kind == "B" and not user:
            size = int.from_bytes(message.body[6:10])
            user = message.body[10 : 10 + size].decode()
    return user


def server_that(answers: Callable[[str], str | None], asked: list[str]) -> Callable[[Peer], None]:
    def script(peer: Peer) -> None:
        peer.greet()
        while True:
            try:
                user = read_question(peer)
            except ConnectionError:
                return
            asked.append(user)
            peer.send(answer(answers(user)))

    return script


def test_found_missing_and_remembered() -> None:
    asked: list[str] = []
    answers = {"a": "one"}
    with FakeServer(server_that(answers.get, asked)) as server, looking_up((server.host, server.port)) as query:
        asker = Asker(query)
        for _ in range(3):
            assert asker.ask("a") == FoundUser(PlainSecret(b"one"))
            assert asker.ask("nobody") is None
        assert asker.ask("x" * 64) is None
        assert asked == ["a", "nobody"]
        counters = query.counters
        assert (counters.hits, counters.misses, counters.queries, counters.errors) == (4, 2, 2, 0)
        assert query.entries == 2


@pytest.mark.parametrize("shared", [False, True])
def test_parameters_are_checked_once(shared: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Those that cannot be sent are left out; with one pool for all there are none."""
    texts = {
        "a": '{"work_mem": "1MB", "role": "x", "no good": "x", "datestyle": "ISO"}',
        "long": '{"x.y": "' + "z" * 10_000 + '"}',
    }

    def script(peer: Peer) -> None:
        peer.greet()
        while True:
            try:
                user = read_question(peer)
            except ConnectionError:
                return
            head = row_description("passwd", "startup_parameters")
            facts = row_description("a", "b") + complete() + ready()
            peer.send(head, data_row("pw", texts[user]), complete(), ready(), facts, complete("DISCARD ALL"), ready())

    section = {"server_user": "all"} if shared else {}
    with FakeServer(script) as server, looking_up((server.host, server.port), **section) as query:
        asker = Asker(query)
        for _ in range(3):
            found, long = asker.ask("a"), asker.ask("long")
        assert found is not None
        assert long is not None
        assert found.parameters == (() if shared else (("work_mem", "1MB"), ("DateStyle", "ISO")))
        assert long.parameters == ()
        settings = query.settings_of("a", found)
        assert settings.server_username == ("all" if shared else "a")
        assert (("work_mem", "1MB") in settings.startup_parameters) is not shared
    assert len(caplog.records) == (4 if shared else 3)


def test_what_does_not_fit_is_looked_up_again_now_and_then() -> None:
    asked: list[str] = []
    answers: dict[str, str | None] = {"a": "one"}
    with (
        FakeServer(server_that(answers.get, asked)) as server,
        looking_up((server.host, server.port), min_interval="300ms") as query,
    ):
        asker = Asker(query)
        assert asker.ask("a") == FoundUser(PlainSecret(b"one"))
        answers["a"] = "two"
        assert asker.ask("a", stale=True) == FoundUser(PlainSecret(b"one")), "too soon"
        time.sleep(0.35)
        assert asker.ask("a", stale=True) == FoundUser(PlainSecret(b"two"))
        assert asker.ask("a") == FoundUser(PlainSecret(b"two"))
        assert (query.counters.refetches, query.counters.rate_limited) == (1, 1)
        answers["a"] = None
        time.sleep(0.35)
        assert asker.ask("a", stale=True) is None
        assert len(asked) == 3


def test_who_asks_for_the_same_waits_for_the_same_answer() -> None:
    asked: list[str] = []
    gate = threading.Event()

    def slowly(user: str) -> str:
        gate.wait(PATIENCE)
        return user

    with FakeServer(server_that(slowly, asked)) as server, looking_up((server.host, server.port), workers=2) as query:
        askers = [Asker(query) for _ in range(30)]
        for number, asker in enumerate(askers):
            assert query.find(f"u{number % 3}", lambda *told, asker=asker: asker.told.put(told)) is PENDING
        gate.set()
        for number, asker in enumerate(askers):
            assert asker.wait() == FoundUser(PlainSecret(f"u{number % 3}".encode()))
        assert sorted(asked) == ["u0", "u1", "u2"]


def test_a_connection_that_has_died_is_replaced_unseen() -> None:
    asked: list[str] = []

    def once(peer: Peer) -> None:
        peer.greet()
        asked.append(read_question(peer))
        peer.send(answer("x"))  # and hangs up

    with FakeServer(once) as server, looking_up((server.host, server.port), workers=1) as query:
        asker = Asker(query)
        for name in ("a", "b", "c"):
            assert asker.ask(name) == FoundUser(PlainSecret(b"x"))
            time.sleep(0.05)
        assert asked == ["a", "b", "c"]
        assert query.counters.errors == 0


def test_a_server_that_hangs_up_at_each_question() -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        read_question(peer)

    with FakeServer(script) as server, looking_up((server.host, server.port)) as query:
        asker = Asker(query)
        for name in ("a", "b"):
            with pytest.raises(LookupFailed, match="Authentication service unavailable"):
                asker.ask(name)
        assert query.entries == 0, "nothing was learnt"
        assert query.counters.errors == 2


def test_an_old_answer_stands_where_no_newer_can_be_had() -> None:
    asked: list[str] = []

    def once(peer: Peer) -> None:
        peer.greet()
        user = read_question(peer)
        if not asked:
            asked.append(user)
            peer.send(answer("x"))

    with FakeServer(once) as server, looking_up((server.host, server.port), min_interval=0, cache_ttl=0) as query:
        asker = Asker(query)
        assert asker.ask("a") == FoundUser(PlainSecret(b"x"))
        assert asker.ask("a", stale=True) == FoundUser(PlainSecret(b"x"))
        with pytest.raises(LookupFailed):
            asker.ask("a")
        assert query.counters.errors == 2


def test_with_no_server_nobody_waits_long() -> None:
    with looking_up(("127.0.0.1", free_port()), workers=1) as query:
        asker = Asker(query)
        began = time.monotonic()
        pending = sum(query.find(f"u{number}", lambda *told: asker.told.put(told)) is PENDING for number in range(200))
        for _ in range(pending):
            with pytest.raises(LookupFailed):
                asker.wait()
        assert time.monotonic() - began < 10


def test_another_query_forgets_and_what_was_under_way_is_not_remembered() -> None:
    asked: list[str] = []
    gate, begun = threading.Event(), threading.Event()

    def slowly(user: str) -> str:
        if user == "slow":
            begun.set()
            gate.wait(PATIENCE)
        return "x"

    with FakeServer(server_that(slowly, asked)) as server, looking_up((server.host, server.port)) as query:
        asker = Asker(query)
        asker.ask("a")
        assert query.find("slow", lambda *told: asker.told.put(told)) is PENDING
        assert begun.wait(PATIENCE)
        address = (server.host, server.port)
        same = settings_for(address, cache_ttl="5m")
        query.apply(same, same.pools["app"])
        assert query.entries == 1, "another time limit forgets nothing"
        other = settings_for(address, query="SELECT other FROM t WHERE name = $1")
        query.apply(other, other.pools["app"])
        assert query.entries == 0
        gate.set()
        assert asker.wait() == FoundUser(PlainSecret(b"x"))
        assert query.entries == 0
        asker.ask("slow")
        assert asked == ["a", "slow", "slow"]


def test_closing_tells_those_who_wait() -> None:
    def silent(peer: Peer) -> None:
        peer.greet()
        while True:
            peer.receive()

    with FakeServer(silent) as server, looking_up((server.host, server.port), workers=1) as query:
        asker = Asker(query)
        for name in ("a", "b"):
            assert query.find(name, lambda *told: asker.told.put(told)) is PENDING
        query.close()
        for _ in range(2):
            with pytest.raises(LookupFailed):
                asker.wait()
        with pytest.raises(LookupFailed):
            asker.ask("c")


def test_connections_with_nothing_to_do_are_closed() -> None:
    asked: list[str] = []
    gone = threading.Event()

    def script(peer: Peer) -> None:
        try:
            server_that(lambda _: "x", asked)(peer)
        finally:
            gone.set()

    with FakeServer(script) as server, looking_up((server.host, server.port)) as query:
        Asker(query).ask("a")
        wait_until(lambda: bool(query._idle), 10, "the connection is put back")
        query.let_go(time.monotonic() + 599)
        assert not gone.is_set()
        query.let_go(time.monotonic() + 601)
        assert gone.wait(PATIENCE)
        Asker(query).ask("b")
        assert asked == ["a", "b"]


def test_many_threads_ask_while_settings_change() -> None:
    """Nobody is forgotten, and every answer is one's own."""
    asked: list[str] = []
    with FakeServer(server_that(lambda user: f"of {user}", asked)) as server:
        address = (server.host, server.port)
        with looking_up(address, workers=3, cache_ttl="1ms") as query:
            wrong: list[object] = []
            start = threading.Barrier(7)

            def ask(part: int) -> None:
                asker = Asker(query)
                start.wait(PATIENCE)
                for number in range(40):
                    name = f"u{(part + number) % 5}"
                    try:
                        found = asker.ask(name, stale=number % 7 == 0)
                    except PgDoormanError as error:
                        wrong.append(error)
                        continue
                    if found != FoundUser(PlainSecret(f"of {name}".encode())):
                        wrong.append((name, found))

            threads = [threading.Thread(target=ask, args=(part,)) for part in range(6)]
            for thread in threads:
                thread.start()
            start.wait(PATIENCE)
            for number in range(20):
                settings = settings_for(address, workers=1 + number % 3, cache_ttl="1ms",
                                        query=f"SELECT passwd FROM t{number % 2} WHERE name = $1")  # fmt: skip
                query.apply(settings, settings.pools["app"])
                query.reconnect()
                time.sleep(0.005)
            for thread in threads:
                thread.join(60)
            assert not any(thread.is_alive() for thread in threads), "somebody was forgotten"
            assert not wrong, wrong[:5]
            wait_until(lambda: query._busy == 0, 10, "every helper has ended")
            assert query._open == len(query._idle)


def test_the_session_of_a_look_up() -> None:
    seen: list[dict[str, str]] = []

    def script(peer: Peer) -> None:
        seen.append(peer.receive_startup())
        server_that(lambda _: "x", [])(peer)

    with FakeServer(script) as server, looking_up((server.host, server.port), database="elsewhere") as query:
        Asker(query).ask("a")
    (startup,) = seen
    assert startup["user"] == "u"
    assert startup["database"] == "elsewhere"
    assert startup["search_path"] == "pg_catalog"
    assert startup["client_encoding"] == "UTF8"
