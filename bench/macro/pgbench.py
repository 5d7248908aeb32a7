"""One run of pgbench: start it, follow its progress, read what it reports and logs.

pgbench runs with one thread (-j1), the same script for everybody, and logs a sample of its transactions: one line of
about 40 bytes for every fifth of them (for all of them where connections are made, which is an order of magnitude
slower anyway). Its progress line, once a second, is the clock by which a pooler's CPU time is read: the log-in of the
clients and the first second after it are thus left out of the CPU figures.
"""

import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.macro.families import Family
from bench.macro.options import Address

SCRIPT = "\\set aid random(1,100000)\nselect :aid;\n"
GRACE_SECONDS = 90.0
_PROGRESS = re.compile(r"^progress: ([0-9.]+) s, ([0-9.]+) tps")
_TPS = re.compile(r"^tps = ([0-9.]+)", re.MULTILINE)
_PROCESSED = re.compile(r"^number of transactions actually processed: ([0-9]+)", re.MULTILINE)
_FAILED = re.compile(r"^number of failed transactions: ([0-9]+)", re.MULTILINE)


class PgbenchFailed(Exception):
    """pgbench did not finish, or transactions failed; the text says what it said."""


@dataclass(frozen=True, slots=True)
class Summary:
    """pgbench's own closing words. `tps` leaves out the first connecting, except where every transaction connects."""

    tps: float
    transactions: int


@dataclass(frozen=True, slots=True)
class Progress:
    """One progress line: when it arrived (monotonic seconds), what it says of the time since the beginning, and the
    rate since the line before."""

    at: float
    elapsed: float
    tps: float


@dataclass(frozen=True, slots=True)
class Report:
    """A finished run. `milliseconds` are the sampled latencies."""

    summary: Summary
    milliseconds: list[float]


@dataclass(frozen=True, slots=True)
class Load:
    """What to run. `seconds` starts when all clients are connected."""

    family: Family
    clients: int
    seconds: int

    @property
    def sampling(self) -> float:
        """The share of transactions that are logged."""
        return 1.0 if self.family.reconnect else 0.2


def parse_progress(line: str, at: float) -> Progress | None:
    """None if the line is not a progress line."""
    found = _PROGRESS.match(line)
    return Progress(at, float(found[1]), float(found[2])) if found else None


def parse_summary(text: str) -> Summary:
    """Raises PgbenchFailed if there is no result or if transactions failed."""
    tps, processed, failed = (pattern.search(text) for pattern in (_TPS, _PROCESSED, _FAILED))
    if not tps or not processed:
        raise PgbenchFailed(f"no result:\n{text}")
    if failed and int(failed[1]):
        raise PgbenchFailed(f"{failed[1]} transactions failed")
    return Summary(float(tps[1]), int(processed[1]))


def parse_log(lines: Iterable[str]) -> Iterator[float]:
    """Milliseconds of every transaction in a pgbench log; lines cut short and failed transactions are left out.

    The format is `client transaction microseconds script seconds microseconds` (pgbench, "Per-Transaction Logging").
    """
    for line in lines:
        fields = line.split()
        if len(fields) >= 6 and fields[2].isdecimal():
            yield int(fields[2]) / 1000


def command(program: Path, address: Address, load: Load, script: Path, log: Path) -> list[str]:
    """The command line for one run."""
    family = load.family
    place = (
        f"host={address.host} port={address.port} user=postgres dbname=postgres gssencmode=disable "
        f"sslmode={'require' if family.tls else 'disable'}"
    )
    line = [str(program), "-n", "-j1", f"-c{load.clients}", f"-T{load.seconds}", "-M", family.protocol]
    line += ["-P1", "-f", str(script), "-l", f"--log-prefix={log}", f"--sampling-rate={load.sampling}"]
    line += ["--exit-on-abort", *(["-C"] if family.reconnect else []), place]
    return line


def run(program: Path, address: Address, load: Load, scratch: Path, on_progress: Callable[[Progress], None]) -> Report:
    """Run pgbench to its end; `on_progress` is called as each progress line arrives.

    Raises PgbenchFailed. Whatever happens, pgbench has ended and its log is removed on return.
    """
    script = scratch / "script.sql"
    script.write_text(SCRIPT)
    log = scratch / "transactions"
    process = subprocess.Popen(
        command(program, address, load, script, log),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("PG")},
    )
    watchdog = threading.Timer(load.seconds + GRACE_SECONDS, process.kill)
    watchdog.daemon = True
    watchdog.start()
    try:
        complaints = _follow(process, on_progress)
        assert process.stdout is not None
        text = process.stdout.read()
        if process.wait():
            raise PgbenchFailed("\n".join(complaints[:5]) or f"exit status {process.returncode}")
        summary = parse_summary(text)
        files = sorted(scratch.glob(f"{log.name}.*"))
        milliseconds = [value for file in files for value in parse_log(file.read_text().splitlines())]
        return Report(summary, milliseconds)
    finally:
        watchdog.cancel()
        if process.poll() is None:
            process.kill()
        process.communicate()
        for file in scratch.glob(f"{log.name}.*"):
            file.unlink()


def _follow(process: subprocess.Popen[str], on_progress: Callable[[Progress], None]) -> list[str]:
    """Read standard error to its end; returns the lines that are not progress."""
    complaints = []
    assert process.stderr is not None
    for line in process.stderr:
        progress = parse_progress(line, time.monotonic())
        if progress:
            on_progress(progress)
        else:
            complaints.append(line.rstrip())
    return complaints
