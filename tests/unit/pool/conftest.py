"""A real PostgreSQL for the pools."""

from collections.abc import Iterator

import pytest

from tests.support.postgres import Postgres


@pytest.fixture(scope="package")
def postgres() -> Iterator[Postgres]:
    with Postgres(17) as server:
        server.populate()
        yield server
