"""A pgdoorman process in front of a test's PostgreSQL.

    with Doorman(directory, pools={"app": pool(postgres, user("alice", pool_size=1))}) as doorman:
        doorman.connect("app", "alice").value("select 1")
        doorman.show("pools")            -> [{"database": "app", ...}]

Two stand-ins judge the suites themselves: `PGDOORMAN_TEST_POOLER=postgres` puts nothing in between (every comparison
with PostgreSQL must then pass), `=pgbouncer` Debian's pgbouncer, as far as the two can be configured alike.
"""

import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pgdoorman.cli.gil import NO_ARENAS
from tests.support.postgres import Postgres
from tests.support.process import Process, free_port, wait_until
from tests.support.wire import ServerError, Wire, WireError, gssenc_request, query

ADMIN_USER = "admin"
ADMIN_PASSWORD = "admin-secret"

# The same methods as on the tests' PostgreSQL; nobody else has a password.
HBA = """\
host pgdoorman all all md5
host pgbouncer all all md5
host all md5_user all md5
host all scram_user all scram-sha-256
host all locked all reject
host all all all trust
local all all trust
"""

Settings = dict[str, Any]


def user(name: str, password: str = "", *, pool_size: int = 10, **extra: object) -> Settings:
    """One entry of a pool's users."""
    return {"username": name, "password": password, "pool_size": pool_size, **extra}


def pool(server: Postgres | tuple[str, int], *users: Settings, **extra: object) -> Settings:
    """One pool: in front of a PostgreSQL, or of anything else that listens on (host, port)."""
    host, port = (server.host, server.port) if isinstance(server, Postgres) else server
    return {"server_host": host, "server_port": port, **extra, "users": list(users)}


def toml(settings: Mapping[str, Any]) -> str:
    """The text of a TOML file: nested tables, arrays of tables, plain values."""
    return "\n".join(_toml_lines(settings, ())) + "\n"


def _toml_lines(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterable[str]:
    plain = {key: value for key, value in table.items() if not _is_table(value)}
    if path and (plain or not table):
        yield f"[{_toml_path(path)}]"
    for key, value in plain.items():
        yield f"{_toml_path((key,))} = {_toml_value(value)}"
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _toml_lines(value, (*path, key))
        elif _is_table(value):
            for entry in value:
                yield f"[[{_toml_path((*path, key))}]]"
                yield from _toml_lines(entry, ())


def _is_table(value: object) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and bool(value) and isinstance(value[0], Mapping))


def _toml_path(path: tuple[str, ...]) -> str:
    return ".".join(key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key) for key in path)


