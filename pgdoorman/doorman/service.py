"""What the house owes to whoever runs it: word to the service manager, the watchdog, a log line per pool and period,
names of threads in the process list."""

import logging
import threading
from collections.abc import Sequence
from functools import partial
from time import monotonic

from pgdoorman.pool.pool import Pool
from pgdoorman.runtime.process import name_threads
from pgdoorman.runtime.systemd import ServiceManager
from pgdoorman.runtime.worker import Worker
from pgdoorman.stats.rows import Averages, Percentiles, TrafficReport, averages

log = logging.getLogger(__name__)

PROCESS_NAME = "pgdoorman"


class Service:
    """The conversation with the service manager, held by the janitor and by whoever reloads or stops."""

    def __init__(self, manager: ServiceManager, workers: Sequence[Worker]) -> None:
        self.manager = manager
        self._workers = workers
        self._answered: set[Worker] = set()
        self._asked_at = 0.0
        self._period = manager.watchdog / 2

    def begin(self, status: str) -> None:
        """The doors are open."""
        name_threads(threading.enumerate(), PROCESS_NAME)
        self.manager.ready(status)

    def watch(self) -> None:
        """The watchdog's beat: told only when every worker has taken a call since the last one, so that a worker that
        hangs ends the process however lively the other threads are. Called often, does something twice per period."""
        if not self._period:
            return
        now = monotonic()
        if now - self._asked_at < self._period:
            return
        if self._asked_at and len(self._answered) < len(self._workers):
            return  # no word until the last one has answered
        self.manager.alive()
        self._asked_at = now
        self._answered = answered = set[Worker]()
        for worker in self._workers:
            worker.post(partial(answered.add, worker))

    def end_period(self, pools: Sequence[Pool], *, log_stats: bool) -> None:
        """A statistics period is over."""
        name_threads(threading.enumerate(), PROCESS_NAME)
        reports = [(pool, pool.traffic()) for pool in pools]
        if log_stats:
            for pool, report in reports:
                if pool.clients or report.recent.assignments or report.recent.logins:
                    log.info("%s", pool_line(pool, report))
        if self.manager.is_there:
            together = averages(report for _, report in reports)
            self.manager.status(status_line(sum(pool.clients for pool in pools), together))


def status_line(clients: int, together: Averages) -> str:
    """What `systemctl status` shows."""
    return (
        f"{clients} clients, {together.transactions:.0f} xacts/s, {together.queries:.0f} queries/s, "
        f"xact {together.transaction_time / 1000:.2f} ms, query {together.query_time / 1000:.2f} ms, "
        f"wait {together.wait_time / 1000:.2f} ms"
    )


def pool_line(pool: Pool, report: TrafficReport) -> str:
    """One pool's period, with the words of PgDoorman's line."""
    now = averages([report])
    statistics = pool.statistics()
    return (
        f"[{pool.user}@{pool.database}] qps={now.queries:.0f} tps={now.transactions:.0f} "
        f"| clients={pool.clients} waiting={statistics.waiting} "
        f"| servers active={statistics.leased} idle={statistics.idle} of {pool.settings.pool_size} "
        f"| query_ms {_percentiles(report.queries)} | xact_ms {_percentiles(report.transactions)} "
        f"| wait_ms {_percentiles(report.waits)} | avg_wait={now.wait_time / 1000:.2f}ms"
    )


def _percentiles(found: Percentiles) -> str:
    parts = (("p50", found.p50), ("p90", found.p90), ("p95", found.p95), ("p99", found.p99))
    return " ".join(f"{name}={value / 1000:.2f}" for name, value in parts)
