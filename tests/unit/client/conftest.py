"""A real PostgreSQL for clients' backends."""

from collections.abc import Iterator

import pytest

from tests.support.postgres import Postgres


@pytest.fixture(scope="package")
def postgres() -> Iterator[Postgres]:
    with Postgres(17) as server:
        server.populate()
        server.run("create table kept (a int)", database="app")
        yield server
