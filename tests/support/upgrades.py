"""Processes that take each other's place under one configuration."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.doorman import Doorman
from tests.support.postgres import Postgres
from tests.support.process import wait_until
from tests.support.wire import Wire, cancel_request, query

PATIENCE = 90.0


def family(doorman: Doorman) -> list[int]:
    """Every process that serves this configuration."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if str(doorman.config_file).encode() in words and b"pgdoorman" in words:
                    found.append(int(entry.name))
    return found


def end_family(doorman: Doorman) -> None:
    """Ends them all."""
    for process in family(doorman):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def who_serves(doorman: Doorman) -> int:
    """The process that a newcomer comes to."""
    return int(next(row["value"] or 0 for row in doorman.show("status") if row["key"] == "process_id"))


def upgrade(process: int) -> subprocess.CompletedProcess[str]:
    """`pgdoorman upgrade`, as somebody would type it."""
    return subprocess.run(
        [sys.executable, "-X", "gil=0", "-m", "pgdoorman", "upgrade", "--pid", str(process)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def descriptors(process: int) -> list[str]:
    """What each open descriptor of a process is, sorted."""
    found = []
    for entry in Path("/proc", str(process), "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(entry.readlink()))
    return sorted(found)


def must_be_cancelled(wire: Wire, doorman: Doorman, postgres: Postgres) -> None:
    """A query of this client is ended by a request with the key that the client has. Raises AssertionError."""
    wire.send(query("select pg_sleep(600)"))
    sleeping = "select count(*) from pg_stat_activity where state = 'active' and query = 'select pg_sleep(600)'"
    with postgres.connect() as direct:
        wait_until(lambda: direct.value(sleeping) == "1", PATIENCE, "the query")
    with doorman.dial() as request:
        request.send(cancel_request(wire.process_id, wire.secret))
        request.wait_closed(PATIENCE)
    assert next(reply.fields()["C"] for reply in wire.settle(PATIENCE) if reply.kind == "E") == "57014"
