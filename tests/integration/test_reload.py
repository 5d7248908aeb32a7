"""Reloads: what changes reaches whom it concerns and when it should; a bad file changes nothing; a storm of them loses
nothing."""

import copy
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import StartDoorman
from tests.support.doorman import ADMIN_PASSWORD, ADMIN_USER, Doorman, Settings, pool, table, user
from tests.support.postgres import Postgres
from tests.support.process import wait_until
from tests.support.wire import HungUp, ServerError, Wire, WireError, bind, execute, parse, query, sync


def _reload(doorman: Doorman) -> None:
    """Writes the configuration and waits until the console says that it is in force. Raises ServerError."""
    doorman.write_config()
    with doorman.admin() as admin:
        admin.run("reload")


def _server_process(client: Wire) -> str | None:
    return client.value("select pg_backend_pid()")


def _states(doorman: Doorman) -> Counter[str | None]:
    return Counter(row["state"] for row in doorman.show("servers"))


def _wait_given_back(doorman: Doorman) -> None:
    """An answer may come before that."""
    wait_until(lambda: _states(doorman)["active"] == 0, 10, "the backend to be given back")


def _keeps_its_backend(doorman: Doorman, client: Wire) -> bool:
    """Whether it still has one a while after its query, which needs no look at what it has done."""
    client.value("select 1")
    time.sleep(0.3)
    return _states(doorman)["active"] == 1


def _farewell(client: Wire) -> str:
    """The SQLSTATE and message with which the client was sent away."""
    last = [reply for reply in client.wait_closed() if reply.kind == "E"][-1]
    return f"{last.fields()['S']} {last.fields()['C']} {last.fields()['M']}"


GONE = "FATAL 57P01 database removed"


@pytest.fixture(scope="module")
def _house(start_module_doorman: StartDoorman, postgres: Postgres) -> Doorman:
    return start_module_doorman(pools={"app": pool(postgres, user("alice", pool_size=2), user("bob", pool_size=1))})


@pytest.fixture
def doorman(_house: Doorman) -> Iterator[Doorman]:
    """The pool `app`: alice with two backends, bob with one. The same pooler for all tests, reloaded between them."""
    general, pools = copy.deepcopy((_house.general, _house.pools))
    yield _house
    _house.general, _house.pools = general, pools
    _reload(_house)
    wait_until(lambda: len(_house.show("clients")) == 1, 10, "the clients to be gone")


def test_an_idle_client_is_under_the_new_settings_at_once(doorman: Doorman) -> None:
    with doorman.connect("app", "bob") as client:
        assert not _keeps_its_backend(doorman, client)
        doorman.general["pool_mode"] = "session"
        _reload(doorman)
        assert _keeps_its_backend(doorman, client), "as in session mode"


def test_a_client_in_a_transaction_is_so_after_it(doorman: Doorman) -> None:
    with doorman.connect("app", "bob") as client:
        client.run("begin")
        client.value("select 1")
        doorman.general["pool_mode"] = "session"
        _reload(doorman)
        client.run("commit")
        _wait_given_back(doorman)
        assert _keeps_its_backend(doorman, client)


def test_a_client_that_waits_keeps_its_place_and_is_so_after_its_transaction(doorman: Doorman) -> None:
    with doorman.connect("app", "bob") as holder, doorman.connect("app", "bob") as waiter:
        holder.run("begin")
        holder.value("select 1")
        waiter.send(query("select 'mine'"))
        wait_until(lambda: doorman.show("pools")[1]["cl_waiting"] == "1", 10, "it to wait")
        doorman.general["pool_mode"] = "session"
        _reload(doorman)
        holder.run("commit")
        holder.hang_up()
        assert [reply.kind for reply in waiter.settle()] == ["T", "D", "C", "Z"]
        _wait_given_back(doorman)
        assert _keeps_its_backend(doorman, waiter)


def test_a_client_with_statements_keeps_them_when_the_mode_changes(doorman: Doorman) -> None:
    with doorman.connect("app", "bob") as client:
        client.ask(parse("mine", "select 'prepared'"), sync())
        doorman.general["pool_mode"] = "session"
        _reload(doorman)
        for _ in range(2):
            replies = client.ask(bind("", "mine", []), execute(), sync())
            assert [reply.kind for reply in replies] == ["2", "D", "C", "Z"]


