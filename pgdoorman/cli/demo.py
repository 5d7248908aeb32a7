"""`pgdoorman demo`: a PostgreSQL out of a wheel, pgdoorman in front of it, and the lines to try it with.

The pooler runs in a process of its own, started as a user would start it. Ctrl-C stops both; nothing stays behind.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Never

from pgdoorman.cli.embedded_postgres import EmbeddedPostgres
from pgdoorman.errors import PgDoormanError

POOLER = (sys.executable, "-X", "gil=0", "-m", "pgdoorman")
"""How the pooler is started; the path of its configuration follows."""

_HOST = "127.0.0.1"
_PORTS_TO_TRY = 100
_READY_SECONDS = 30.0
_STOP_SECONDS = 10.0
_POOL_SIZE = 10
_PASSWORD = "demo"  # noqa: S105 - stands on the screen, and guards nothing but the demo's own tables

# The superuser comes in by the unix socket only, which is closed to other users of this machine (see `_SETTINGS`).
_HBA = ("local all postgres trust", "local all all scram-sha-256", f"host demo demo {_HOST}/32 scram-sha-256")
_SETTINGS = {"unix_socket_permissions": "0700"}

_CONFIG = """\
[general]
host = {host}
port = {port}
admin_username = "admin"
admin_password = "doorman"

[pools.demo]
server_host = {socket_directory}
server_port = {server_port}

[[pools.demo.users]]
username = "demo"
password = "{password}"
pool_size = {pool_size}
"""

_SCREEN = """\

  try it          {psql} {address}
  load it         {pgbench} -n -S -c 100 -j 2 -T 10 {address}
  look inside     {psql} {admin_address} -c 'show pools'

  pooler          {version}
                  process {pooler_id} with {threads} threads, up to {pool_size} backends, listening on {host}:{port}
  PostgreSQL      {postgres_version}, process {postgres_id}, in {directory}
  log             {log}

Ctrl-C stops both and removes everything.
"""


class DemoError(PgDoormanError):
    """The demo cannot start, or one of its two processes ended; `detail` is the end of that one's log."""


def run_demo(
    port: int = 6432,
    version: int = 17,
    *,
    pooler: Sequence[str] = POOLER,
    show: Callable[[str], None] = lambda text: print(text, flush=True),
) -> int:
    """Runs until SIGINT, SIGTERM or SIGHUP and returns the exit code for the shell: 0, or 1 after an error, which is
    written to stderr. Call it from the main thread, since it takes these signals for itself meanwhile.

    The pooler listens on `port`, or on the next free one above it. `version` is PostgreSQL's, 17 or 18.
    """
    with _stop_signals():
        try:
            _run(port, version, pooler, show)
        except KeyboardInterrupt:
            show("\nstopped, nothing left behind")
        except PgDoormanError as error:
            print(*filter(None, (f"demo: {error}", error.hint, error.detail)), sep="\n", file=sys.stderr)
            return 1
    return 0


def _run(wanted_port: int, version: int, pooler: Sequence[str], show: Callable[[str], None]) -> Never:
    show(f"starting PostgreSQL {version} ...")
    with EmbeddedPostgres(version, settings=_SETTINGS, hba=_HBA) as postgres:
        _fill(postgres)
        port = _free_port_from(wanted_port)
        show(f"starting pgdoorman on {_HOST}:{port} ...")
        with _pooler(pooler, postgres, port) as (process, log):
            _wait_until_it_answers(process, postgres, port, log)
            show(_screen(pooler, process, postgres, port, log))
            _watch(process, postgres, log)


def _fill(postgres: EmbeddedPostgres) -> None:
    """A role and a database of the demo's own, and the tables of pgbench."""
    postgres.execute(f"create role demo login password '{_PASSWORD}'")
    postgres.execute("create database demo owner demo")
    where = ("-h", str(postgres.directory), "-p", str(postgres.port), "-U", "demo", "demo")
    done = postgres.run_program("pgbench", "--initialize", "--quiet", *where, password=_PASSWORD)
    if done.returncode:
        raise DemoError("pgbench could not make its tables", detail=done.stderr)


def _free_port_from(first: int) -> int:
    for port in range(first, min(first + _PORTS_TO_TRY, 65536)):
        with socket.socket() as probe:
            # As the pooler will: connections of an earlier demo that linger are no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind((_HOST, port))
                return port
    raise DemoError(f"none of the {_PORTS_TO_TRY} ports from {first} on is free")


