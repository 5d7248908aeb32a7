"""One measurement of one target: a pgbench run, a crowd of idle clients, or streams of large results."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from bench.macro import pgbench
from bench.macro.families import Family
from bench.macro.figures import Latency
from bench.macro.pgbench import Load, Progress
from bench.macro.poolers import Target
from bench.macro.processes import ProcessGone, Usage, busy_seconds, family_of, resident_bytes, usage
from bench.macro.wire import Connection, WireError, copy_data

STREAM_BUFFER = 256 * 1024
MEMORY_POLL_SECONDS = 0.05
LATE_SECONDS = 0.3
REST_SECONDS = 0.2
AT_REST = 0.1  # of one CPU; at 0.2 s and ticks of 10 ms less cannot be told
COPY_BLOCKS = 160
COPY_BLOCK = copy_data(b"x" * 1000 + b"\n", 64)
STREAMS = {
    "rows": "select payload from bench_rows",
    "wide-rows": "select payload from bench_wide",
    "copy-out": "copy bench_rows to stdout",
    # The condition is never true, so rows are received and parsed but not stored: what grows is not the table.
    "copy-in": "copy bench_sink from stdin where payload is null",
}


@dataclass(frozen=True, slots=True)
class PerTransaction:
    """A pooler's own costs in the steady part of a run: `user` and `system` in microseconds of CPU, the rest counts,
    each per transaction."""

    user: float
    system: float
    voluntary: float
    involuntary: float

    @property
    def cpu(self) -> float:
        """Microseconds, user plus system."""
        return self.user + self.system


@dataclass(frozen=True, slots=True)
class LoadResult:
    """One pgbench run. `resident` is the pooler's peak in bytes; `foreign` the share of the CPUs' time that went to
    programs that have nothing to do with the benchmark, None if it cannot be told."""

    tps: float
    transactions: int
    latency: Latency | None
    own: PerTransaction | None
    resident: int | None
    threads: int | None
    foreign: float | None


@dataclass(frozen=True, slots=True)
class IdleResult:
    """Resident memory of a pooler with a crowd of idle clients, bytes per client above what it had before them."""

    clients: int
    before: int
    logged_in: float
    after_query: float
    fresh: bool


@dataclass(frozen=True, slots=True)
class StreamResult:
    """Bytes on the client's side per second, in MB (10^6); `cpu` the pooler's milliseconds per MB; memory in bytes."""

    rate: float
    megabytes: float
    cpu: float | None
    resident_before: int | None
    resident_peak: int | None
    foreign: float | None


@dataclass(frozen=True, slots=True)
class CpuClock:
    """A moment: seconds of wall time, of all programs' CPU time, and of CPU time that the benchmark's programs used."""

    wall: float
    everybody: float
    ours: float


@dataclass(frozen=True, slots=True)
class Bystanders:
    """The processes beside the pooler whose CPU time is the benchmark's own, and the CPUs they run on."""

    postgres: int | None
    cpus: frozenset[int]

    def sample(self, target: Target) -> CpuClock:
        """Now; the pooler, PostgreSQL and this process with its children are the benchmark's."""
        ours = sum(usage(pid).cpu for pid in (target.pid, self.postgres) if pid)
        return CpuClock(time.monotonic(), busy_seconds(self.cpus), ours + _own_seconds())

    def foreign(self, start: CpuClock, end: CpuClock) -> float | None:
        """The share of the CPUs' time between two moments that other programs took; None if PostgreSQL's is unknown."""
        if not self.postgres:
            return None
        others = (end.everybody - start.everybody) - (end.ours - start.ours)
        return max(0.0, others) / ((end.wall - start.wall) * len(self.cpus))


def _own_seconds() -> float:
    own = os.times()
    return own.user + own.system + own.children_user + own.children_system


def steady_costs(progress: list[Progress], samples: list[Usage], seconds: int) -> PerTransaction | None:
    """Costs per transaction between the first and the last progress line within a run of `seconds`; None if there are
    not two.

    The time that counts is that of the samples. One that was taken late, because nobody let us run, is left out, and so
    is the line at the end of the run: behind it there is no load any more, and being late would count for nothing.
    """
    timely = [
        (line, sample)
        for line, sample in zip(progress, samples, strict=True)
        if sample.at - line.at < LATE_SECONDS and line.elapsed < seconds - LATE_SECONDS
    ]
    if len(timely) < 2:
        return None
    begin, end = timely[0][1], timely[-1][1]
    transactions = sum(line.tps * (sample.at - before.at) for (_, before), (line, sample) in pairwise(timely))
    if not transactions:
        return None
    return PerTransaction(
        (end.user - begin.user) * 1e6 / transactions,
        (end.system - begin.system) * 1e6 / transactions,
        (end.voluntary - begin.voluntary) / transactions,
        (end.involuntary - begin.involuntary) / transactions,
    )


