"""A real PostgreSQL for clients' backends, and a worker for what happens on one."""

from collections.abc import Iterator

import pytest

from pgdoorman.runtime.worker import Worker
from tests.support.postgres import Postgres

PATIENCE = 20.0


@pytest.fixture(scope="package")
def postgres() -> Iterator[Postgres]:
    with Postgres(17) as server:
        server.populate()
        server.run("create table kept (a int)", database="app")
        yield server


@pytest.fixture
def worker() -> Iterator[Worker]:
    """That runs."""
    worker = Worker("test", 0)
    worker.start()
    yield worker
    worker.stop()
    worker.join(PATIENCE)
