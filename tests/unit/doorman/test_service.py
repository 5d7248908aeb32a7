"""The beat of the watchdog and the line of a pool."""

import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pgdoorman.doorman import service
from pgdoorman.doorman.service import Service, pool_line
from pgdoorman.pool.pool import Pool
from pgdoorman.runtime.systemd import ServiceManager
from pgdoorman.runtime.worker import Worker
from pgdoorman.stats.rows import Percentiles, Traffic, TrafficReport
from tests.support.process import wait_until

REPORT = TrafficReport(
    recent=Traffic(assignments=30, transactions=60, queries=150, wait_time=30_000),
    recent_seconds=15.0,
    queries=Percentiles(p50=250, p90=1000, p95=2000, p99=12345),
)


def _pool(name: str, *, clients: int = 0, report: TrafficReport = REPORT) -> Pool:
    counts = SimpleNamespace(waiting=2, leased=3, idle=1)
    settings = SimpleNamespace(pool_size=7)
    found: Any = SimpleNamespace(
        user="shop",
        database=name,
        clients=clients,
        settings=settings,
        statistics=lambda: counts,
        traffic=lambda: report,
    )
    return cast("Pool", found)


def test_the_line_of_a_pool() -> None:
    assert pool_line(_pool("db", clients=5), REPORT) == (
        "[shop@db] qps=10 tps=4 | clients=5 waiting=2 | servers active=3 idle=1 of 7 "
        "| query_ms p50=0.25 p90=1.00 p95=2.00 p99=12.35 | xact_ms p50=0.00 p90=0.00 p95=0.00 p99=0.00 "
        "| wait_ms p50=0.00 p90=0.00 p95=0.00 p99=0.00 | avg_wait=1.00ms"
    )


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[tuple[socket.socket, ServiceManager]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(30)
        yield sock, ServiceManager({"NOTIFY_SOCKET": sock.getsockname(), "WATCHDOG_USEC": "2000000"})


def test_a_period_is_logged_and_told(
    manager: tuple[socket.socket, ServiceManager], caplog: pytest.LogCaptureFixture
) -> None:
    sock, told = manager
    pools = [_pool("used", clients=1), _pool("asleep", report=TrafficReport())]
    with caplog.at_level(logging.INFO, logger="pgdoorman"):
        Service(told, []).end_period(pools, log_stats=False)
        assert caplog.messages == []
        Service(told, []).end_period(pools, log_stats=True)
    assert len(caplog.messages) == 1, "not of a pool that nobody uses"
    assert caplog.messages[0].startswith("[shop@used] qps=10")
    assert sock.recv(4096).decode().startswith("STATUS=1 clients, 4 xacts/s, 10 queries/s")


def test_the_watchdog_hears_nothing_while_one_worker_hangs(
    manager: tuple[socket.socket, ServiceManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    sock, told = manager
    now = 1000.0
    monkeypatch.setattr(service, "monotonic", lambda: now)
    workers = [Worker("well", 0), Worker("hanging", 1)]
    for worker in workers:
        worker.start()
    hang = Event()
    try:
        beat = Service(told, workers)
        beat.watch()
        assert sock.recv(100) == b"WATCHDOG=1"
        beat.watch()  # not before half of its time has passed
        wait_until(lambda: len(beat._answered) == 2, 30, "both answer")
        now += 1.0
        workers[1].post(hang.wait)
        beat.watch()
        assert sock.recv(100) == b"WATCHDOG=1", "when this was asked for both were well"
        wait_until(lambda: beat._answered == {workers[0]}, 30, "one answers")
        for _ in range(5):
            now += 1.0
            beat.watch()
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(100)
        sock.settimeout(30)
        hang.set()
        wait_until(lambda: len(beat._answered) == 2, 30, "it comes back")
        beat.watch()
        assert sock.recv(100) == b"WATCHDOG=1"
    finally:
        hang.set()
        for worker in workers:
            worker.stop()
            worker.join(30)


def test_without_a_manager_nothing_is_posted() -> None:
    worker = Worker("idle", 0)
    Service(ServiceManager({}), [worker]).watch()
    assert worker.inbox.close() == []
    worker.poller.close()
    assert os.environ.get("NOTIFY_SOCKET") is None
