"""What a service manager is told, and what it hands over: sd_notify(3), sd_listen_fds(3), the watchdog.

The environment is the whole interface, so a supervisor other than systemd that sets the same variables works too. What
cannot be told is not worth failing for: every function here is quiet where there is no manager.
"""

import os
import socket
from collections.abc import MutableMapping
from time import CLOCK_MONOTONIC as MONOTONIC
from time import clock_gettime_ns

FIRST_DESCRIPTOR = 3  # SD_LISTEN_FDS_START


class ServiceManager:
    """One way out: datagrams to `NOTIFY_SOCKET`. From any thread.

    `watchdog` is the time in seconds after which a manager that hears nothing ends the process; 0 without a watchdog.
    """

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        self._address = _address(environment.get("NOTIFY_SOCKET", ""))
        self.watchdog = _watchdog(environment)

    @property
    def is_there(self) -> bool:
        """Whether anybody listens."""
        return bool(self._address)

    def ready(self, status: str) -> None:
        """Started, or reloaded: requests are served."""
        self.tell(f"READY=1\nSTATUS={_one_line(status)}\nMAINPID={os.getpid()}")

    def reloading(self) -> None:
        """A reload begins. It ends with `ready`. The clock's reading lets the manager tell this reload from an earlier one
        (Type=notify-reload insists)."""
        microseconds = clock_gettime_ns(MONOTONIC) // 1000
        self.tell(f"RELOADING=1\nMONOTONIC_USEC={microseconds}\nSTATUS=reloading")

    def stopping(self, status: str) -> None:
        """The end has begun."""
        self.tell(f"STOPPING=1\nSTATUS={_one_line(status)}")

    def status(self, text: str) -> None:
        """A line that `systemctl status` shows."""
        self.tell(f"STATUS={_one_line(text)}")

    def main_process(self, process_id: int) -> None:
        """Another process is the service from now on."""
        self.tell(f"MAINPID={process_id}")

    def alive(self) -> None:
        """The watchdog's due."""
        self.tell("WATCHDOG=1")

    def extend(self, seconds: float) -> None:
        """Whatever is under way (start, reload, stop) may take this much longer."""
        self.tell(f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}")

    def tell(self, message: str) -> None:
        """Send assignments, one a line."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.settimeout(1.0)
                sock.sendto(message.encode("utf-8", "replace"), self._address)
        except OSError:
            pass


def _address(text: str) -> str:
    # A leading @ stands for the NUL of an abstract name. Anything else that is no path (vsock:) is not for us.
    if text.startswith("@"):
        return "\0" + text[1:]
    return text if text.startswith("/") else ""


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _number(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() else 0


def _watchdog(environment: MutableMapping[str, str]) -> float:
    # Of a parent that has a watchdog of its own we inherit the variables, but not the duty.
    process_id = environment.get("WATCHDOG_PID")
    if process_id is not None and _number(process_id) != os.getpid():
        return 0.0
    return _number(environment.get("WATCHDOG_USEC")) / 1_000_000


def take_listeners(environment: MutableMapping[str, str] = os.environ) -> list[socket.socket]:
    """The stream sockets that are listening already when the process starts (socket activation), in their order.

    They and the variables are taken once: neither a child nor a second call finds them. What is handed over and is no
    listening stream socket is closed.
    """
    process_id, wanted = environment.pop("LISTEN_PID", None), _number(environment.pop("LISTEN_FDS", None))
    environment.pop("LISTEN_FDNAMES", None)
    if process_id is None or _number(process_id) != os.getpid():
        return []
    return adopt_listeners(range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + wanted))


def adopt_listeners(descriptors: "range | list[int]") -> list[socket.socket]:
    """The listening stream sockets among these open descriptors; the others are closed."""
    found = []
    for descriptor in descriptors:
        try:
            os.set_inheritable(descriptor, False)
            sock = socket.socket(fileno=descriptor)
        except OSError:
            continue  # not open, or no socket at all
        if sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            found.append(sock)
        else:
            sock.close()
    return found
