"""Fixtures of the integration tests: a PostgreSQL for the session, and poolers in front of it."""

import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.doorman import Doorman, make_doorman, missing, pool, user
from tests.support.postgres import Postgres

StartDoorman = Callable[..., Doorman]

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def workspace() -> Iterator[Path]:
    """A short path (unix sockets lie below it) that PostgreSQL's own user may enter; removed at the end."""
    directory = Path(tempfile.mkdtemp(prefix="doorman-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


def _running(version: int) -> Iterator[Postgres]:
    with Postgres(version) as server:
        server.populate()
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """PostgreSQL 17 with the roles and databases of tests.support.postgres. It is shared: never stop it."""
    yield from _running(17)


@pytest.fixture(scope="session")
def postgres18() -> Iterator[Postgres]:
    """PostgreSQL 18, the same. Its wheel knows no TLS."""
    yield from _running(18)


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A PostgreSQL for one test, which may stop, crash and restart it."""
    yield from _running(17)


def _starter(workspace: Path) -> Iterator[StartDoorman]:
    if reason := missing():
        pytest.skip(reason)
    started: list[Doorman] = []

    def start(**settings: Any) -> Doorman:
        doorman = make_doorman(workspace / f"doorman{next(_numbers)}", **settings)
        started.append(doorman)
        doorman.start()
        return doorman

    yield start
    for doorman in started:
        doorman.kill()


@pytest.fixture
def start_doorman(workspace: Path) -> Iterator[StartDoorman]:
    """Starts poolers with the given settings (see Doorman); all are stopped after the test."""
    yield from _starter(workspace)


@pytest.fixture(scope="module")
def start_module_doorman(workspace: Path) -> Iterator[StartDoorman]:
    """The same for poolers that a whole module shares."""
    yield from _starter(workspace)


@pytest.fixture
def doorman(start_doorman: StartDoorman, postgres: Postgres) -> Doorman:
    """A pooler with the pool `app`: alice and bob, two backends each."""
    return start_doorman(pools={"app": pool(postgres, user("alice", pool_size=2), user("bob", pool_size=2))})