@contextlib.contextmanager
def _pooler(
    command: Sequence[str], postgres: EmbeddedPostgres, port: int
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """The pooler's process and its log, which goes the way of PostgreSQL's own files."""
    directory = postgres.directory / "pgdoorman"
    directory.mkdir(mode=0o700)  # the configuration has passwords in it
    config, log = directory / "pgdoorman.toml", directory / "pgdoorman.log"
    config.write_text(
        _CONFIG.format(
            host=json.dumps(_HOST),
            port=port,
            socket_directory=json.dumps(str(postgres.directory)),
            server_port=postgres.port,
            password=_PASSWORD,
            pool_size=_POOL_SIZE,
        )
    )
    # Should we be killed, Linux stops the pooler for us, and PostgreSQL's guardian the rest.
    setpriv = shutil.which("setpriv")
    guard = [setpriv, "--pdeathsig", "TERM"] if setpriv else []
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*guard, *command, config],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C is for us: the pooler stops before PostgreSQL does
        )
    try:
        yield process, log
    finally:
        # All of its session: an upgrade may have put another process in its place.
        _signal_all(process.pid, signal.SIGTERM)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            _signal_all(process.pid, signal.SIGKILL)
            process.wait()


def _signal_all(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _address(port: int, user: str, password: str, database: str) -> str:
    return f"postgresql://{user}:{password}@{_HOST}:{port}/{database}"


def _wait_until_it_answers(process: subprocess.Popen[bytes], postgres: EmbeddedPostgres, port: int, log: Path) -> None:
    """Until a query through the pooler comes back: what the screen then promises has been tried."""
    address = _address(port, "demo", _PASSWORD, "demo")
    query = ("-XAtq", "-c", "select count(*) from pgbench_branches", address)
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        _check_both(process, postgres, log)
        done = postgres.run_program("psql", *query, patience=_READY_SECONDS)
        if done.stdout.strip() == "1":
            return
        if time.monotonic() > deadline:
            raise DemoError("no query comes through", detail=f"{done.stderr}\n{_end_of(log)}")
        time.sleep(0.1)


def _watch(process: subprocess.Popen[bytes], postgres: EmbeddedPostgres, log: Path) -> Never:
    while True:
        _check_both(process, postgres, log)
        time.sleep(0.5)


def _check_both(process: subprocess.Popen[bytes], postgres: EmbeddedPostgres, log: Path) -> None:
    if process.poll() is not None:
        raise DemoError(f"pgdoorman ended with exit code {process.returncode}", detail=_end_of(log))
    if postgres.process_id is None:
        raise DemoError("PostgreSQL ended", detail=postgres.log()[-4000:])


def _screen(
    pooler: Sequence[str], process: subprocess.Popen[bytes], postgres: EmbeddedPostgres, port: int, log: Path
) -> str:
    return _SCREEN.format(
        psql=_installed_or_of_wheel("psql", postgres),
        pgbench=_installed_or_of_wheel("pgbench", postgres),
        address=_address(port, "demo", _PASSWORD, "demo"),
        admin_address=_address(port, "admin", "doorman", "pgdoorman"),
        version=_version(pooler),
        pooler_id=process.pid,
        threads=len(list(Path(f"/proc/{process.pid}/task").iterdir())),
        pool_size=_POOL_SIZE,
        host=_HOST,
        port=port,
        postgres_version=postgres.execute("show server_version"),
        postgres_id=postgres.process_id,
        directory=postgres.directory,
        log=log,
    )


def _installed_or_of_wheel(name: str, postgres: EmbeddedPostgres) -> str:
    return name if shutil.which(name) else str(postgres.program(name))


def _version(pooler: Sequence[str]) -> str:
    """What the pooler says of itself: its version, its interpreter, whether the GIL is off."""
    done = subprocess.run([*pooler, "--version"], capture_output=True, text=True, timeout=_READY_SECONDS, check=False)
    return ", ".join(done.stdout.split("\n")).strip(", ")


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-4000:]


@contextlib.contextmanager
def _stop_signals() -> Iterator[None]:
    """The first SIGINT, SIGTERM or SIGHUP raises KeyboardInterrupt; further ones must not disturb the clearing up."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
