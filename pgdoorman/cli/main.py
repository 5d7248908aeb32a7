"""The program's front door: reads the command line and does what it says.

`pgdoorman CONFIG` is `pgdoorman run CONFIG`: the first word is a command if it is the name of one, and a file otherwise.
"""

import difflib
import errno
import os
import platform
import sys
from pathlib import Path
from typing import Annotated

import typer

from pgdoorman import __version__
from pgdoorman.cli import access
from pgdoorman.cli.gil import ensure_gil_off
from pgdoorman.cli.target import JsonOption, Target, targeted

DEFAULT_CONFIG = "pgdoorman.toml"
LEVELS = ("error", "warn", "info", "debug", "trace")
FORMATS = ("text", "structured", "debug")

app = typer.Typer(
    name="pgdoorman",
    help="A PostgreSQL connection pooler.",
    no_args_is_help=False,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def version_text() -> str:
    """What `--version` prints."""
    from pgdoorman.doorman.house import gil_enabled, interpreter

    gil = "on" if gil_enabled() else "off"
    return f"pgdoorman {__version__} (Python {interpreter()}, GIL {gil}, {platform.system()} {platform.machine()})"


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version_text())
        raise typer.Exit


def _one_of(allowed: tuple[str, ...], what: str, value: str) -> str:
    if value.lower() not in allowed:
        raise typer.BadParameter(f"{value!r} is no {what}; allowed are {', '.join(allowed)}")
    return value.lower()


def _levels(text: str) -> str:
    from pgdoorman.errors import ConfigError
    from pgdoorman.logs.levels import parse_levels

    try:
        parse_levels(text)
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from None
    return text


