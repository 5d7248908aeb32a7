"""Metrics and probes of a whole pooler: while it serves, while its pools are full or paused, while it goes down."""

import signal
import socket
import threading
import time
from http.client import HTTPConnection
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.conftest import StartDoorman
from tests.support.doorman import Doorman, pool, user
from tests.support.postgres import Postgres
from tests.support.process import DidNotStart, free_port, wait_until
from tests.support.wire import Wire, bind, query, sync
from tests.unit.config.test_examples import health_check

Asked = tuple[int, str]


class Metered:
    """A pooler with a web listener."""

    def __init__(self, start: StartDoorman, postgres: Postgres, **web: object) -> None:
        self.port = free_port()
        self.doorman: Doorman = start(
            pools={"app": pool(postgres, user("alice", pool_size=2), user("bob", pool_size=1))},
            sections={"web": {"enabled": True, "host": "127.0.0.1", "port": self.port, **web}},
        )

    def get(self, path: str) -> Asked:
        """Status and body. Raises OSError."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def value(self, name: str, **labels: str) -> float:
        """One sample of /metrics. Raises LookupError."""
        status, text = self.get("/metrics")
        assert status == 200
        found = [
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == f"pg_doorman_{name}" and labels.items() <= sample.labels.items()
        ]
        if len(found) != 1:
            raise LookupError(f"{len(found)} samples of {name} {labels}")
        return found[0]


@pytest.fixture
def metered(start_doorman: StartDoorman, postgres: Postgres) -> Metered:
    return Metered(start_doorman, postgres)


ALICE = {"user": "alice", "database": "app"}


def test_numbers_are_those_of_the_work(metered: Metered) -> None:
    with metered.doorman.connect("app", "alice") as client, metered.doorman.connect("app", "alice") as other:
        for _ in range(5):
            client.value("select 1")
        assert [reply.kind for reply in client.ask(query("select 1/0"))] == ["E", "Z"]
        client.ask(bind("", "never parsed"), sync())
        client.ask(query("begin; select 1/0"))
        client.ask(query("select 1"))
        client.ask(query("rollback"))
        client.ask(query("begin"))
        client.value("select 2")
        assert metered.value("pools_clients", status="active", **ALICE) == 1
        assert metered.value("pools_clients", status="idle", **ALICE) == 1
        assert metered.value("pools_servers", status="active", **ALICE) == 1
        client.ask(query("commit"))
        other.value("select 3")
    wait_until(lambda: metered.value("pools_clients", status="idle", **ALICE) == 0, 10, "the clients to be gone")
    rows = {row["user"]: row for row in metered.doorman.show("stats")}
    assert metered.value("pools_queries_total", **ALICE) == int(rows["alice"]["total_query_count"] or 0) >= 8
    assert metered.value("pools_transactions_total", **ALICE) == 10
    errors = {kind: metered.value("pools_errors_total", sqlstate=kind, **ALICE) for kind in ("other", "26000", "25P02")}
    assert errors == {"other": 2, "26000": 1, "25P02": 1}
    assert int(rows["alice"]["total_errors"] or 0) == 4
    assert metered.value("pools_logins_total", **ALICE) == 2
    assert metered.value("pools_bytes_total", direction="sent", **ALICE) > 100
    assert metered.value("pools_query_duration_seconds_count", **ALICE) == metered.value("pools_queries_total", **ALICE)
    assert metered.value("pools_query_duration_seconds_sum", **ALICE) > 0
    assert metered.value("pools_transaction_duration_seconds_bucket", le="+Inf", **ALICE) == 10
    assert metered.value("pools_queries_total", user="bob", database="app") == 0
    assert metered.value("connections_total", type="plain") >= 3
    assert metered.value("total_memory") > 10_000_000


def test_a_full_pool_answers_with_who_waits(metered: Metered) -> None:
    with metered.doorman.connect("app", "bob") as holder, metered.doorman.connect("app", "bob") as waiter:
        holder.run("begin")
        holder.value("select 1")
        waiter.send(query("select 2"))
        wait_until(lambda: metered.value("pools_clients", status="waiting", user="bob") == 1, 10, "the waiter to wait")
        assert metered.value("pools_maxwait_microseconds", user="bob") >= 0
        assert metered.get("/readyz")[0] == 200
        holder.run("commit")
        assert waiter.settle()[-1].kind == "Z"
    assert metered.value("pools_wait_duration_seconds_count", user="bob") >= 1


def test_a_paused_house_is_ready(metered: Metered) -> None:
    with metered.doorman.admin() as admin:
        admin.ask(query("pause"))
        assert metered.value("pools_paused", **ALICE) == 1
        assert metered.get("/readyz") == (200, "ready\n")
        admin.ask(query("resume"))
    assert metered.value("pools_paused", **ALICE) == 0


def test_a_house_that_goes_down_is_not_ready_but_alive_and_scraped(metered: Metered) -> None:
    client = metered.doorman.connect("app", "alice")
    client.run("begin")
    client.value("select 1")
    assert metered.get("/readyz") == (200, "ready\n")
    metered.doorman.process.send_signal(signal.SIGTERM)
    wait_until(lambda: metered.get("/readyz") == (503, "draining\n"), 10, "the house to go down")
    assert metered.get("/livez") == (200, "alive\n")
    assert metered.value("shutdown_in_progress") == 1
    assert metered.value("pools_clients", status="active", **ALICE) == 1
    client.run("commit")
    client.hang_up()
    wait_until(lambda: not metered.doorman.is_running, 20, "its end")
    with pytest.raises(OSError, match="refused"):
        metered.get("/livez")


def test_scrapes_do_not_disturb_clients(metered: Metered) -> None:
    """Scrapers as fast as they can, slow ones among them, beside clients: every answer is right, all get on."""
    stop = threading.Event()
    clients: list[Wire] = []
    accidents: list[BaseException] = []
    scraped: list[int] = []

    def scrape() -> None:
        try:
            while not stop.is_set():
                scraped.append(metered.get("/metrics")[0])
        except BaseException as error:  # noqa: BLE001 - reported by the test
            accidents.append(error)

    slow = [socket.create_connection(("127.0.0.1", metered.port), timeout=20) for _ in range(2)]
    threads = [threading.Thread(target=scrape) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        clients += [metered.doorman.connect("app", "alice") for _ in range(4)]
        until, rounds = time.monotonic() + 2.0, 0
        while time.monotonic() < until:
            for number, client in enumerate(clients):
                assert client.value(f"select {number}") == str(number)
            rounds += 1
        assert rounds > 5
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
        for peer in slow:
            peer.close()
        for client in clients:
            client.hang_up()
    assert not accidents
    assert set(scraped) == {200}
    assert "unexpected" not in metered.doorman.log()


def test_a_scrape_leaves_nothing_behind(metered: Metered) -> None:
    metered.get("/metrics")
    base = metered.doorman.descriptor_count()
    for _ in range(50):
        metered.get("/metrics")
    metered.doorman.wait_descriptors(base)


def test_a_port_that_is_taken_ends_the_start(workspace: Path, postgres: Postgres) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        doorman = Doorman(
            workspace / "taken",
            pools={"app": pool(postgres, user("alice"))},
            sections={"web": {"enabled": True, "host": "127.0.0.1", "port": port}},
        )
        with pytest.raises(DidNotStart, match=f"cannot listen on 127.0.0.1:{port}"):
            doorman.start()
        doorman.kill()


def test_nothing_listens_unless_asked(doorman: Doorman) -> None:
    assert "metrics and probes" not in doorman.log()


# The image's health check is about the same question, asked without [web].


def test_the_image_s_health_check(doorman: Doorman) -> None:
    assert health_check(doorman.port) == 0
    doorman.stop()
    assert health_check(doorman.port) != 0


def test_it_finds_one_that_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert health_check(silent.getsockname()[1]) != 0
