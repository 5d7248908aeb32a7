"""One PostgreSQL for all, tuned so that it is as little of the bottleneck as it can be."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bench.macro.options import Address, Peer
from bench.macro.wire import Connection
from pgdoorman.cli.embedded_postgres import EmbeddedPostgres


@dataclass(frozen=True, slots=True)
class Postgres:
    """A running server. `pid` is None when somebody else runs it and did not say."""

    address: Address
    pid: int | None
    version: str


SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "shared_buffers": "256MB",
    "autovacuum": "off",
    "max_wal_size": "4GB",
    "jit": "off",
    "huge_pages": "off",
}
"""Beside those with which an embedded server throws durability away."""


@contextmanager
def launched(port: int, most_connections: int) -> Iterator[Postgres]:
    """Run a server on `port` (0: a free one) and remove it at the end. Raises EmbeddedPostgresError."""
    with EmbeddedPostgres(port=port, settings={**SETTINGS, "max_connections": str(most_connections)}) as server:
        address = Address(server.host, server.port)
        with Connection(address) as connection:
            version = connection.value("show server_version")
        yield Postgres(address, server.process_id, version)


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