@app.callback()
def main_options(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """A PostgreSQL connection pooler."""


def _suspect_command(config: Path) -> None:
    """A word that is no file and looks like a command was meant to be one."""
    near = difflib.get_close_matches(str(config), commands(), n=1)
    if near and not config.exists():
        typer.echo(f'pgdoorman: there is no file "{config}"; did you mean the command "{near[0]}"?', err=True)


# --- running ----------------------------------------------------------------------------------------------------------

ConfigArgument = Annotated[Path, typer.Argument(envvar="CONFIG_FILE", help="Configuration file, TOML or YAML.")]


@app.command()
def run(
    config: ConfigArgument = Path(DEFAULT_CONFIG),
    test: Annotated[bool, typer.Option("--test-config", "-t", help="Check the configuration and exit.")] = False,
    log_level: Annotated[
        str,
        typer.Option("--log-level", "-l", envvar="LOG_LEVEL", help=f"{', '.join(LEVELS)}; or info,pool=debug"),
    ] = "info",
    log_format: Annotated[
        str, typer.Option("--log-format", "-F", envvar="LOG_FORMAT", help=", ".join(FORMATS))
    ] = "text",
    no_color: Annotated[
        bool, typer.Option("--no-color", "-n", help="No colours in the log. (Also: NO_COLOR.)")
    ] = False,
    daemon: Annotated[
        bool, typer.Option("--daemon", "-d", envvar="DAEMON", help="Run in the background, with daemon_pid_file.")
    ] = False,
    inherit_fd: Annotated[
        list[int] | None,
        typer.Option("--inherit-fd", envvar="INHERIT_FD", help="A listening socket that is open already; repeatable."),
    ] = None,
) -> None:
    """Run the pooler (the default command)."""
    from pgdoorman.cli import run as runner
    from pgdoorman.cli.terminal import has_colours

    _suspect_command(config)
    if test:
        raise typer.Exit(runner.check_config(config))
    options = runner.RunOptions(
        log_level=_levels(log_level),
        log_format=_one_of(FORMATS, "log format", log_format),
        colours=not no_color and not daemon and has_colours(2),
        daemon=daemon,
        inherited=inherit_fd or (),
    )
    raise typer.Exit(runner.run(config, options))


@app.command()
def check(
    config: ConfigArgument = Path(DEFAULT_CONFIG),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a configuration file and exit: 0 if it can be used, 78 if not."""
    from pgdoorman.cli import run as runner

    raise typer.Exit(runner.check_config(config, as_json=as_json))


@app.command()
def generate(
    host: Annotated[
        str, typer.Option("--host", envvar="PGHOST", help="PostgreSQL's host or socket directory.")
    ] = "localhost",
    port: Annotated[int, typer.Option("--port", "-p", envvar="PGPORT", help="Its port.")] = 5432,
    user: Annotated[
        str, typer.Option("--user", "-u", envvar="PGUSER", help="Who asks; best a superuser.")
    ] = "postgres",
    password: Annotated[
        str | None, typer.Option("--password", envvar="PGPASSWORD", help="That role's password.")
    ] = None,
    database: Annotated[
        str | None,
        typer.Option("--database", "-d", envvar="PGDATABASE", help="Where to ask; the user's name if not given."),
    ] = None,
    ssl: Annotated[bool, typer.Option("--ssl", help="Ask with TLS, and have the pooler do so, too.")] = False,
    pool_size: Annotated[int, typer.Option("--pool-size", min=1, help="Of each user in each database.")] = 40,
    session_pool_mode: Annotated[bool, typer.Option("--session-pool-mode", "-s", help="Pool by session.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; stdout if not given.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    server_host: Annotated[str | None, typer.Option("--server-host", help="Its host as the pooler sees it.")] = None,
    no_comments: Annotated[bool, typer.Option("--no-comments", help="Nothing but settings.")] = False,
    reference: Annotated[bool, typer.Option("--reference", help="Every key with its default; asks nobody.")] = False,
    from_pgbouncer: Annotated[
        Path | None, typer.Option("--from-pgbouncer", help="Convert this pgbouncer.ini; asks nobody.")
    ] = None,
    russian_comments: Annotated[bool, typer.Option("--russian-comments", "--ru", hidden=True)] = False,
    file_format: Annotated[
        str | None, typer.Option("--format", "-f", help="toml or yaml; else by the ending of the output, else yaml.")
    ] = None,
) -> None:
    """Write a configuration: from the roles and databases of a PostgreSQL, from a pgbouncer.ini, or with every key."""
    from pgdoorman.cli import generate as generator

    if russian_comments:
        typer.echo("note: there are comments in English only", err=True)
    try:
        language = generator.language_of(file_format, output)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    destination = generator.Destination(output, language, force=force)
    if not destination.is_free():
        raise typer.Exit(generator.EX_CANTCREAT)
    if reference:
        raise typer.Exit(generator.reference(destination))
    if from_pgbouncer is not None:
        raise typer.Exit(generator.from_pgbouncer(from_pgbouncer, destination, comments=not no_comments))
    options = generator.GenerateOptions(
        host,
        port,
        user,
        password,
        database,
        tls=ssl,
        pool_size=pool_size,
        session_mode=session_pool_mode,
        server_host=server_host,
        comments=not no_comments,
    )
    raise typer.Exit(generator.from_server(options, destination))


@app.command()
def demo(
    port: Annotated[int, typer.Option("--port", "-p", help="First port to try for pgdoorman.")] = 6432,
) -> None:
    """Start an embedded PostgreSQL with pgdoorman in front of it; Ctrl-C stops both."""
    from pgdoorman.cli.demo import run_demo

    raise typer.Exit(run_demo(port))


# --- operating one that runs ------------------------------------------------------------------------------------------


@app.command()
@targeted(timeout=60.0)
def reload(target: Target, as_json: JsonOption = False) -> int:
    """Have the running pgdoorman read its configuration again, and print what changed. 0 only if it was applied."""
    from pgdoorman.cli import operate

    return operate.reload(target, as_json=as_json)


@app.command()
@targeted(timeout=60.0)
def stop(
    target: Target,
    graceful: Annotated[
        bool, typer.Option("--graceful/--now", help="Let transactions finish (shutdown_timeout), or do not.")
    ] = True,
    wait: Annotated[float, typer.Option("--wait", help="Seconds to wait until it is gone; 0: do not wait.")] = 120.0,
) -> int:
    """Stop the running pgdoorman and wait until it is gone."""
    from pgdoorman.cli import operate

    return operate.stop(target, now=not graceful, wait=wait)


@app.command()
@targeted(timeout=10.0)
def status(target: Target, as_json: JsonOption = False) -> int:
    """Which pgdoorman runs, since when, and how much it has to do."""
    from pgdoorman.cli import operate

    return operate.status(target, as_json=as_json)


def _complete_show(incomplete: str) -> list[str]:
    from pgdoorman.admin.show import NAMES

    return [name.lower() for name in NAMES if name.lower().startswith(incomplete.lower())]


@app.command()
@targeted(timeout=10.0)
def show(
    target: Target,
    what: Annotated[
        list[str],
        typer.Argument(
            help="As behind SHOW in the console: pools, clients, servers, help ...", autocompletion=_complete_show
        ),
    ],
    as_json: JsonOption = False,
) -> int:
    """What the console shows, as a table or as JSON."""
    from pgdoorman.cli import operate

    return operate.show(target, what, as_json=as_json)


DatabaseArgument = Annotated[str, typer.Argument(help="The database; all of them if it is left out.")]


def _add_order(verb: str, help_text: str) -> None:
    @app.command(verb.lower(), help=help_text)
    @targeted(timeout=60.0)
    def command(target: Target, database: DatabaseArgument = "") -> int:
        from pgdoorman.cli import operate

        return operate.order(target, verb, database)


_add_order("PAUSE", "Give out no backend any more; transactions finish, new queries wait.")
_add_order("RESUME", "End a pause.")
_add_order("RECONNECT", "Replace every backend as soon as nobody holds it.")
_add_order("KILL", "Pause, and close clients and backends.")


@app.command()
@targeted(timeout=120.0)
def upgrade(target: Target) -> int:
    """Start a new process in the place of the running one; that one serves its clients until they leave."""
    from pgdoorman.cli import operate

    return operate.order(target, "UPGRADE")


@app.command()
@targeted(timeout=10.0)
def top(
    target: Target,
    interval: Annotated[float, typer.Option("--interval", "-i", min=0.1, help="Seconds between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print one screen and exit.")] = False,
) -> int:
    """A live screen of pools, clients, rates and latencies."""
    from pgdoorman.cli import top as screen

    return screen.run(target, interval, once)


# --- its configuration file -------------------------------------------------------------------------------------------

config_app = typer.Typer(
    help="Read and change keys of the configuration file; its comments stay.", no_args_is_help=True
)
app.add_typer(config_app, name="config")

KeyArgument = Annotated[
    str, typer.Argument(help="general.idle_timeout, pools.shop.server_host, pools.shop.users.alice.pool_size ...")
]
ReloadOption = Annotated[bool, typer.Option("--reload", help="Then have the running pgdoorman reload it.")]


def _complete_key(incomplete: str) -> list[str]:
    from pgdoorman.config.keys import Section, Since, keys_of

    sections = (Section.GENERAL, Section.WEB, Section.TALOS)
    names = (
        f"{section}.{name}"
        for section in sections
        for name, key in keys_of(section).items()
        if key.since is not Since.LATER
    )
    return [name for name in names if name.startswith(incomplete)]


@config_app.command("get")
@targeted(timeout=10.0)
def config_get(
    target: Target,
    key: Annotated[
        str | None, typer.Argument(help="The key; all of them if it is left out.", autocompletion=_complete_key)
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Print what the configuration says, or what it inherits; secrets are not shown."""
    from pgdoorman.cli import config_file
    from pgdoorman.cli.instances import config_path

    return config_file.get(config_path(target), key, as_json=as_json)


@config_app.command("set")
@targeted(timeout=60.0)
def config_set(
    target: Target,
    key: KeyArgument,
    value: Annotated[
        list[str] | None,
        typer.Argument(help="The value; several for a list. A secret is asked for, or read from a pipe."),
    ] = None,
    then_reload: ReloadOption = False,
) -> int:
    """Give a key another value. The file is checked first, and left alone if it could not be used then."""
    from pgdoorman.cli import config_file, operate
    from pgdoorman.cli.instances import config_path

    code = config_file.put(config_path(target), key, value or [])
    return code if code or not then_reload else operate.reload(target, as_json=False)


@config_app.command("unset")
@targeted(timeout=60.0)
def config_unset(target: Target, key: KeyArgument, then_reload: ReloadOption = False) -> int:
    """Take a key out, so that its default holds. The file is checked first, and left alone if it could not be used then."""
    from pgdoorman.cli import config_file, operate
    from pgdoorman.cli.instances import config_path

    code = config_file.take_out(config_path(target), key)
    return code if code or not then_reload else operate.reload(target, as_json=False)


access.register(app)


# --- which command ----------------------------------------------------------------------------------------------------

EX_IOERR = 74

_OUTPUT_ERRORS = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO)

OWN_OPTIONS = frozenset({"--version", "-V", "--help", "--install-completion", "--show-completion"})


def commands() -> frozenset[str]:
    """The names of all commands."""
    names = [
        command.name or getattr(command.callback, "__name__", "").replace("_", "-")
        for command in app.registered_commands
    ]
    names += [str(group.name) for group in app.registered_groups]
    return frozenset(filter(None, names))


def with_command(arguments: list[str]) -> list[str]:
    """The arguments with the default command where none is named."""
    if arguments and (arguments[0] in commands() or arguments[0] in OWN_OPTIONS):
        return arguments
    return ["run", *arguments]


def main() -> None:
    """Entry point of the console script and of `python -m pgdoorman`."""
    arguments = sys.argv[1:]
    ensure_gil_off(arguments, serves=with_command(arguments)[0] == "run")
    # A script that is started by another Python must find this package again after a re-exec; nobody else needs it.
    os.environ.pop("PYTHON_GIL", None)
    try:
        try:
            app(with_command(arguments), prog_name="pgdoorman")
        finally:
            sys.stdout.flush()
    except OSError as error:
        if error.errno not in _OUTPUT_ERRORS:
            raise
        # Else the interpreter tries once more at its end, and complains.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno != errno.EPIPE:
            print(f"pgdoorman: cannot write what was to be said: {error.strerror}", file=sys.stderr)
        sys.exit(EX_IOERR)
