"""CPU time, context switches and memory of processes, read from /proc (proc(5)).

Numbers of a process whose threads or children come and go are read while it runs, so a figure may miss what happened
in the last millisecond; it never counts anything twice.
"""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class ProcessGone(Exception):
    """The process does not exist (any more)."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process and its descendants have used since they began.

    `at`: when the CPU times were read, monotonic seconds. `user`, `system`: seconds, in ticks of usually 10 ms; the
    split is the kernel's estimate, the sum is exact to the tick. `voluntary`, `involuntary`: context switches of the
    threads alive now. `resident`: bytes now.
    """

    at: float
    user: float
    system: float
    voluntary: int
    involuntary: int
    resident: int
    threads: int

    @property
    def cpu(self) -> float:
        """Seconds, user plus system."""
        return self.user + self.system


@dataclass(frozen=True, slots=True)
class Stat:
    """The fields of /proc/PID/stat that are used here; times in seconds, those of children that have been waited for
    included."""

    parent: int
    user: float
    system: float


def parse_stat(text: str) -> Stat:
    """Parse /proc/PID/stat. The command may contain blanks and parentheses: fields are counted after the last one."""
    fields = text[text.rindex(")") + 2 :].split()
    user, system, children_user, children_system = (int(field) / TICKS_PER_SECOND for field in fields[11:15])
    return Stat(int(fields[1]), user + children_user, system + children_system)


def parse_status(text: str) -> dict[str, int]:
    """The numeric lines of /proc/PID/status by name, kB turned into bytes; other lines are left out."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdecimal():
            found[name] = int(words[0]) * (1024 if words[1:] == ["kB"] else 1)
    return found


def parse_cpu_time(text: str, cpus: frozenset[int]) -> float:
    """Seconds that the given CPUs spent in tasks (user, nice, system), out of /proc/stat.

    Interrupts are left out: on most kernels they are not in any task's times either.
    """
    total = 0
    for line in text.splitlines():
        name, *fields = line.split() or [""]
        if name.startswith("cpu") and name[3:].isdecimal() and int(name[3:]) in cpus:
            total += sum(int(field) for field in fields[:3])
    return total / TICKS_PER_SECOND


def busy_seconds(cpus: frozenset[int]) -> float:
    """What all programs of the machine together have used on these CPUs since boot."""
    return parse_cpu_time((PROC / "stat").read_text(), cpus)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise ProcessGone(str(path)) from error


def family_of(pid: int) -> tuple[int, ...]:
    """The process and all its descendants. Searches all of /proc, about 20 us for every process of the machine:
    /proc/PID/task/*/children would be cheaper, but small kernels come without it."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdecimal():
            try:
                stat = parse_stat(_read(entry / "stat"))
            except ProcessGone:
                continue
            children.setdefault(stat.parent, []).append(int(entry.name))
    found = [pid]
    for member in found:
        found.extend(children.get(member, ()))
    return tuple(found)


def usage(pid: int, members: Sequence[int] | None = None) -> Usage:
    """Usage of the process and its descendants. Raises ProcessGone if the process itself is gone.

    `members` saves the search for descendants, which takes milliseconds on a machine with many processes.
    """
    directories = [PROC / str(member) for member in members or family_of(pid)]
    stats: list[Stat] = []
    for directory in directories:
        try:
            stats.append(parse_stat(_read(directory / "stat")))
        except ProcessGone:
            if directory.name == str(pid):
                raise
    at = time.monotonic()
    voluntary = involuntary = resident = threads = 0
    for directory in directories:
        with suppress(ProcessGone, FileNotFoundError):
            resident += parse_status(_read(directory / "status")).get("VmRSS", 0)
            for task in list((directory / "task").iterdir()):
                status = parse_status(_read(task / "status"))
                threads += 1
                voluntary += status.get("voluntary_ctxt_switches", 0)
                involuntary += status.get("nonvoluntary_ctxt_switches", 0)
    user, system = sum(stat.user for stat in stats), sum(stat.system for stat in stats)
    return Usage(at, user, system, voluntary, involuntary, resident, threads)


def resident_bytes(pid: int) -> int:
    """Resident memory of the one process (not of descendants), cheap enough to be polled. Raises ProcessGone."""
    return parse_status(_read(PROC / str(pid) / "status")).get("VmRSS", 0)
