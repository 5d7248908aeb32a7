"""`pgdoorman check-hba` and `pgdoorman hash-password`: who may come in, and what to store for whom."""

import getpass
import ipaddress
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

EX_CONFIG = 78
REFUSED = 1


def check_hba(
    path: Path, user: str, database: str, address: str, *, tls: bool = False, replication: str = "", rules: bool = False
) -> int:
    """Print which line of the rules decides about a connection. `address` is an IP address, or `local` for a unix
    socket; `replication` is as a client would send it. `path` is a configuration file or, with `rules`, a file of
    rules. Returns 0 if the line lets the client prove itself, 1 if it is refused, 78 if the files cannot be read."""
    from pgdoorman.auth.hba import HbaRules, Method, load_hba
    from pgdoorman.auth.hba_decision import HbaQuestion, explain
    from pgdoorman.config.load import load
    from pgdoorman.doorman.access import read_access
    from pgdoorman.errors import ConfigError, ProtocolViolation
    from pgdoorman.protocol.startup import parse_replication

    try:
        found: HbaRules = load_hba(str(path)) if rules else read_access(load(path)).rules
        wanted = parse_replication(replication)
    except (ConfigError, ProtocolViolation) as error:
        print(error, file=sys.stderr)
        return EX_CONFIG
    where = None if address == "local" else address
    if where is not None and not _is_address(where):
        print(f'"{address}" is neither an IP address nor "local"', file=sys.stderr)
        return EX_CONFIG
    explanation = explain(found, HbaQuestion(user, database, where, tls, wanted))
    print(explanation.text())
    return REFUSED if explanation.method is Method.REJECT else 0


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def hash_password(user: str, method: str, iterations: int, ask: Callable[[], str] | None = None) -> int:
    """Print what to store for a password, which is asked for (twice, without echo) or read from a pipe, never taken
    from the command line, where others could see it. Returns the exit code."""
    from pgdoorman.auth.secrets import hash_password as hashed
    from pgdoorman.errors import ConfigError

    if method == "md5" and not user:
        print("md5 needs the name of the user (--user): it is part of what is hashed", file=sys.stderr)
        return REFUSED
    try:
        print(hashed(user, (ask or _ask)(), method, iterations))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return REFUSED
    return 0


def _ask() -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().removesuffix("\n").removesuffix("\r")
    password = getpass.getpass("Password: ")
    if getpass.getpass("Once more: ") != password:
        print("the two are not the same", file=sys.stderr)
        raise typer.Exit(REFUSED)
    return password


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""

    @app.command("check-hba")
    def check_hba_command(
        user: Annotated[str, typer.Argument(help="The user that wants in.")],
        database: Annotated[str, typer.Argument(help="The database it asks for.")],
        address: Annotated[str, typer.Argument(help="Its IP address, or local for a unix socket.")],
        tls: Annotated[bool, typer.Option("--tls", help="It comes with TLS.")] = False,
        replication: Annotated[
            str, typer.Option("--replication", help="true (physical) or database (logical), as a client sends it.")
        ] = "",
        config: Annotated[
            Path, typer.Option("--config", "-c", envvar="CONFIG_FILE", help="Configuration file.")
        ] = Path("pgdoorman.toml"),
        rules: Annotated[
            Path | None, typer.Option("--hba", help="A file of rules, in place of the configuration's.")
        ] = None,
    ) -> None:
        """Say which line of pg_hba decides about a connection: 0 if it may prove itself, 1 if it is refused."""
        path = config if rules is None else rules
        raise typer.Exit(
            check_hba(path, user, database, address, tls=tls, replication=replication, rules=rules is not None)
        )

    @app.command("hash-password")
    def hash_password_command(
        user: Annotated[str, typer.Option("--user", "-u", help="Whose it is; only md5 needs it.")] = "",
        method: Annotated[str, typer.Option("--method", "-m", help="scram-sha-256 or md5.")] = "scram-sha-256",
        iterations: Annotated[int, typer.Option("--iterations", "-i", help="Rounds of SCRAM.")] = 4096,
    ) -> None:
        """Print what to store for a password: it is asked for, or read from standard input."""
        raise typer.Exit(hash_password(user, method, iterations))
