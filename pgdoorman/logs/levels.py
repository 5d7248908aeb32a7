"""Which lines are written: a least level for all, and for single components."""

import logging
import pkgutil
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pgdoorman.errors import ConfigError

PACKAGE: Final = "pgdoorman"

TRACE: Final = 5
_OFF: Final = logging.CRITICAL + 10
_LEVELS: Final = {
    "trace": TRACE,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "off": _OFF,
}


@dataclass(frozen=True, slots=True)
class Levels:
    """The least level that is written, for everything and for single components."""

    text: str
    default: int
    components: Mapping[str, int]
    """By the full name of the logger."""


def parse_levels(text: str) -> Levels:
    """`info`, or `info,pool=debug,client.login=trace`: a level for all and levels of components.

    A component is a room or a module of ours (`pool`, `pool.ledger`, `pgdoorman.pool`, `pgdoorman::pool`) or a logger
    of a library that is in use. Without a level for all that is info. Raises `ConfigError` for anything else.
    """
    default = logging.INFO
    components: dict[str, int] = {}
    for item in text.split(","):
        name, equals, level = (part.strip() for part in item.partition("="))
        if not equals:
            default = _level(name)
        else:
            components[_component(name)] = _level(level)
    return Levels(text.strip(), default, components)


def _level(name: str) -> int:
    if name.lower() not in _LEVELS:
        raise ConfigError(f"no such log level: {name!r} (trace, debug, info, warn, error, off)", key="log_level")
    return _LEVELS[name.lower()]


def _component(name: str) -> str:
    path = name.replace("::", ".")
    if re.fullmatch(r"[A-Za-z_][\w.]*", path):
        own = path.removeprefix(f"{PACKAGE}.")
        if own.split(".", 1)[0] in _rooms():
            return f"{PACKAGE}.{own}"
        if path == PACKAGE or path in logging.root.manager.loggerDict:
            return path
    rooms = ", ".join(sorted(_rooms()))
    raise ConfigError(f"no such component: {name!r} (there are {rooms})", key="log_level")


def _rooms() -> set[str]:
    return {module.name for module in pkgutil.iter_modules([str(Path(__file__).parents[1])])}
