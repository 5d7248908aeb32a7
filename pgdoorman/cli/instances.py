"""Which running pgdoorman a command is meant for, and the way to its console.

Without a word about it: the one whose pid file the configuration names, else the only one that runs on this machine,
else systemd's `pgdoorman.service`, else the console at the address in the configuration.
"""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pgdoorman.cli.sql_client import SqlClient
from pgdoorman.cli.target import Target
from pgdoorman.config.load import DEFAULT_PATH, load
from pgdoorman.config.settings import GeneralSettings
from pgdoorman.errors import ConfigError, PgDoormanError
from pgdoorman.runtime.process import running_process
from pgdoorman.transport.connect import Address

UNIT = "pgdoorman.service"
_ABSTRACT = "@pgdoorman."


class NoInstance(PgDoormanError):
    """No running pgdoorman, or more than one. The text says what was tried."""


@dataclass(frozen=True, slots=True)
class Instance:
    """A console that answers. `process_id` is 0 where it runs on another machine, perhaps."""

    client: SqlClient
    process_id: int = 0


def find(target: Target) -> Instance:
    """The console of the instance that is meant. Raises NoInstance, BackendUnavailable and BackendRefused."""
    if target.host is not None:
        return Instance(_by_address(target, target.host, _settings(target.config)))
    if target.process_id is not None:
        return _by_process(target, target.process_id)
    general = _settings(target.config)
    if general is not None and (owner := running_process(general.daemon_pid_file)):
        return _by_process(target, owner)
    running = local_instances()
    if len(running) > 1 and (main := systemd_process()) in running:
        running = [main]
    if len(running) > 1 and target.config is not None:
        running = [process for process in running if _uses(process, target.config)] or running
    if len(running) == 1:
        return _by_process(target, running[0])
    if running:
        listed = ", ".join(map(str, running))
        raise NoInstance(f"several pgdoormans run here (processes {listed}): name one with --pid")
    if general is not None:
        host = general.hosts[0] if general.hosts else ""
        return Instance(_by_address(target, "127.0.0.1" if host in ("", "*", "0.0.0.0", "::") else host, general))
    raise NoInstance("no pgdoorman runs here; name one with --pid or --host, or its configuration file with --config")


def local_instances() -> list[int]:
    """The processes of this machine (and network namespace) that have a door for their operator."""
    with suppress(OSError), open("/proc/net/unix") as sockets:
        names = {line.split()[-1] for line in sockets if _ABSTRACT in line}
        return sorted(int(number) for name in names if (number := name.removeprefix(_ABSTRACT)).isdecimal())
    return []


def systemd_process() -> int:
    """The main process of the unit `pgdoorman.service`; 0 if there is none, or no systemd."""
    systemctl = shutil.which("systemctl")
    if systemctl is None:
        return 0
    try:
        done = subprocess.run(
            [systemctl, "show", "--property", "MainPID", "--value", UNIT],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    text = done.stdout.strip()
    return int(text) if text.isdecimal() else 0


def _by_process(target: Target, process_id: int) -> Instance:
    return Instance(SqlClient.at_operators_door(process_id, target.patience), process_id)


def _by_address(target: Target, host: str, general: GeneralSettings | None) -> SqlClient:
    port, user, password = target.port, target.user, target.password
    if general is not None:
        port = general.port if port is None else port
        if user in (None, general.admin_username):
            user = general.admin_username
            password = general.admin_password.reveal() if password is None else password
    address = Address(host, 6432 if port is None else port)
    return SqlClient.log_in(address, user or "admin", password, "pgdoorman", target.patience)


def _settings(path: Path | None) -> GeneralSettings | None:
    """What the file says, if it can be used. One that cannot is no obstacle: that may be what the command is about."""
    for candidate in _candidates(path):
        with suppress(ConfigError):
            return load(candidate).general
    return None


def config_path(target: Target) -> Path:
    """The configuration file that is meant: the one named, or the first one that is where it usually is."""
    return next(_candidates(target.config), DEFAULT_PATH)


def _candidates(path: Path | None) -> Iterator[Path]:
    if path is not None:
        yield path
        return
    for candidate in (
        Path("pgdoorman.toml"),
        Path("/etc/pgdoorman/pgdoorman.toml"),
        Path("/etc/pgdoorman/pgdoorman.yaml"),
    ):
        if candidate.is_file():
            yield candidate


def _uses(process_id: int, config: Path) -> bool:
    """Whether this process was started with that file. One that does not say so soon (stopped, or stuck) does not count."""
    try:
        with SqlClient.at_operators_door(process_id, patience=5.0) as client:
            said = {row["key"]: row["value"] for row in client.ask("SHOW STATUS").table()}
            directory = Path(f"/proc/{process_id}/cwd").readlink()
    except (PgDoormanError, OSError):
        return False
    return (directory / (said.get("config_file") or "")).resolve() == config.resolve()