def test_a_general_limit_takes_effect_for_those_who_are_there(doorman: Doorman) -> None:
    with doorman.connect("app", "alice") as client:
        client.run("begin")
        client.value("select 1")
        doorman.general["idle_transaction_timeout"] = "300ms"
        _reload(doorman)
        assert "25P03" in _farewell(client)


def test_a_shorter_wait_takes_effect_for_those_who_wait(doorman: Doorman) -> None:
    with doorman.connect("app", "bob") as holder, doorman.connect("app", "bob") as waiter:
        holder.run("begin")
        holder.value("select 1")
        waiter.send(query("select 1"))
        wait_until(lambda: doorman.show("pools")[1]["cl_waiting"] == "1", 10, "it to wait")
        doorman.general["query_wait_timeout"] = "200ms"
        _reload(doorman)
        assert [reply.kind for reply in waiter.settle()] == ["E", "Z"]


def test_only_what_changed_is_touched(doorman: Doorman) -> None:
    with doorman.connect("app", "alice") as alice, doorman.connect("app", "bob") as bob:
        before = _server_process(alice), _server_process(bob)
        doorman.pools["app"]["users"][1]["pool_size"] = 5
        doorman.general["idle_timeout"] = "1h"
        _reload(doorman)
        assert (_server_process(alice), _server_process(bob)) == before, "no backend was closed"
        doorman.pools["app"]["application_name"] = "renamed"
        _reload(doorman)
        assert (_server_process(alice), _server_process(bob)) != before
        assert alice.value("show application_name") == "renamed"


def test_another_database_behind_the_same_name(doorman: Doorman) -> None:
    with doorman.connect("app", "alice") as idle, doorman.connect("app", "alice") as busy:
        idle.value("select 1")
        busy.run("begin")
        assert busy.value("select current_database()") == "app"
        doorman.pools["app"]["server_database"] = "other"
        _reload(doorman)
        assert idle.value("select current_database()") == "other"
        assert busy.value("select current_database()") == "app", "a transaction ends where it began"
        busy.run("commit")
        assert busy.value("select current_database()") == "other"


def test_a_user_that_was_removed(doorman: Doorman, postgres: Postgres) -> None:
    with (
        doorman.connect("app", "alice") as idle,
        doorman.connect("app", "alice") as busy,
        doorman.connect("app", "bob") as other,
    ):
        processes = {int(_server_process(idle) or 0)}
        busy.run("begin")
        processes.add(int(_server_process(busy) or 0))
        alice = doorman.pools["app"]["users"].pop(0)
        _reload(doorman)
        assert _farewell(idle) == GONE
        assert busy.value("select 'still'") == "still"
        with pytest.raises((ServerError, HungUp)):
            doorman.connect("app", "alice")
        busy.run("commit")
        assert _farewell(busy) == GONE
        wait_until(lambda: not processes & set(postgres.backends()), 10, "its backends to be gone")
        assert [row["user"] for row in doorman.show("pools")] == ["bob"]
        assert other.value("select 1") == "1"
        doorman.pools["app"]["users"].append(alice)
        _reload(doorman)
        with doorman.connect("app", "alice") as back:
            assert back.value("select 1") == "1"


def test_a_database_that_is_gone_and_back_while_its_clients_wait(doorman: Doorman) -> None:
    app = doorman.pools["app"]
    with doorman.connect("app", "bob") as holder, doorman.connect("app", "bob") as waiter:
        holder.run("begin")
        holder.value("select 1")
        waiter.send(query("select 1"))
        wait_until(lambda: doorman.show("pools")[1]["cl_waiting"] == "1", 10, "it to wait")
        doorman.pools = {"instead": app}
        _reload(doorman)
        doorman.pools = {"app": app}
        _reload(doorman)
        holder.run("commit")
        refused = waiter.settle() if not waiter.closed else []
        assert "E" in [reply.kind for reply in refused], "its pool was closed while it waited"
    with doorman.connect("app", "bob") as client:
        assert client.value("select 2") == "2"
    wait_until(
        lambda: sorted(r["user"] or "" for r in doorman.show("pools")) == ["alice", "bob"], 10, "the old ones' end"
    )


def _sent(doorman: Doorman) -> int:
    return sum(int(row["total_sent"] or 0) for row in doorman.show("stats"))


