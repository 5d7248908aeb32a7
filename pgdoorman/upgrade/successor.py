"""Starting the new process, and the old one's wait for it; and the new one's side of that conversation, which is a byte
in a pipe. Where the new one finds what it is given, its environment says."""

import os
import select
import socket
import subprocess
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic

from pgdoorman.errors import HandoverError

READY_FD = "PGDOORMAN_READY_FD"
LENT_SOCKETS = "PGDOORMAN_LENT_SOCKETS"
"""Set if the sockets belong to a service manager: then their files are not ours to remove."""

HANDOVER_FD = "PGDOORMAN_HANDOVER_FD"
"""By which clients come; see `channel`."""

_OURS_ONLY = ("WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", LENT_SOCKETS, READY_FD, HANDOVER_FD)


@dataclass(frozen=True, slots=True)
class SuccessorPlan:
    """How a process like this one is started: `program` as for exec, `options` of `pgdoorman run`, and the file."""

    program: tuple[str, ...]
    options: tuple[str, ...]
    config_file: str

    def wait_checked(self, patience: float) -> None:
        """Have the new program look at the configuration first, for up to `patience` seconds. It may be newer than ours,
        and know better. Raises HandoverError with what it said."""
        try:
            done = subprocess.run(
                [*self.program, "check", self.config_file],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=patience,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise HandoverError(f"the new program cannot be run: {error}") from error
        if done.returncode:
            raise HandoverError(
                f"the new program refuses the configuration (exit code {done.returncode})", detail=done.stderr.strip()
            )

    def wait_started(
        self,
        listeners: Sequence[socket.socket],
        *,
        lent: bool,
        patience: float,
        clients: socket.socket | None = None,
    ) -> int:
        """Start it with these listening sockets and wait up to `patience` seconds until it says that it is ready. By `clients`
        it will be sent those that are connected.

        Returns its process id. Raises HandoverError; then it has been ended again, and nothing has changed.
        """
        reader, writer = os.pipe2(os.O_CLOEXEC)
        inherited = [listener.fileno() for listener in listeners]
        handed = [word for descriptor in inherited for word in ("--inherit-fd", str(descriptor))]
        try:
            child = subprocess.Popen(
                [*self.program, "run", *self.options, *handed, self.config_file],
                stdin=subprocess.DEVNULL,
                env=_environment(os.environ, writer, -1 if clients is None else clients.fileno(), lent=lent),
                pass_fds=[*inherited, writer, *([] if clients is None else [clients.fileno()])],
            )
        except OSError as error:
            os.close(reader)
            raise HandoverError(f"the new program cannot be run: {error}") from error
        finally:
            os.close(writer)
        try:
            return _wait_word(child, reader, patience)
        finally:
            os.close(reader)


def _environment(ours: Mapping[str, str], writer: int, clients: int, *, lent: bool) -> dict[str, str]:
    # Of a service manager's variables those with our process id in them would tell the child that nothing is meant for it.
    said = {name: value for name, value in ours.items() if name not in _OURS_ONLY}
    said[READY_FD] = str(writer)
    if clients >= 0:
        said[HANDOVER_FD] = str(clients)
    if lent:
        said[LENT_SOCKETS] = "1"
    return said


def _wait_word(child: "subprocess.Popen[bytes]", reader: int, patience: float) -> int:
    deadline = monotonic() + patience
    waiting = select.poll()
    waiting.register(reader, select.POLLIN)
    heard = b""
    if waiting.poll(max(0.0, deadline - monotonic()) * 1000):
        heard = os.read(reader, 1)  # empty if it has ended without a word
    if heard:
        return child.pid
    child.kill()
    code = child.wait()
    if code == -9:
        raise HandoverError(f"the new process was not ready within {patience:g} s")
    raise HandoverError(f"the new process ended with exit code {code}; its log says why")


def is_successor(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process was started to take another one's place."""
    return READY_FD in environment


def sockets_are_lent(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether inherited sockets belong to a service manager."""
    return LENT_SOCKETS in environment


def take_channel(environment: MutableMapping[str, str] = os.environ) -> socket.socket | None:
    """By which clients come from the predecessor, if they do. Once."""
    number = environment.pop(HANDOVER_FD, "")
    if not (number.isascii() and number.isdigit()):
        return None
    try:
        os.set_inheritable(int(number), False)
        return socket.socket(fileno=int(number))
    except OSError:
        return None


def say_ready(environment: MutableMapping[str, str] = os.environ) -> None:
    """Tell the predecessor, if there is one, that clients can come. Once."""
    number = environment.pop(READY_FD, "")
    environment.pop(LENT_SOCKETS, None)
    if number.isascii() and number.isdigit():
        with suppress(OSError):
            os.write(int(number), b"r")
            os.close(int(number))
