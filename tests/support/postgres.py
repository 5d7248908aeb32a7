"""A PostgreSQL of the tests' own, with roles and databases for every way to log in.

The session's server (fixture `postgres`) has

    role         password   pg_hba          attributes            database
    postgres     -          trust           superuser             app, other
    alice, bob   -          trust           superuser, in tenant
    plain        -          trust           none
    md5_user     secret     md5             none
    scram_user   secret     scram-sha-256   none
    clear_user   secret     password        none
    locked       secret     reject          none
    tenant       -          (no login)      group, for SET ROLE
"""

from collections.abc import Mapping

from pgdoorman.cli.embedded_postgres import EmbeddedPostgres
from tests.support.wire import Wire

SECRET = "secret"

_SETTINGS = {
    "autovacuum": "off",
    "jit": "off",
    "shared_buffers": "64MB",
    "max_connections": "400",
    "max_prepared_transactions": "10",
    "max_wal_senders": "10",
    "wal_level": "logical",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %u@%d ",
}

_HBA = (
    "local all all trust",
    "host all md5_user all md5",
    "host all scram_user all scram-sha-256",
    "host all clear_user all password",
    "host all locked all reject",
    "host all all 127.0.0.1/32 trust",
    "host replication all 127.0.0.1/32 trust",
)

_ROLES = f"""
create role tenant nologin;
create role alice login superuser in role tenant;
create role bob login superuser in role tenant;
create role plain login;
set password_encryption = 'md5';
create role md5_user login password '{SECRET}';
set password_encryption = 'scram-sha-256';
create role scram_user login password '{SECRET}';
create role clear_user login password '{SECRET}';
create role locked login password '{SECRET}';
"""


class Postgres(EmbeddedPostgres):
    """An embedded PostgreSQL that the wire client can be pointed at."""

    def __init__(self, version: int = 17, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(version, settings={**_SETTINGS, **(settings or {})}, hba=_HBA)

    @property
    def socket_directory(self) -> str:
        return str(self.directory)

    def populate(self) -> None:
        """Makes the roles and databases of this module's table."""
        with self.connect() as wire:
            wire.run(_ROLES)
            for database in ("app", "other"):
                wire.run(f"create database {database}", patience=60)
        for database in ("app", "other"):
            self.run("grant all on schema public to public", database=database)

    def connect(
        self,
        database: str = "postgres",
        user: str = "postgres",
        password: str = "",
        parameters: Mapping[str, str] | None = None,
        patience: float = 10.0,
    ) -> Wire:
        """A direct connection, past any pooler."""
        return Wire.connect(
            self.host,
            self.port,
            user=user,
            database=database,
            password=password,
            parameters=parameters,
            patience=patience,
        )

    def run(self, *statements: str, database: str = "postgres") -> None:
        """Runs each as a simple query of its own, as superuser. Raises ServerError."""
        with self.connect(database) as wire:
            for statement in statements:
                wire.run(statement, patience=60)

    def backends(self, database: str | None = None) -> list[int]:
        """Process ids of the client backends, without the one that asks."""
        where = "" if database is None else f" and datname = '{database}'"
        with self.connect() as wire:
            found = wire.rows(
                "select pid from pg_stat_activity where backend_type = 'client backend'"
                f" and pid <> pg_backend_pid(){where} order by pid"
            )
        return [int(row[0] or 0) for row in found]
