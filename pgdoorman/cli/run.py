"""`pgdoorman [run] CONFIG`: the pooler itself; with -t only a look at its configuration.

Exit codes are those of sysexits.h: 78 (EX_CONFIG) for a configuration that cannot be used or a door that cannot be
opened, 71 (EX_OSERR) where the system refuses something.
"""

import logging
import sys
from pathlib import Path

from pgdoorman.cli.gil import is_free_threaded
from pgdoorman.config.load import load
from pgdoorman.doorman.house import Doorman, gil_enabled, rules_of
from pgdoorman.errors import ConfigError, PgDoormanError
from pgdoorman.logs import set_up

EX_CONFIG = 78

log = logging.getLogger("pgdoorman")


def test_config(path: Path) -> int:
    """Read and judge a configuration. Returns the exit code."""
    try:
        settings = load(path)
        rules_of(settings.general)
    except ConfigError as error:
        print(f"Config parse error: {error}", file=sys.stderr)
        return EX_CONFIG
    for warning in settings.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"the configuration file {path} syntax is ok")
    print(f"configuration file {path} test is successful")
    return 0


def run(path: Path, log_level: str, log_format: str) -> int:
    """Run until told to stop. Returns the exit code."""
    try:
        settings = load(path)
    except ConfigError as error:
        print(f"Config parse error: {error}", file=sys.stderr)
        return EX_CONFIG
    logs = set_up(log_format=log_format, level=log_level, syslog_name=settings.general.syslog_prog_name)
    try:
        if gil_enabled():
            reason = "was switched on by an import" if is_free_threaded() else "is part of this interpreter"
            log.warning("the GIL %s: only one thread runs at a time; use a free-threaded CPython 3.13 or later", reason)
        house = Doorman(settings, path, logs)
        try:
            house.open()
        except PgDoormanError as error:
            log.error("cannot start: %s", error)
            house.close()
            return EX_CONFIG
        house.wait()
        return 0
    finally:
        logs.close()
