"""A real PostgreSQL for what runs on threads."""

from collections.abc import Iterator

import pytest

from tests.support.postgres import Postgres


@pytest.fixture(scope="package")
def postgres() -> Iterator[Postgres]:
    with Postgres(17) as server:
        server.populate()
        server.run(
            "create table kept (a int)",
            "create function double(a int) returns int language sql as 'select a * 2'",
            database="app",
        )
        yield server
