"""The options by which a command is told which running pgdoorman it is meant for. They are written down here once."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer


@dataclass(frozen=True, slots=True)
class Target:
    """What the command line says about the instance; what is None is to be found out."""

    config: Path | None = None
    process_id: int | None = None
    host: str | None = None
    port: int | None = None
    user: str | None = None
    password: str | None = None
    patience: float = 10.0
    """Seconds for connecting and for each answer."""


JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _options(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", envvar="CONFIG_FILE", help="Its configuration file: for pid file, address, admin."
        ),
    ] = None,
    process_id: Annotated[int | None, typer.Option("--pid", help="Its process id.")] = None,
    host: Annotated[
        str | None, typer.Option("--host", help="Its host or socket directory, to go over the network.")
    ] = None,
    port: Annotated[int | None, typer.Option("--port", "-p", help="Its port.")] = None,
    user: Annotated[str | None, typer.Option("--user", "-U", help="The admin's name, with --host.")] = None,
    password: Annotated[
        str | None, typer.Option("--password", envvar="PGPASSWORD", help="The admin's password, with --host.")
    ] = None,
    patience: Annotated[float, typer.Option("--timeout", min=0.001, help="Seconds to wait for an answer.")] = 10.0,
) -> Target:
    return Target(config, process_id, host, port, user, password, patience)


def targeted(*, timeout: float) -> Callable[[Callable[..., int]], Callable[..., None]]:
    """Have a command take these options beside its own and get them as one value, `target`, its first parameter; `timeout`
    is how many seconds it waits unless told otherwise. What the command returns is the exit code."""
    added = inspect.signature(_options, eval_str=True).parameters
    added_options = [
        option.replace(default=timeout, kind=option.KEYWORD_ONLY)
        if name == "patience"
        else option.replace(kind=option.KEYWORD_ONLY)
        for name, option in added.items()
    ]

    def decorate(command: Callable[..., int]) -> Callable[..., None]:
        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

        @wraps(command)
        def run(**words: Any) -> None:
            target = _options(**{name: words.pop(name) for name in added})
            raise typer.Exit(command(target, **words))

        # What typer reads: a command whose options are all its own.
        run.__signature__ = inspect.Signature([*own, *added_options])  # type: ignore[attr-defined]
        hints = get_type_hints(command, include_extras=True) | get_type_hints(_options, include_extras=True)
        run.__annotations__ = {name: hint for name, hint in hints.items() if name not in ("target", "return")}
        return run

    return decorate