def test_who_leaves_gets_its_whole_answer_first(doorman: Doorman) -> None:
    """A large result that the client has not taken yet, at the end of its last transaction."""
    with doorman.connect("app", "alice", patience=30) as client:
        client.run("begin")
        before = _sent(doorman)
        client.send(query("select repeat('x', 1000) from generate_series(1, 40000); commit"))
        wait_until(lambda: _sent(doorman) > before + 1_000_000, 10, "the result to come")
        del doorman.pools["app"]["users"][0]
        _reload(doorman)
        replies = client.wait_closed(30)
        assert sum(reply.kind == "D" for reply in replies) == 40_000
        assert [reply.kind for reply in replies[-2:]] == ["Z", "E"]
        assert replies[-1].fields()["C"] == "57P01"


def test_new_pools_of_a_paused_house_are_paused(doorman: Doorman) -> None:
    with doorman.admin() as admin:
        admin.run("pause")
        doorman.pools["more"] = {**doorman.pools["app"], "server_database": "app"}
        _reload(doorman)
        assert {row["paused"] for row in doorman.show("pools")} == {"1"}
        admin.run("resume")
        with doorman.connect("more", "alice") as client:
            assert client.value("select 1") == "1"


def test_one_database_of_a_paused_house_is_resumed(doorman: Doorman) -> None:
    doorman.pools["more"] = {**doorman.pools["app"], "server_database": "app"}
    _reload(doorman)
    with doorman.admin() as admin, doorman.connect("app", "alice") as waiting:
        admin.run("pause")
        admin.run("resume more")
        assert {(row["database"], row["paused"]) for row in doorman.show("pools")} == {("app", "1"), ("more", "0")}
        with doorman.connect("pgbouncer", ADMIN_USER, ADMIN_PASSWORD) as console:
            shown = {row["name"]: row["paused"] for row in table(console, "show databases")}
            assert (shown["app"], shown["more"]) == ("1", "0")
            state = {row["key"]: row["value"] for row in table(console, "show state")}
            assert state["paused"] == "no", "not everything is"
        with doorman.connect("more", "alice") as client:
            assert client.value("select 1") == "1"
        waiting.send(query("select 2"))
        wait_until(lambda: {row["cl_waiting"] for row in doorman.show("pools")} == {"0", "1"}, 10, "it to wait")
        # A pool that comes now belongs to what is paused; a new one of a database keeps what was said of that.
        doorman.pools["third"] = {**doorman.pools["app"], "server_database": "app"}
        doorman.pools["more"]["users"] = [user("alice"), user("bob")]
        _reload(doorman)
        paused = {(row["database"], row["paused"]) for row in doorman.show("pools")}
        assert paused == {("app", "1"), ("more", "0"), ("third", "1")}
        admin.run("resume")
        assert [reply.kind for reply in waiting.receive_until("Z")] == ["T", "D", "C", "Z"]


# Bad files.