def wait_until_idle(target: Target, at_most: float) -> None:
    """Return when the target has come to rest: what it does after its clients have gone is not to be charged to, or to
    disturb, what is measured next. `at_most` seconds; raises ProcessGone."""
    if target.pid is None:
        return
    deadline = time.monotonic() + at_most
    before = usage(target.pid).cpu
    while time.monotonic() < deadline:
        time.sleep(REST_SECONDS)
        now = usage(target.pid).cpu
        if now - before <= REST_SECONDS * AT_REST:
            return
        before = now


def load(program: Path, target: Target, work: Load, scratch: Path, beside: Bystanders) -> LoadResult:
    """Run pgbench once. Raises PgbenchFailed or ProcessGone."""
    progress: list[Progress] = []
    samples: list[Usage] = []

    members = family_of(target.pid) if target.pid else ()

    def on_progress(line: Progress) -> None:
        progress.append(line)
        if target.pid:
            samples.append(usage(target.pid, members))

    start = beside.sample(target)
    report = pgbench.run(program, target.address, work, scratch, on_progress)
    end = beside.sample(target)
    return LoadResult(
        report.summary.tps,
        report.summary.transactions,
        Latency.of(report.milliseconds),
        steady_costs(progress, samples, work.seconds) if samples else None,
        max(sample.resident for sample in samples) if samples else None,
        samples[-1].threads if samples else None,
        beside.foreign(start, end),
    )


def idle(target: Target, clients: int, tls: bool) -> IdleResult:
    """Log clients in, look at the memory, let each run one query, look again.

    Raises WireError, OSError, ProcessGone.
    """
    if target.pid is None:
        raise WireError("no process to look at")
    # One client first: what the first login costs once (pages of code, a backend) is no cost per client.
    with Connection(target.address, tls=tls) as first:
        first.value("select 1")
    before = resident_bytes(target.pid)
    with ExitStack() as stack:
        crowd = [stack.enter_context(Connection(target.address, tls=tls)) for _ in range(clients)]
        logged_in = resident_bytes(target.pid)
        for member in crowd:
            member.value("select 1")
        after = resident_bytes(target.pid)
    return IdleResult(clients, before, (logged_in - before) / clients, (after - before) / clients, target.fresh)


@contextmanager
def _peak_memory(pid: int | None) -> Iterator[list[int]]:
    """Resident bytes of a process, polled by a thread while the block runs."""
    seen: list[int] = []
    done = threading.Event()

    def watch() -> None:
        assert pid is not None
        with suppress(ProcessGone):
            while not done.wait(MEMORY_POLL_SECONDS):
                seen.append(resident_bytes(pid))

    thread = threading.Thread(target=watch, daemon=True)
    if pid is not None:
        seen.append(resident_bytes(pid))
        thread.start()
    try:
        yield seen
    finally:
        done.set()
        if pid is not None:
            thread.join()


def _one_stream(family: Family, connection: Connection) -> Callable[[], int]:
    sql = STREAMS[family.name]
    if family.name == "copy-in":
        return lambda: connection.copy_in(sql, COPY_BLOCK, COPY_BLOCKS)
    buffer = bytearray(STREAM_BUFFER)
    return lambda: connection.drain(sql, buffer)


def stream(target: Target, family: Family, streams: int, seconds: int, beside: Bystanders) -> StreamResult:
    """Keep `streams` connections busy with large results for some seconds, after one unmeasured turn each.

    Raises WireError, OSError, ProcessGone.
    """
    with ExitStack() as stack:
        turns = [_one_stream(family, stack.enter_context(Connection(target.address))) for _ in range(streams)]
        for turn in turns:
            turn()
        moved = [0] * streams
        errors: list[Exception] = []
        deadline = time.monotonic() + seconds

        def keep_busy(number: int) -> None:
            try:
                while time.monotonic() < deadline:
                    moved[number] += turns[number]()
            except (OSError, WireError) as error:
                errors.append(error)

        threads = [threading.Thread(target=keep_busy, args=(number,)) for number in range(streams)]
        with _peak_memory(target.pid) as memory:
            used = usage(target.pid).cpu if target.pid else 0.0
            start = beside.sample(target)
            began = time.monotonic()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            elapsed = time.monotonic() - began
            spent = usage(target.pid).cpu - used if target.pid else None
            foreign = beside.foreign(start, beside.sample(target))
        if errors:
            raise errors[0]
    megabytes = sum(moved) / 1e6
    return StreamResult(
        megabytes / elapsed,
        megabytes,
        spent * 1000 / megabytes if spent is not None else None,
        memory[0] if memory else None,
        max(memory) if memory else None,
        foreign,
    )
