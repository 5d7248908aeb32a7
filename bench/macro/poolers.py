"""Starts the poolers that are ours to start; `Target` is anything that can be measured."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.macro.children import free_port, own_directory, spawn, stop, unprivileged
from bench.macro.options import Address, Options, Peer
from bench.macro.postgres import Postgres
from bench.macro.wire import offers_tls, wait_until_answers

STOP_SECONDS = 15.0
LOG_TAIL_LINES = 12
DIRECT = "direct"
PREPARED_SINCE = (1, 21)
"""The PgBouncer that brought prepared statements in transaction pooling."""
REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Target:
    """Something that answers queries. `pid` is None where there is no process whose CPU is to be charged; `fresh` says
    that it was started for this group of measurements, so that its memory holds nothing of earlier ones."""

    name: str
    address: Address
    pid: int | None
    version: str
    fresh: bool
    log: Path | None = None
    lacks: frozenset[str] = frozenset()
    """Protocols (pgbench's -M) that it is known not to serve in transaction pooling."""

    def last_words(self) -> str:
        """The end of its log on lines of their own, empty without a log."""
        if self.log is None or not self.log.exists():
            return ""
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return "".join(f"\n    {line}" for line in lines)


@dataclass(frozen=True, slots=True)
class Certificate:
    """Files of a self-signed certificate."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Setup:
    """What every pooler of one group gets."""

    postgres: Postgres
    scratch: Path
    pool: int
    most_clients: int
    certificate: Certificate | None


class CannotStart(Exception):
    """A pooler that was asked for does not run."""


def make_certificate(scratch: Path) -> Certificate | None:
    """A certificate for localhost that is valid for a day, readable by the unprivileged account; None without openssl.

    ECDSA P-256, as is usual today: with a 2048-bit RSA key a reconnect would measure little but RSA.
    """
    directory = own_directory(scratch, "certificate", unprivileged())
    made = Certificate(directory / "server.crt", directory / "server.key")
    try:
        command = (
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=localhost"
        )
        subprocess.run(
            [*command.split(), "-out", str(made.certificate), "-keyout", str(made.key)], check=True, capture_output=True
        )
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    account = unprivileged()
    for file in (made.certificate, made.key):
        file.chmod(0o600)
        if account:
            os.chown(file, account.uid, account.gid)
    return made


def doorman_settings(setup: Setup, options: Options, port: int) -> str:
    """pgdoorman's configuration, as TOML. Defaults stay except where two poolers would otherwise differ."""
    lines = [
        "[general]",
        'host = "127.0.0.1"',
        f"port = {port}",
        'admin_username = "admin"',
        'admin_password = "bench"',
        f"worker_threads = {options.workers}",
        f"max_connections = {setup.most_clients + 100}",
        'query_wait_timeout = "60s"',
        "log_client_connections = false",
        "log_client_disconnections = false",
        'pg_hba = {content = "host all all 127.0.0.1/32 trust"}',
        *options.doorman_options,
    ]
    if setup.certificate:
        lines += [
            f'tls_certificate = "{setup.certificate.certificate}"',
            f'tls_private_key = "{setup.certificate.key}"',
            'tls_mode = "allow"',
        ]
    lines += [
        "[pools.postgres]",
        'pool_mode = "transaction"',
        f'server_host = "{setup.postgres.address.host}"',
        f"server_port = {setup.postgres.address.port}",
        "[[pools.postgres.users]]",
        'username = "postgres"',
        'password = ""',
        f"pool_size = {setup.pool}",
    ]
    return "\n".join(lines) + "\n"


def pgbouncer_settings(setup: Setup, port: int, version: tuple[int, ...]) -> str:
    """PgBouncer's configuration."""
    address = setup.postgres.address
    lines = [
        "[databases]",
        f"postgres = host={address.host} port={address.port} dbname=postgres user=postgres",
        "[pgbouncer]",
        "listen_addr = 127.0.0.1",
        f"listen_port = {port}",
        "unix_socket_dir =",
        "auth_type = any",
        "pool_mode = transaction",
        f"default_pool_size = {setup.pool}",
        f"max_client_conn = {setup.most_clients + 100}",
        "listen_backlog = 4096",
        "query_wait_timeout = 60",
        "log_connections = 0",
        "log_disconnections = 0",
        "log_stats = 0",
    ]
    if version >= PREPARED_SINCE:
        lines.append("max_prepared_statements = 200")
    if setup.certificate:
        lines += [
            "client_tls_sslmode = allow",
            f"client_tls_cert_file = {setup.certificate.certificate}",
            f"client_tls_key_file = {setup.certificate.key}",
        ]
    return "\n".join(lines) + "\n"


def pgbouncer_version(program: str) -> tuple[int, ...]:
    """(1, 25, 2), for example. Raises CannotStart if the program does not say."""
    try:
        said = subprocess.run([program, "--version"], check=False, capture_output=True, text=True, timeout=10).stdout
    except OSError as error:
        raise CannotStart(str(error)) from error
    found = re.search(r"PgBouncer ([0-9]+(?:\.[0-9]+)*)", said)
    if not found:
        raise CannotStart(f"{program} --version says {said!r}")
    return tuple(int(part) for part in found[1].split("."))


@contextmanager
def _running(process: subprocess.Popen[bytes], address: Address, log: Path) -> Iterator[None]:
    try:
        try:
            wait_until_answers(address, lambda: process.poll() is None, log)
        except RuntimeError as error:
            raise CannotStart(str(error)) from error
        yield
    finally:
        stop(process, signal.SIGTERM, STOP_SECONDS)


@contextmanager
def doorman(setup: Setup, options: Options, environment: Mapping[str, str] | None = None) -> Iterator[Target]:
    """pgdoorman of this tree, on the interpreter that runs the benchmark. Raises CannotStart."""
    address = Address("127.0.0.1", free_port())
    directory = own_directory(setup.scratch, "pgdoorman", None)
    config = directory / "pgdoorman.toml"
    config.write_text(doorman_settings(setup, options, address.port))
    log = directory / "log"
    command = [sys.executable, "-X", "gil=0", "-m", "pgdoorman", str(config)]
    # Of this tree, wherever the benchmark was started and whatever is installed: -m looks in its directory first.
    process = spawn(command, log=log, environment=environment, directory=REPOSITORY)
    with _running(process, address, log):
        yield Target("pgdoorman", address, process.pid, _tree_version(), True, log)


def _tree_version() -> str:
    said = subprocess.run(
        ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"],
        check=False,
        capture_output=True,
        text=True,
    )
    return said.stdout.strip() or "unknown"


@contextmanager
def pgbouncer(setup: Setup, program: str) -> Iterator[Target]:
    """A PgBouncer with the same pool. Raises CannotStart."""
    version = pgbouncer_version(program)
    account = unprivileged()
    address = Address("127.0.0.1", free_port())
    directory = own_directory(setup.scratch, "pgbouncer", account)
    config = directory / "pgbouncer.ini"
    config.write_text(pgbouncer_settings(setup, address.port, version))
    config.chmod(0o644)
    log = setup.scratch / "pgbouncer.log"
    lacks = frozenset[str]() if version >= PREPARED_SINCE else frozenset({"prepared"})
    process = spawn([program, "-q", str(config)], log=log, account=account)
    with _running(process, address, log):
        yield Target("pgbouncer", address, process.pid, ".".join(map(str, version)), True, log, lacks)


def _elsewhere(peer: Peer) -> Target:
    return Target(peer.name, peer.address, peer.pid, "", False)


@contextmanager
def fleet(setup: Setup, options: Options, complaints: dict[str, str]) -> Iterator[tuple[Target, ...]]:
    """Everything that is to be measured, running. What cannot start is left out and said in `complaints` by name."""
    with ExitStack() as stack:
        directory = own_directory(setup.scratch, f"fleet-{len(list(setup.scratch.glob('fleet-*')))}", None)
        directory.chmod(0o711)
        placed = Setup(setup.postgres, directory, setup.pool, setup.most_clients, setup.certificate)
        targets: list[Target] = []
        if options.doorman:
            try:
                targets.append(stack.enter_context(doorman(placed, options)))
            except CannotStart as error:
                complaints["pgdoorman"] = str(error)
        if options.pgbouncer:
            try:
                targets.append(stack.enter_context(pgbouncer(placed, options.pgbouncer)))
            except CannotStart as error:
                complaints["pgbouncer"] = str(error)
        targets += [_elsewhere(peer) for peer in options.peers]
        if options.direct:
            postgres = setup.postgres
            targets.append(Target(DIRECT, postgres.address, None, postgres.version, True))
        if setup.certificate:
            for target in targets[:]:
                if target.name == DIRECT:
                    targets.remove(target)
                elif not offers_tls(target.address):
                    targets.remove(target)
                    complaints[target.name] = "offers no TLS"
        yield tuple(targets)
