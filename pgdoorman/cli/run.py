"""`pgdoorman [run] CONFIG`: the pooler itself; with -t only a look at its configuration.

Exit codes are those of sysexits.h: 78 (EX_CONFIG) for a configuration that cannot be used or a port that cannot be
listened on, 71 (EX_OSERR) where the system refuses something: the unix socket, the pid file, the background.
"""

import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pgdoorman.cli.gil import is_free_threaded
from pgdoorman.config.load import load
from pgdoorman.config.settings import Settings
from pgdoorman.doorman.access import read_access
from pgdoorman.doorman.encryption import check_tls
from pgdoorman.doorman.house import Doorman, gil_enabled
from pgdoorman.errors import ConfigError, ConfigErrors, PgDoormanError
from pgdoorman.logs.writer import Logs, set_up
from pgdoorman.runtime.process import Birth, PidFile, PidFileTaken, detach
from pgdoorman.runtime.systemd import adopt_listeners, take_listeners
from pgdoorman.transport.listen import CannotListenLocally
from pgdoorman.upgrade.successor import SuccessorPlan, is_successor, say_ready, take_channel

PROGRAM = (sys.executable, "-X", "gil=0", "-m", "pgdoorman")
"""How a process like this one is started. Not the script that was typed: that may be anywhere, this finds what is installed
now."""

PID_FILE = "PGDOORMAN_PID_FILE"
"""In the environment of a daemon: where its pid file is."""

EX_OSERR = 71
EX_CONFIG = 78

log = logging.getLogger("pgdoorman")


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What the command line says beside the file. `inherited` are descriptors of listening sockets."""

    log_level: str = "info"
    log_format: str = "text"
    colours: bool = False
    daemon: bool = False
    inherited: Sequence[int] = ()

    def words(self) -> tuple[str, ...]:
        """The options that a successor of this process is started with. That it runs in the background it is told by the
        environment: it is there already."""
        return ("-l", self.log_level, "-F", self.log_format, *(() if self.colours else ("-n",)))


def check_config(path: Path, *, as_json: bool = False) -> int:
    """Read and judge a configuration. Returns the exit code."""
    try:
        settings = load(path)
        read_access(settings)
        check_tls(settings)
    except ConfigError as error:
        if as_json:
            found = error.errors if isinstance(error, ConfigErrors) else (error,)
            errors = [{"file": one.file, "line": one.line, "key": one.key, "message": one.message} for one in found]
            print(json.dumps({"ok": False, "errors": errors}, indent=2))
        else:
            print(f"Config parse error: {error}", file=sys.stderr)
        return EX_CONFIG
    if as_json:
        print(json.dumps({"ok": True, "warnings": settings.warnings}, indent=2))
        return 0
    for warning in settings.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"the configuration file {path} syntax is ok")
    print(f"configuration file {path} test is successful")
    return 0


def run(path: Path, options: RunOptions) -> int:
    """Run until told to stop. Returns the exit code."""
    try:
        settings = load(path)
    except ConfigError as error:
        print(f"Config parse error: {error}", file=sys.stderr)
        return EX_CONFIG
    if is_successor():
        # Of a daemon that has written a pid file: it is there already, and the file is to be ours.
        named = os.environ.pop(PID_FILE, "")
        return _run(path, settings, options, PidFile(named) if named else None, None)
    if not options.daemon:
        return _run(path, settings, options, None, None)
    # Before the fork, so that whoever typed the command reads why.
    pid_file = PidFile(settings.general.daemon_pid_file)
    try:
        pid_file.check()
        birth = detach()
    except (PidFileTaken, OSError) as error:
        print(f"pgdoorman: cannot run in the background: {error}", file=sys.stderr)
        return EX_OSERR
    code = EX_OSERR
    try:
        code = _run(path.resolve(), settings, options, pid_file, birth)
    finally:
        birth.tell(code)
    return code


def _run(path: Path, settings: Settings, options: RunOptions, pid_file: PidFile | None, birth: Birth | None) -> int:
    logs = set_up(
        log_format=options.log_format,
        level=options.log_level,
        syslog_name=settings.general.syslog_prog_name,
        colours=options.colours,
    )
    try:
        if gil_enabled():
            reason = "was switched on by an import" if is_free_threaded() else "is part of this interpreter"
            log.warning("the GIL %s: only one thread runs at a time; use a free-threaded CPython 3.13 or later", reason)
        if pid_file is not None:
            try:
                if not is_successor():
                    pid_file.write()
                os.environ[PID_FILE] = os.path.abspath(pid_file.path)  # for a successor
            except (PidFileTaken, OSError) as error:
                log.error("cannot write the pid file %s: %s", pid_file.path, error)
                return EX_OSERR
        return _serve(path, settings, options, logs, birth, pid_file)
    finally:
        if pid_file is not None:
            pid_file.remove()
        logs.close()


def _serve(
    path: Path, settings: Settings, options: RunOptions, logs: Logs, birth: Birth | None, pid_file: PidFile | None
) -> int:
    listeners = adopt_listeners(list(options.inherited)) or take_listeners()
    successor = SuccessorPlan(PROGRAM, options.words(), str(path))
    house = Doorman(settings, path, logs, listeners, successor)
    house.hear_signals()
    try:
        house.open()
    except PgDoormanError as error:
        log.error("cannot start: %s", error)
        house.close()
        return EX_OSERR if isinstance(error, CannotListenLocally) else EX_CONFIG
    if birth is not None:
        birth.tell(0)
    if is_successor():
        if pid_file is not None:
            _take_over(pid_file)
        channel = take_channel()
        if channel is not None:
            house.receive_clients(channel)
        say_ready()
    house.wait()
    return 0


def _take_over(pid_file: PidFile) -> None:
    try:
        pid_file.replace()
    except (PidFileTaken, OSError) as error:  # the service goes on without: a client would not care
        log.warning("cannot write the pid file %s: %s", pid_file.path, error)