def _toml_value(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


class Doorman:
    """One pooler process. Settings given here win over the tests' defaults; `general` and `pools` may be changed before
    a `reload`."""

    host = "127.0.0.1"

    def __init__(
        self,
        directory: Path,
        *,
        pools: Mapping[str, Settings],
        general: Mapping[str, Any] | None = None,
        sections: Mapping[str, Any] | None = None,
        environment: Mapping[str, str | None] | None = None,
        arguments: Iterable[str] = (),
    ) -> None:
        self.directory = directory
        self.port = free_port()
        self.pools: dict[str, Settings] = dict(pools)
        self.general: Settings = {
            "host": self.host,
            "port": self.port,
            "worker_threads": 2,
            "admin_username": ADMIN_USER,
            "admin_password": ADMIN_PASSWORD,
            "query_wait_timeout": "10s",
            "shutdown_timeout": "5s",
            "pg_hba": {"content": HBA},
            **(general or {}),
        }
        self.sections = dict(sections or {})
        self.environment = dict(environment or {})
        self.arguments = list(arguments)
        self._process: Process | None = None

    @property
    def config_file(self) -> Path:
        return self.directory / "pgdoorman.toml"

    @property
    def log_file(self) -> Path:
        return self.directory / "pgdoorman.log"

    def write_config(self) -> Path:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.config_file.write_text(toml({"general": self.general, **self.sections, "pools": self.pools}))
        return self.config_file

    def command(self) -> list[str]:
        return [sys.executable, "-X", "gil=0", "-m", "pgdoorman", *self.arguments, str(self.config_file)]

    # -- life --

    def start(self, patience: float = 60.0) -> None:
        """Writes the configuration, starts, waits until it accepts. Raises DidNotStart with the log."""
        self.write_config()
        self._process = Process(
            self.command(),
            self.log_file,
            # The allocator's setting is what the program would start itself anew for: that takes time, in hundreds of tests.
            environment={"NO_COLOR": "1", NO_ARENAS: "0", **self.environment},
            directory=Path(__file__).parents[2],
        )
        self._process.wait_ready(self._accepts, patience)

    def stop(self, number: signal.Signals = signal.SIGTERM, patience: float = 20.0) -> int:
        """Signals it, waits for its end. Returns the exit code. Raises AssertionError if it does not end in time."""
        if self._process is None:
            return 0
        process, self._process = self._process, None
        return process.stop(number, patience)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None

    def reload(self) -> None:
        """Writes the configuration as it now is and sends SIGHUP; it does not wait for the effect."""
        self.write_config()
        self.process.send_signal(signal.SIGHUP)

    @property
    def process(self) -> Process:
        """Raises AssertionError if it was not started."""
        assert self._process is not None, "the pooler was not started, or was stopped"
        return self._process

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.is_running

    def log(self) -> str:
        return self._process.log() if self._process is not None else self.log_file.read_text(errors="replace")

    def wait_logged(self, text: str, patience: float = 20.0) -> None:
        """Wait for a line that has this in it: lines are written behind the back of whoever logs."""
        wait_until(lambda: text in self.log(), patience, f"{text!r} in the log")

    def state(self) -> str:
        """Pools, clients and servers as the console shows them, without the idle ones; empty if it cannot be asked."""
        with contextlib.suppress(OSError, WireError, ServerError):
            return console_state(self.admin)
        return ""

    def log_tail(self, lines: int = 12) -> str:
        """The end of the log without the coming and going of clients."""
        kept = [line for line in self.log().splitlines() if not re.search(r"client (dis)?connected", line)]
        return "\n".join(kept[-lines:])

    def check_alive(self) -> None:
        """Raises AssertionError, with the end of the log, if the process has ended."""
        assert self.process.is_running, f"the pooler ended with {self.process.exit_code}:\n{self.log()[-6000:]}"

    def _accepts(self) -> bool:
        """Whether it answers. That a connection can be made says only that this door is open, not the others too."""
        try:
            with socket.create_connection((self.host, self.port), timeout=1) as sock:
                sock.sendall(gssenc_request().data)
                return sock.recv(1) == b"N"
        except OSError:
            return False

    # -- use --

    def dial(self, patience: float = 10.0) -> Wire:
        """A connection that has said nothing yet."""
        return Wire.dial(self.host, self.port, patience)

    def connect(
        self,
        database: str = "app",
        user: str = "alice",
        password: str = "",
        parameters: Mapping[str, str] | None = None,
        patience: float = 10.0,
    ) -> Wire:
        return Wire.connect(
            self.host,
            self.port,
            user=user,
            database=database,
            password=password,
            parameters=parameters,
            patience=patience,
        )

    def admin(self, patience: float = 10.0) -> Wire:
        """The console."""
        return console(self.host, self.port, patience)

    def show(self, what: str) -> list[dict[str, str | None]]:
        """The rows of a SHOW command, by column name. Raises ServerError."""
        with self.admin() as wire:
            return table(wire, f"SHOW {what.upper()}")

    # -- what it holds --

    def descriptor_count(self) -> int:
        return self.process.descriptor_count()

    def resident_bytes(self) -> int:
        return self.process.resident_bytes()

    def wait_descriptors(self, base: int, patience: float = 10.0, slack: int = 0) -> None:
        """Waits until no more than `base + slack` descriptors are open."""
        seen = 0

        def few() -> bool:
            nonlocal seen
            seen = self.descriptor_count()
            return seen <= base + slack

        try:
            wait_until(few, patience, "descriptors back to base")
        except AssertionError:
            listing = "\n  ".join(self.process.descriptors())
            raise AssertionError(
                f"{seen} descriptors are open, {base} (+{slack}) were to be left:\n  {listing}"
            ) from None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


class PgBouncer(Doorman):
    """Debian's pgbouncer behind the same interface; what it has no setting for is left out."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        super().__init__(directory, **settings)
        self._user = "postgres" if os.geteuid() == 0 else ""

    @property
    def config_file(self) -> Path:
        return self.directory / "pgbouncer.ini"

    def write_config(self) -> Path:
        self.directory.mkdir(parents=True, exist_ok=True)
        lines = ["[databases]"]
        accounts = {(ADMIN_USER, ADMIN_PASSWORD)}
        size = 10
        for name, settings in self.pools.items():
            target = settings.get("server_database", name)
            size = max([entry["pool_size"] for entry in settings["users"]], default=10)
            accounts |= {(entry["username"], entry["password"]) for entry in settings["users"]}
            address = f"host={settings['server_host']} port={settings['server_port']} dbname={target}"
            mode = settings.get("pool_mode", "transaction")
            lines.append(f"{name} = {address} pool_size={size} pool_mode={mode}")
        wait = _seconds(self.general.get("query_wait_timeout", "10s"))
        secrets = self.directory / "users.txt"
        secrets.write_text("".join(f'"{name}" "{password}"\n' for name, password in sorted(accounts)))
        lines += [
            "[pgbouncer]",
            f"listen_addr = {self.host}",
            f"listen_port = {self.port}",
            "unix_socket_dir =",
            "auth_type = trust",
            f"auth_file = {secrets}",
            f"admin_users = {ADMIN_USER}",
            "max_client_conn = 2000",
            f"query_wait_timeout = {wait:g}",
            "ignore_startup_parameters = extra_float_digits,options,search_path,DateStyle,IntervalStyle",
        ]
        self.config_file.write_text("\n".join(lines) + "\n")
        if self._user:
            for path in (self.directory, self.config_file, secrets):
                shutil.chown(path, self._user, self._user)
        return self.config_file

    def command(self) -> list[str]:
        return [shutil.which("pgbouncer") or "/usr/sbin/pgbouncer", str(self.config_file)]

    def start(self, patience: float = 60.0) -> None:
        self.write_config()
        self._process = Process(self.command(), self.log_file, user=self._user)
        self._process.wait_ready(self._accepts, patience)

    def admin(self, patience: float = 10.0) -> Wire:
        return self.connect("pgbouncer", ADMIN_USER, ADMIN_PASSWORD, patience=patience)


class PostgresItself(Doorman):
    """Nothing in between: clients of a pool talk to the server behind it."""

    def start(self, patience: float = 60.0) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.log_file.touch()
        self.port = int(next(iter(self.pools.values()))["server_port"])

    def connect(
        self,
        database: str = "app",
        user: str = "alice",
        password: str = "",
        parameters: Mapping[str, str] | None = None,
        patience: float = 10.0,
    ) -> Wire:
        target = self.pools[database].get("server_database", database)
        return super().connect(target, user, password, parameters, patience)

    @property
    def is_running(self) -> bool:
        return True

    def check_alive(self) -> None:
        pass


def _seconds(value: object) -> float:
    if isinstance(value, int):
        return value / 1000
    found = re.fullmatch(r"(\d+)\s*(ms|s|m)?", str(value))
    assert found is not None, value
    return int(found[1]) * {"ms": 0.001, "s": 1.0, "m": 60.0, None: 0.001}[found[2]]


def table(wire: Wire, sql: str) -> list[dict[str, str | None]]:
    """The rows of one query, by column name. Raises ServerError."""
    names: list[str] = []
    found: list[dict[str, str | None]] = []
    for reply in wire.ask(query(sql)):
        if reply.kind == "E":
            raise ServerError(reply)
        if reply.kind == "T":
            names = reply.column_names()
        elif reply.kind == "D":
            values = [None if value is None else value.decode() for value in reply.columns()]
            found.append(dict(zip(names, values, strict=True)))
    return found


def console(host: str, port: int, patience: float = 10.0) -> Wire:
    """The console of a pgdoorman that the tests have configured."""
    return Wire.connect(host, port, user=ADMIN_USER, database="pgdoorman", password=ADMIN_PASSWORD, patience=patience)


def console_state(connect: Callable[[], Wire]) -> str:
    """What SHOW POOLS, CLIENTS and SERVERS say, one row a line, without what is empty or zero."""
    lines = []
    with connect() as wire:
        for what in ("POOLS", "CLIENTS", "SERVERS"):
            for row in table(wire, f"SHOW {what}"):
                told = " ".join(f"{name}={value}" for name, value in row.items() if value not in (None, "", "0"))
                lines.append(f"    {what}: {told}")
    return "\n".join(lines)


def missing() -> str:
    """Why no pooler can be started; empty if one can."""
    if stand_in() == "pgbouncer":
        return "" if shutil.which("pgbouncer") or Path("/usr/sbin/pgbouncer").exists() else "pgbouncer is not installed"
    if stand_in():
        return ""
    try:
        found = importlib.util.find_spec("pgdoorman.cli.main")
    except ModuleNotFoundError:
        found = None
    return "" if found is not None else "pgdoorman.cli.main does not exist yet"


def stand_in() -> str:
    """What the suites run against instead, to judge the suites: "postgres", "pgbouncer", or nothing."""
    return os.environ.get("PGDOORMAN_TEST_POOLER", "")


def make_doorman(directory: Path, **settings: Any) -> Doorman:
    """A Doorman, or the stand-in."""
    kinds: dict[str, type[Doorman]] = {"pgbouncer": PgBouncer, "postgres": PostgresItself, "": Doorman}
    return kinds[stand_in()](directory, **settings)
