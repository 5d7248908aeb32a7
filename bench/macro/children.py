"""Servers that we start and stop: as whom, where, and how they end."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


def free_port() -> int:
    """A port that was free a moment ago; asking the kernel is the best one can do before a foreign program binds."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Account:
    """Whom a program that refuses root runs as."""

    uid: int
    gid: int


def unprivileged() -> Account | None:
    """None when we are not root, and everything runs as we do."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    return Account(65534, 65534)


def spawn(
    command: Sequence[str],
    *,
    log: Path,
    account: Account | None = None,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a server in a session of its own, so that a Ctrl-C at the terminal reaches only us and we stop things in
    order. The kernel ends it if we are killed. Its output goes to `log`."""
    if setpriv := shutil.which("setpriv"):
        command = [setpriv, "--pdeathsig", "TERM", *command]
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            cwd=directory,
            env={**os.environ, **(environment or {})},
        )


def stop(process: subprocess.Popen[bytes], number: signal.Signals, seconds: float) -> None:
    """Ask the process to stop, and kill its whole session if it has not after `seconds`."""
    if process.poll() is not None:
        return
    process.send_signal(number)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def own_directory(parent: Path, name: str, account: Account | None) -> Path:
    """A new directory that the account owns."""
    directory = parent / name
    directory.mkdir(mode=0o700)
    if account:
        os.chown(directory, account.uid, account.gid)
    return directory