BAD: dict[str, Callable[[Doorman], None]] = {
    "a wrong value": lambda doorman: doorman.general.update(idle_timeout="soon"),
    "a key that does not exist": lambda doorman: doorman.general.update(idle_timeut="1s"),
    "a rule that cannot be read": lambda doorman: doorman.general.update(
        pg_hba={"content": "host all all nowhere/99 trust"}
    ),
    "two users of one name": lambda doorman: doorman.pools["app"]["users"].append(user("alice")),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_file_changes_nothing_and_is_complained_of(doorman: Doorman, what: str) -> None:
    with doorman.connect("app", "alice") as client:
        process = _server_process(client)
        before = doorman.show("config"), doorman.show("databases")
        good = copy.deepcopy((doorman.general, doorman.pools))
        doorman.pools["app"]["users"][1]["pool_size"] = 7
        BAD[what](doorman)
        with pytest.raises(ServerError) as refused:
            _reload(doorman)
        assert "pgdoorman" in str(refused.value)
        said = doorman.log().count("reload failed, nothing was changed")
        doorman.reload()
        wait_until(lambda: doorman.log().count("reload failed, nothing was changed") > said, 10, "the log to say so")
        assert (doorman.show("config"), doorman.show("databases")) == before
        assert _server_process(client) == process
        doorman.general, doorman.pools = good
        _reload(doorman)
        assert (doorman.show("config"), doorman.show("databases")) == before


def test_every_error_of_a_file_is_told_with_its_place(doorman: Doorman) -> None:
    doorman.general.update(idle_timeout="soon", max_connections=0)
    doorman.pools["app"]["users"][0]["pool_size"] = -1
    with pytest.raises(ServerError) as refused:
        _reload(doorman)
    told = str(refused.value.fields)
    for key in ("general.idle_timeout", "general.max_connections", "pools.app.users[0].pool_size"):
        assert key in told
    assert f"{doorman.config_file}:" in told


def test_a_file_that_is_gone(doorman: Doorman) -> None:
    doorman.config_file.unlink()
    with doorman.admin() as admin, pytest.raises(ServerError, match="cannot be read"):
        admin.run("reload")
    with doorman.connect("app", "alice") as client:
        assert client.value("select 1") == "1"


def test_what_needs_a_restart_is_named_each_time_and_not_shown_as_in_force(doorman: Doorman) -> None:
    doorman.general["worker_threads"] = 3
    for _ in range(2):
        with doorman.admin() as admin:
            doorman.write_config()
            notices = [reply for reply in admin.ask(query("reload")) if reply.kind == "N"]
        assert any("worker_threads" in str(notice.fields()) for notice in notices)
    values = {row["key"]: row["value"] for row in doorman.show("config")}
    assert values["worker_threads"] == "2"


# The storm.

RELOADS = 200
CLIENTS = 100
STEADY = [f"steady{number}" for number in range(4)]
# What a client may hear when its pool is taken away or is not there: announced by the change itself.
ANNOUNCED = {"57P01", "3D000", "28P01", "28000"}


class Guest(threading.Thread):
    """A client that runs transactions until it is told to stop. One of a volatile pool comes back after each farewell."""

    def __init__(self, doorman: Doorman, number: int, stop: threading.Event) -> None:
        super().__init__(name=f"guest {number}")
        self.doorman = doorman
        self.number = number
        self.stop = stop
        self.steady = number % 2 == 0
        self.random = random.Random(number)
        self.done = 0
        self.farewells = 0
        self.trouble = ""

    def run(self) -> None:
        try:
            while not self.stop.is_set():
                self._visit()
        except (WireError, ServerError, AssertionError, OSError) as error:
            self.trouble = f"{self.name}: {type(error).__name__}: {error}"

    def _visit(self) -> None:
        name = self.random.choice(STEADY) if self.steady else self.random.choice(["coming", "going", "renamed"])
        who = "alice" if self.steady else self.random.choice(["alice", "bob", "guest"])
        try:
            with self.doorman.connect(name, who, patience=60) as wire:
                while not self.stop.is_set():
                    self._transact(wire)
        except ServerError as error:
            if self.steady or error.sqlstate not in ANNOUNCED:
                raise
            self._go(0.05)
        except HungUp as error:
            # Between two transactions: the FATAL came before our next query, or crossed it.
            codes = {reply.fields().get("C") for reply in error.replies if reply.kind == "E"}
            if self.steady or not codes <= ANNOUNCED:
                raise
            self._go(0.02)

    def _go(self, pause: float) -> None:
        self.farewells += 1
        self.stop.wait(pause)

    def _transact(self, wire: Wire) -> None:
        tag = f"{self.number}-{self.done}"
        if self.random.random() < 0.5:
            assert wire.value(f"select '{tag}'") == tag
        else:
            wire.run("begin")
            assert wire.value(f"select '{tag}'") == tag
            wire.run("commit")
        self.done += 1
        self.stop.wait(self.random.random() * 0.1)


class Owner:
    """Changes the configuration at random, but within what the clients were told."""

    def __init__(self, server: Postgres, seed: int) -> None:
        self.random = random.Random(seed)
        self.server = server
        self.pools: dict[str, Settings] = {name: self._pool("alice") for name in STEADY}
        self.general: Settings = {}

    def _pool(self, *names: str) -> Settings:
        users = [user(name, pool_size=3, server_username="alice") for name in names]
        return pool(self.server, *users, server_database="app")

    def change(self) -> str:
        """Makes one change; says what."""
        kinds = [self.resize, self.come, self.go, self.rename, self.guest, self.limits, self.reopen, self.mode]
        return self.random.choice(kinds)()

    def resize(self) -> str:
        name = self.random.choice(list(self.pools))
        for entry in self.pools[name]["users"]:
            entry["pool_size"] = self.random.randint(1, 6)
        return f"resize {name}"

    def come(self) -> str:
        for name in ("coming", "going"):
            self.pools.setdefault(name, self._pool("alice", "bob"))
        return "come"

    def go(self) -> str:
        self.pools.pop(self.random.choice(["coming", "going", "renamed"]), None)
        return "go"

    def rename(self) -> str:
        for old, new in (("going", "renamed"), ("renamed", "going")):
            if old in self.pools:
                self.pools[new] = self.pools.pop(old)
                return f"rename {old} to {new}"
        return "nothing to rename"

    def guest(self) -> str:
        for name in ("coming", "going", "renamed"):
            users = self.pools.get(name, {}).get("users", [])
            names = [entry["username"] for entry in users]
            if "guest" in names:
                users.pop(names.index("guest"))
            elif users:
                users.append(user("guest", pool_size=2, server_username="alice"))
        return "guests come or go"

    def limits(self) -> str:
        self.general["server_lifetime"] = self.random.choice(["1s", "10m", "0"])
        self.general["idle_timeout"] = self.random.choice(["500ms", "10m"])
        self.general["query_wait_timeout"] = self.random.choice(["50s", "60s"])
        return "limits"

    def reopen(self) -> str:
        name = self.random.choice(list(self.pools))
        self.pools[name]["application_name"] = f"name {self.random.randint(1, 9)}"
        return f"reopen {name}"

    def mode(self) -> str:
        name = self.random.choice(list(self.pools))
        self.pools[name]["max_concurrent_creates"] = self.random.randint(1, 8)
        self.pools[name]["server_round_robin"] = self.random.random() < 0.5
        return f"manners of {name}"


def _threads(doorman: Doorman) -> int:
    return len(list(Path(f"/proc/{doorman.process.process_id}/task").iterdir()))


@pytest.fixture
def guests() -> Iterator[list[Guest]]:
    found: list[Guest] = []
    yield found
    for guest in found:
        guest.stop.set()
    for guest in found:
        guest.join(60)


@pytest.mark.slow
def test_a_storm_of_reloads(start_doorman: StartDoorman, postgres: Postgres, guests: list[Guest]) -> None:
    owner = Owner(postgres, seed=2026)
    general: dict[str, Any] = {
        "log_client_connections": False,
        "log_client_disconnections": False,
        "query_wait_timeout": "60s",
        "retain_connections_time": "500ms",
        "retain_connections_max": 0,
    }
    doorman = start_doorman(pools=owner.pools, general=general)
    for name in STEADY:
        with doorman.connect(name, "alice") as wire:
            wire.value("select 1")
    stop = threading.Event()
    guests += [Guest(doorman, number, stop) for number in range(CLIENTS)]
    for guest in guests:
        guest.start()
    history: list[str] = []
    resident = 0
    enough = time.monotonic() + 20
    with doorman.admin(patience=60) as admin:
        for number in range(RELOADS):
            history.append(owner.change())
            doorman.pools = owner.pools
            doorman.general = {**doorman.general, **owner.general}
            if number % 20 == 10:
                _be_refused(doorman, admin)
            doorman.write_config()
            admin.run("reload")
            if number == RELOADS // 4:
                resident = doorman.resident_bytes()
            assert not [guest.trouble for guest in guests if guest.trouble], history[-10:]
            if number >= RELOADS // 3 and time.monotonic() > enough:
                break  # a busy machine: it has seen enough of it
    stop.set()
    for guest in guests:
        guest.join(60)
    assert not [guest.trouble for guest in guests if guest.trouble]
    assert min(guest.done for guest in guests if guest.steady) > 0, "everybody was served"
    assert sum(guest.farewells for guest in guests) > 0, "and some were sent away"
    _nothing_is_left(doorman, owner, resident)


def _be_refused(doorman: Doorman, admin: Wire) -> None:
    doorman.config_file.write_text("this is no file\n")
    with pytest.raises(ServerError):
        admin.run("reload")
    doorman.process.send_signal(signal.SIGHUP)


def _nothing_is_left(doorman: Doorman, owner: Owner, resident: int) -> None:
    doorman.check_alive()
    wanted = sorted((name, entry["username"]) for name, one in owner.pools.items() for entry in one["users"])

    def pools() -> list[tuple[str | None, str | None]]:
        return sorted((row["database"], row["user"]) for row in doorman.show("pools"))

    wait_until(lambda: pools() == wanted, 20, "the pools to be those of the file")
    wait_until(lambda: len(doorman.show("clients")) == 1, 20, "the clients to be gone")
    with doorman.admin() as admin:
        backends = len(table(admin, "show servers"))
        # Listeners, pollers, eventfds, the log, this console; nothing for each client that was.
        assert doorman.descriptor_count() <= backends + 30
    # The main thread, workers, helpers of all kinds up to their bounds: nothing that grows with reloads.
    assert _threads(doorman) <= 40
    assert doorman.resident_bytes() - resident < 48 * 1024 * 1024, "memory grows"
    assert "unexpected" not in doorman.log()
    assert "Traceback" not in doorman.log()
