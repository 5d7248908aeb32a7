"""`pgdoorman top`: a live screen of pools, clients, rates and latencies."""

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pgdoorman.cli.instances import Instance
from pgdoorman.cli.operate import with_instance
from pgdoorman.cli.sql_client import Row, SqlClient
from pgdoorman.cli.target import Target

type _WaitKey = Callable[[float], str]

KEYS = "q quit   t by transactions   c by clients   w by waiting   d by database"

# What a key sorts by: the column, and whether the largest comes first.
_ORDERS = {"t": ("tps", True), "c": ("clients", True), "w": ("waiting", True), "d": ("name", False)}


@dataclass(frozen=True, slots=True)
class PoolLine:
    """One pool at one moment; rates are per second over the time since the last look, times in milliseconds."""

    name: str
    clients: int
    active: int
    waiting: int
    maxwait: float
    servers_active: int
    servers_idle: int
    size: int
    tps: float
    qps: float
    received: float
    sent: float
    errors: float
    xact_ms: float
    query_ms: float
    wait_ms: float
    p99_ms: float
    paused: bool


@dataclass(slots=True)
class Samples:
    """Remembers the totals of the last look, so that rates are of now and not of the statistics period."""

    _totals: dict[str, dict[str, float]] = field(default_factory=dict)
    _at: float = 0.0

    def take(self, client: SqlClient, now: float) -> list[PoolLine]:
        """Look once."""
        pools = {_name(row): row for row in client.ask("SHOW POOLS").table()}
        extended = {_name(row): row for row in client.ask("SHOW POOLS_EXTENDED").table()}
        stats = {_name(row): _numbers(row) for row in client.ask("SHOW STATS").table()}
        seconds = now - self._at if self._at else 0.0
        lines = [
            _line(name, row, _numbers(extended.get(name, {})), stats.get(name, {}), self._totals.get(name), seconds)
            for name, row in pools.items()
        ]
        self._totals, self._at = stats, now
        return lines


def _name(row: Row) -> str:
    return f"{row['user']}@{row['database']}"


def _numbers(row: Row) -> dict[str, float]:
    found = {}
    for name, value in row.items():
        try:
            found[name] = float(value or 0)
        except ValueError:
            continue
    return found


def _line(
    name: str,
    pool: Row,
    extended: dict[str, float],
    stats: dict[str, float],
    before: dict[str, float] | None,
    seconds: float,
) -> PoolLine:
    counts = _numbers(pool)

    def grown(column: str) -> float:
        return max(0.0, stats.get(column, 0.0) - before.get(column, 0.0)) if before is not None else 0.0

    def rate(column: str) -> float:
        # The first look has nothing to compare with: the last whole period will do.
        return grown(f"total_{column}") / seconds if seconds and before is not None else 0.0

    def mean(time_column: str, count_column: str, average: str) -> float:
        count = grown(count_column)
        return (grown(time_column) / count if count else stats.get(average, 0.0) if not seconds else 0.0) / 1000

    first = before is None or not seconds
    return PoolLine(
        name=name,
        clients=int(counts["cl_idle"] + counts["cl_active"] + counts["cl_waiting"]),
        active=int(counts["cl_active"]),
        waiting=int(counts["cl_waiting"]),
        maxwait=counts["maxwait"] + counts["maxwait_us"] / 1_000_000,
        servers_active=int(counts["sv_active"]),
        servers_idle=int(counts["sv_idle"]),
        size=int(counts["pool_size"]),
        tps=stats.get("avg_xact_count", 0.0) if first else rate("xact_count"),
        qps=stats.get("avg_query_count", 0.0) if first else rate("query_count"),
        received=stats.get("avg_recv", 0.0) if first else rate("received"),
        sent=stats.get("avg_sent", 0.0) if first else rate("sent"),
        errors=stats.get("avg_errors", 0.0) if first else rate("errors"),
        xact_ms=mean("total_xact_time", "total_xact_count", "avg_xact_time"),
        query_ms=mean("total_query_time", "total_query_count", "avg_query_time"),
        wait_ms=mean("total_wait_time", "total_xact_count", "avg_wait_time"),
        p99_ms=extended.get("query_0.99", 0.0) / 1000,
        paused=pool.get("paused") == "1",
    )


