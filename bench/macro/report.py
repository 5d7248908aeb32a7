"""Tables for people and JSON for machines. Markdown tables, so that they can be pasted into docs/performance.md."""

import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench.macro.figures import median, paired_ratio, spread
from bench.macro.measure import IdleResult, LoadResult, StreamResult
from bench.macro.poolers import Target

DISTURBED = 0.05
"""Share of the CPUs that foreign programs may take before a figure is marked."""

type Rounds[R] = dict[str, dict[int, R]]
"""By target name, then by round."""


@dataclass(slots=True)
class Results:
    """Everything that was measured, by family and, for loads, client count."""

    loads: dict[tuple[str, int], Rounds[LoadResult]] = field(default_factory=dict)
    streams: dict[str, Rounds[StreamResult]] = field(default_factory=dict)
    idle: dict[str, dict[str, IdleResult]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    targets: dict[str, str] = field(default_factory=dict)

    def note(self, targets: Iterable[Target]) -> None:
        """Remember the versions of what runs."""
        for target in targets:
            self.targets[target.name] = target.version


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table with aligned columns, the first one to the left."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    rule = ["-" * width if column == 0 else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    out = []
    for line in (lines[0], rule, *lines[1:]):
        cells = (
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        out.append("| " + " | ".join(cells) + " |")
    return "\n".join(out)


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _middle(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _share(foreign: float | None) -> str:
    if foreign is None:
        return "-"
    return f"{foreign * 100:.0f} %{' !' if foreign > DISTURBED else ''}"


def _load_row(name: str, rounds: Mapping[int, LoadResult]) -> list[str]:
    runs = list(rounds.values())
    tps = [run.tps for run in runs]
    latencies = [run.latency for run in runs if run.latency]
    costs = [run.own for run in runs if run.own]
    foreign = _middle(run.foreign for run in runs)
    resident = _middle(run.resident for run in runs)
    row = [name, _number(median(tps), 0), f"{spread(tps) * 100:.0f} %"]
    for quantile in ("p50", "p95", "p99", "p999"):
        row += [_number(_middle(getattr(latency, quantile) for latency in latencies), 2)]
    row.append(_number(_middle(cost.cpu for cost in costs)))
    row.append(f"{_number(_middle(c.user for c in costs))} + {_number(_middle(c.system for c in costs))}")
    row.append(
        f"{_number(_middle(c.voluntary for c in costs), 2)} / {_number(_middle(c.involuntary for c in costs), 3)}"
    )
    row.append("-" if resident is None else _number(resident / 1e6))
    row.append(_share(foreign))
    return row


LOAD_HEAD = (
    "pooler", "tps", "+-", "p50 ms", "p95", "p99", "p99.9", "CPU us", "user + system", "switches vol / inv", "RSS MB",
    "foreign",
)  # fmt: skip


def load_table(measured: Rounds[LoadResult]) -> str:
    """One line for every pooler: medians over the rounds."""
    return table(LOAD_HEAD, (_load_row(name, rounds) for name, rounds in measured.items() if rounds))


def ratio_lines(measured: Rounds[LoadResult]) -> list[str]:
    """The first pooler against each other one, by rounds that both finished."""
    names = [name for name, rounds in measured.items() if rounds]
    if not names:
        return []
    lines = []
    mine = measured[names[0]]
    for other in names[1:]:
        theirs = measured[other]
        said = []
        for label, mine_by_round, theirs_by_round in (
            ("tps", _each(mine, "tps"), _each(theirs, "tps")),
            ("CPU", _each(mine, "own.cpu"), _each(theirs, "own.cpu")),
            ("p50", _each(mine, "latency.p50"), _each(theirs, "latency.p50")),
            ("p99", _each(mine, "latency.p99"), _each(theirs, "latency.p99")),
        ):
            ratio = paired_ratio(mine_by_round, theirs_by_round)
            if ratio is not None:
                said.append(f"{label} x{ratio:.2f}")
        lines.append(f"{names[0]} to {other}: {', '.join(said) or 'no common round'}")
    return lines


def _each(rounds: Mapping[int, LoadResult], path: str) -> dict[int, float]:
    """The value at a dotted path in each round, without the rounds that lack it."""
    found: dict[int, float] = {}
    for number, run in rounds.items():
        value: object = run
        for name in path.split("."):
            value = getattr(value, name, None)
        if isinstance(value, float | int):
            found[number] = float(value)
    return found


def step_table(steps: Mapping[float, Rounds[LoadResult]]) -> str:
    """The ratio family: throughput against each pooler's own peak, and how far the tail is from the middle."""
    peaks: dict[str, float] = {}
    for measured in steps.values():
        for name, rounds in measured.items():
            if rounds:
                peaks[name] = max(peaks.get(name, 0.0), median(run.tps for run in rounds.values()))
    rows = []
    for step, measured in steps.items():
        for name, rounds in measured.items():
            if not rounds:
                continue
            tps = median(run.tps for run in rounds.values())
            p50 = _middle(_each(rounds, "latency.p50").values())
            p99 = _middle(_each(rounds, "latency.p99").values())
            tail = p99 / p50 if p50 and p99 else None
            cpu = _middle(_each(rounds, "own.cpu").values())
            row = [name, f"{step:g}", _number(tps, 0), f"{tps / peaks[name] * 100:.0f} %"]
            row += [_number(p50, 2), _number(p99, 2), _number(tail, 2), _number(cpu)]
            row.append(_share(_middle(run.foreign for run in rounds.values())))
            rows.append(row)
    head = ("pooler", "clients/backend", "tps", "of its peak", "p50 ms", "p99", "p99/p50", "CPU us", "foreign")
    return table(head, rows)


def idle_table(measured: Mapping[str, IdleResult]) -> str:
    """Kilobytes (1024) per idle client."""
    rows = []
    for name, one in measured.items():
        row = [name, str(one.clients), _number(one.before / 1e6), _number(one.logged_in / 1024, 2)]
        rows.append([*row, _number(one.after_query / 1024, 2), "yes" if one.fresh else "no"])
    return table(("pooler", "clients", "RSS MB before", "KB logged in", "KB after a query", "fresh"), rows)


def stream_table(measured: Rounds[StreamResult]) -> str:
    """Megabytes (10^6) per second as the client sees them, and what happened to the pooler's memory."""
    rows = []
    for name, rounds in measured.items():
        runs = list(rounds.values())
        if not runs:
            continue
        before = _middle(run.resident_before for run in runs)
        peak = _middle(run.resident_peak for run in runs)
        growth = None if before is None or peak is None else (peak - before) / 1e6
        rates = [run.rate for run in runs]
        row = [
            name,
            _number(median(rates), 0),
            f"{spread(rates) * 100:.0f} %",
            _number(_middle(r.cpu for r in runs), 2),
        ]
        row += ["-" if before is None else _number(before / 1e6), _number(growth, 2)]
        rows.append([*row, _share(_middle(run.foreign for run in runs))])
    return table(("pooler", "MB/s", "+-", "CPU ms/MB", "RSS MB", "growth MB", "foreign"), rows)


def summary(results: Results) -> str:
    """All loads at a glance: tps / CPU microseconds per transaction."""
    names = list(results.targets)
    rows = []
    for (family, clients), measured in results.loads.items():
        row = [f"{clients}, {family}"]
        for name in names:
            runs = list(measured.get(name, {}).values())
            cpu = _middle(run.own.cpu for run in runs if run.own)
            row.append(f"{_number(median(run.tps for run in runs), 0)} / {_number(cpu)}" if runs else "-")
        rows.append(row)
    return table(("clients, family", *(f"{name} tps / us" for name in names)), rows)


def machine(cpus: frozenset[int]) -> dict[str, object]:
    """What the figures were seen on."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "cpu": model,
        "cpus used": sorted(cpus),
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": sys.version.split("\n")[0],
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


def as_json(results: Results, cpus: frozenset[int], postgres_version: str) -> str:
    """Every run of every round."""
    whole = {
        "machine": machine(cpus),
        "postgres": postgres_version,
        "targets": results.targets,
        "loads": [
            {"family": family, "clients": clients, "target": name, "round": number, **asdict(run)}
            for (family, clients), measured in results.loads.items()
            for name, rounds in measured.items()
            for number, run in rounds.items()
        ],
        "streams": [
            {"family": family, "target": name, "round": number, **asdict(run)}
            for family, measured in results.streams.items()
            for name, rounds in measured.items()
            for number, run in rounds.items()
        ],
        "idle": [
            {"family": family, "target": name, **asdict(one)}
            for family, measured in results.idle.items()
            for name, one in measured.items()
        ],
        "failures": results.failures,
    }
    return json.dumps(whole, indent=1) + "\n"
