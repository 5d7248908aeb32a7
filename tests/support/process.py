"""A child process that a test starts: its log, its descriptors and its memory, and a sure end."""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self


class DidNotStart(Exception):
    """A process ended, or did not become ready in time. The message ends with its log."""


@dataclass(frozen=True, slots=True)
class ThreadState:
    """One thread as the kernel sees it: whether it waits for something just now, the processor time that it has used
    (seconds), and how often it has gone to sleep."""

    name: str
    asleep: bool
    used: float
    sleeps: int


_lot = random.SystemRandom()  # not that of all, which Hypothesis resets


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on at this moment. It is none that the system gives to outgoing
    connections, and drawn by lot: other tests, at work beside this one, are unlikely to take it until it is used."""
    while True:
        port = _lot.randrange(10_000, 32_000)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


def wait_until(condition: Callable[[], bool], patience: float, what: str, pause: float = 0.02) -> None:
    """Polls until `condition` holds. Raises AssertionError, naming `what`, after `patience` seconds."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {patience} s: {what}")
        time.sleep(pause)


class Process:
    """A command in the background. It dies with the test run, even if that is killed: Linux sees to it."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        user: str = "",
        environment: Mapping[str, str | None] | None = None,
        directory: Path | None = None,
    ) -> None:
        self.command = list(command)
        self.log_file = log
        with log.open("ab") as output:
            self._log_start = output.tell()
            self._child = subprocess.Popen(
                [*_death_with_parent(user), *self.command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env=None if environment is None else _environment(environment),
                start_new_session=True,
            )

    @property
    def process_id(self) -> int:
        return self._child.pid

    @property
    def is_running(self) -> bool:
        return self._child.poll() is None

    @property
    def exit_code(self) -> int | None:
        """None while it runs; -N if signal N ended it."""
        return self._child.poll()

    def log(self) -> str:
        """What it has written since it was started."""
        with self.log_file.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode("utf-8", "backslashreplace")

    def send_signal(self, number: signal.Signals) -> None:
        if self.is_running:
            self._child.send_signal(number)

    def wait_ready(self, ready: Callable[[], bool], patience: float) -> None:
        """Raises DidNotStart if it ends first or is not ready after `patience` seconds."""
        deadline = time.monotonic() + patience
        while not ready():
            if not self.is_running or time.monotonic() > deadline:
                fate = f"still not ready after {patience} s" if self.is_running else f"ended with {self.exit_code}"
                self.kill()
                raise DidNotStart(f"{' '.join(self.command)}: {fate}. Its log:\n{self.log()[-6000:]}")
            time.sleep(0.02)

    def stop(self, number: signal.Signals = signal.SIGTERM, patience: float = 15.0) -> int:
        """Asks it to end, kills it if it does not. Returns the exit code."""
        self.send_signal(number)
        try:
            return self._child.wait(patience)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(
                f"{self.command[0]} did not end within {patience} s of {number.name}. Its log:\n{self.log()[-6000:]}"
            ) from None

    def kill(self) -> None:
        self._child.kill()
        self._child.wait()

    # -- what it uses (Linux) --

    def _proc(self) -> Path:
        return Path("/proc", str(self._child.pid))

    def descriptors(self) -> list[str]:
        """What each open file descriptor is, sorted."""
        found = []
        for entry in (self._proc() / "fd").iterdir():
            try:
                found.append(str(entry.readlink()))
            except FileNotFoundError:
                continue  # closed while we looked
        return sorted(found)

    def descriptor_count(self) -> int:
        return len(os.listdir(self._proc() / "fd"))

    def connections_to(self, port: int) -> int:
        """How many TCP connections to that port it holds at this moment: the descriptors are listed first, so whatever is
        still established afterwards was open all at once."""
        held = set(self.descriptors())
        lines = (self._proc() / "net/tcp").read_text().splitlines()[1:]
        count = 0
        for line in lines:
            _, _, remote, state, *_, inode = line.split()[:10]
            established = state == "01"
            count += established and int(remote.rpartition(":")[2], 16) == port and f"socket:[{inode}]" in held
        return count

    def thread_count(self) -> int:
        return len(os.listdir(self._proc() / "task"))

    def resident_bytes(self) -> int:
        pages = int((self._proc() / "statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def processor_seconds(self) -> float:
        """User and system time of all its threads until now."""
        fields = (self._proc() / "stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def threads(self) -> dict[int, "ThreadState"]:
        """All its threads, by their ids."""
        found = {}
        for entry in (self._proc() / "task").iterdir():
            try:
                status = (entry / "status").read_text()
                used = int((entry / "schedstat").read_text().split()[0])
            except (FileNotFoundError, ProcessLookupError):
                continue  # ended while we looked
            fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            found[int(entry.name)] = ThreadState(
                fields["Name"], fields["State"].startswith("S"), used / 1e9, int(fields["voluntary_ctxt_switches"])
            )
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


def _environment(changes: Mapping[str, str | None]) -> dict[str, str]:
    """Ours with these changes; None takes a variable away."""
    changed = {**os.environ, **changes}
    return {name: value for name, value in changed.items() if value is not None}


def _death_with_parent(user: str) -> list[str]:
    tool = shutil.which("setpriv")
    if tool is None:
        if user:
            raise RuntimeError("util-linux's setpriv is needed to start PostgreSQL from a root shell")
        return []
    change = ["--reuid", user, "--regid", user, "--init-groups"] if user else []
    return [tool, *change, "--pdeathsig", "KILL"]