def screen(
    status: dict[str, str], lines: Sequence[PoolLine], order: str, height: int = 1000, keys: str = KEYS
) -> Group:
    """What is shown: a head, a table of pools, the keys."""
    column, largest_first = _ORDERS[order]
    shown = sorted(lines, key=lambda line: line.name)
    shown.sort(key=lambda line: getattr(line, column), reverse=largest_first)
    table = Table(expand=True, box=None, header_style="bold", pad_edge=False)
    table.add_column("pool", no_wrap=True, ratio=1)
    for title in ("clients", "active", "waiting", "maxwait", "servers", "tps", "qps", "err/s", "in/s", "out/s"):
        table.add_column(title, justify="right", no_wrap=True)
    for title in ("xact ms", "query ms", "wait ms", "p99 ms"):
        table.add_column(title, justify="right", no_wrap=True)
    for line in shown[: max(1, height - 5)]:
        style = "bold red" if line.waiting and line.maxwait > 1 else "yellow" if line.waiting or line.paused else ""
        table.add_row(*_cells(line), style=style)
    return Group(_head(status, lines), table, *([Text(keys, style="dim")] if keys else []))


def _head(status: dict[str, str], lines: Sequence[PoolLine]) -> Text:
    together = (
        f"{sum(line.tps for line in lines):.0f} tps, {sum(line.qps for line in lines):.0f} qps, "
        f"{status.get('clients', '?')} clients ({status.get('clients_busy', '?')} busy), "
        f"{status.get('servers', '?')} servers ({status.get('servers_busy', '?')} busy)"
    )
    who = f"pgdoorman {status.get('version', '')}, process {status.get('process_id', '')}, {status.get('state', '')}"
    return Text.assemble((who, "bold"), "  ", time.strftime("%H:%M:%S"), "\n", together, "\n")


def _cells(line: PoolLine) -> Iterator[str]:
    yield line.name + (" (paused)" if line.paused else "")
    yield from map(str, (line.clients, line.active, line.waiting))
    yield f"{line.maxwait:.2f}" if line.waiting else ""
    yield f"{line.servers_active}+{line.servers_idle}/{line.size}"
    yield from (f"{line.tps:.0f}", f"{line.qps:.0f}", f"{line.errors:.1f}" if line.errors else "")
    yield from (_bytes(line.received), _bytes(line.sent))
    for milliseconds in (line.xact_ms, line.query_ms, line.wait_ms, line.p99_ms):
        yield f"{milliseconds:.2f}" if milliseconds else ""


def _bytes(number: float) -> str:
    for unit in ("B", "KB", "MB"):
        if number < 1000:
            return f"{number:.0f}{unit}" if unit == "B" else f"{number:.1f}{unit}"
        number /= 1024
    return f"{number:.1f}GB"


def run(target: Target, interval: float, once: bool) -> int:
    """Show until q or Ctrl-C; `once` prints one screen and ends. Returns the exit code."""
    return with_instance(target, lambda instance: _once(instance) if once else _live(instance, interval))


def _status(client: SqlClient) -> dict[str, str]:
    return {str(row["key"]): row["value"] or "" for row in client.ask("SHOW STATUS").table()}


def _once(instance: Instance) -> int:
    console = Console()
    if not console.is_terminal:
        console = Console(width=180)
    lines = Samples().take(instance.client, time.monotonic())
    console.print(screen(_status(instance.client), lines, "t", keys=""))
    return 0


def _live(instance: Instance, interval: float) -> int:
    samples, order = Samples(), "t"
    console = Console()
    with _keys() as wait_key, Live(console=console, screen=True, auto_refresh=False) as live:
        try:
            while True:
                lines = samples.take(instance.client, time.monotonic())
                status = _status(instance.client)
                until = time.monotonic() + interval
                while True:
                    live.update(screen(status, lines, order, console.height), refresh=True)
                    remaining = until - time.monotonic()
                    pressed = wait_key(remaining) if remaining > 0 else ""
                    if pressed in ("q", "\x03"):
                        return 0
                    if not pressed:
                        break
                    order = pressed if pressed in _ORDERS else order
        except KeyboardInterrupt:
            return 0


@contextmanager
def _keys() -> "Iterator[_WaitKey]":
    """Single keys without Return, where stdin is a terminal; elsewhere nobody presses any."""
    if not sys.stdin.isatty():
        yield _sleep
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield _pressed
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _sleep(seconds: float) -> str:
    time.sleep(seconds)
    return ""


def _pressed(seconds: float) -> str:
    # Past Python's buffer: what it has read ahead would not be seen by the next select.
    descriptor = sys.stdin.fileno()
    ready, _, _ = select.select([descriptor], [], [], seconds)
    if not ready:
        return ""
    return os.read(descriptor, 1).decode("latin-1") or "q"  # nobody is there any more
