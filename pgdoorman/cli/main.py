"""The program's front door: reads the command line and does what it says.

`pgdoorman CONFIG` is `pgdoorman run CONFIG`: the first word is a command if it is the name of one, and a file otherwise.
"""

import os
import platform
import sys
from pathlib import Path
from typing import Annotated

import typer

from pgdoorman import __version__
from pgdoorman.cli.gil import ensure_gil_off

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


@app.callback()
def main_options(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """A PostgreSQL connection pooler."""


@app.command()
def run(
    config: Annotated[Path, typer.Argument(envvar="CONFIG_FILE", help="Configuration file, TOML or YAML.")] = Path(
        DEFAULT_CONFIG
    ),
    test: Annotated[bool, typer.Option("--test-config", "-t", help="Check the configuration and exit.")] = False,
    log_level: Annotated[str, typer.Option("--log-level", "-l", envvar="LOG_LEVEL", help=", ".join(LEVELS))] = "info",
    log_format: Annotated[
        str, typer.Option("--log-format", "-F", envvar="LOG_FORMAT", help=", ".join(FORMATS))
    ] = "text",
) -> None:
    """Run the pooler in the foreground (the default command)."""
    from pgdoorman.cli import run as runner

    if test:
        raise typer.Exit(runner.test_config(config))
    level = _one_of(LEVELS, "log level", log_level)
    form = _one_of(FORMATS, "log format", log_format)
    raise typer.Exit(runner.run(config, level, form))


@app.command()
def check(
    config: Annotated[Path, typer.Argument(envvar="CONFIG_FILE", help="Configuration file, TOML or YAML.")] = Path(
        DEFAULT_CONFIG
    ),
) -> None:
    """Check a configuration file and exit: 0 if it can be used, 78 if not."""
    from pgdoorman.cli import run as runner

    raise typer.Exit(runner.test_config(config))


@app.command()
def demo(
    port: Annotated[int, typer.Option("--port", "-p", help="First port to try for pgdoorman.")] = 6432,
) -> None:
    """Start an embedded PostgreSQL with pgdoorman in front of it; Ctrl-C stops both."""
    from pgdoorman.cli.demo import run_demo

    raise typer.Exit(run_demo(port))


COMMANDS = frozenset({"run", "check", "demo"})
OWN_OPTIONS = frozenset({"--version", "-V", "--help", "--install-completion", "--show-completion"})


def with_command(arguments: list[str]) -> list[str]:
    """The arguments with the default command where none is named."""
    if arguments and (arguments[0] in COMMANDS or arguments[0] in OWN_OPTIONS):
        return arguments
    return ["run", *arguments]


def main() -> None:
    """Entry point of the console script and of `python -m pgdoorman`."""
    arguments = sys.argv[1:]
    ensure_gil_off(arguments)
    # A script that is started by another Python must find this package again after a re-exec; nobody else needs it.
    os.environ.pop("PYTHON_GIL", None)
    app(with_command(arguments), prog_name="pgdoorman")
