"""A real PostgreSQL for the backend room."""

from collections.abc import Iterator

import pytest

from pgdoorman.runtime.worker import Worker
from tests.support.postgres import Postgres


@pytest.fixture(scope="package")
def postgres() -> Iterator[Postgres]:
    with Postgres(17) as server:
        server.populate()
        yield server


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker("worker", 0)
    worker.start()
    yield worker
    worker.stop()
    worker.join(5.0)
    assert worker.crashes == 0
