"""Where lines go: a file descriptor, the system's log, the journal."""

import contextlib
import logging
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from pgdoorman.logs.levels import PACKAGE
from pgdoorman.logs.lines import file_of, printable


class Destination(Protocol):
    """Where the writer puts lines. May block; raises `OSError` if it could not write them."""

    def write(self, records: Sequence[logging.LogRecord]) -> None: ...

    def close(self) -> None: ...


class Descriptor:
    """Lines on a file descriptor, many with one call. Does not own it."""

    def __init__(self, descriptor: int, line: Callable[[logging.LogRecord], str]) -> None:
        self._descriptor = descriptor
        self._line = line

    def write(self, records: Sequence[logging.LogRecord]) -> None:
        lines = "".join(f"{self._line(record)}\n" for record in records)
        data = memoryview(lines.encode("utf-8", "backslashreplace"))
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # whoever shares our terminal has made it non-blocking
                waiting = select.poll()
                waiting.register(self._descriptor, select.POLLOUT)
                waiting.poll(1000)

    def close(self) -> None:
        pass


_PRIORITY_ERROR: Final = 3


def _priority(record: logging.LogRecord) -> int:
    """Syslog's severity (RFC 5424, 6.2.1)."""
    if record.levelno >= logging.ERROR:
        return _PRIORITY_ERROR
    return 4 if record.levelno >= logging.WARNING else 6 if record.levelno >= logging.INFO else 7


class _Datagrams:
    """A socket to a local daemon that may go away and come back."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket: socket.socket | None = None

    def send(self, data: bytes) -> None:
        """One datagram; tries again once with a new socket. Raises `OSError`."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.send(data)
                return
            self.close()
        fresh = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            fresh.settimeout(1.0)
            fresh.connect(self._path)
            fresh.send(data)
        except OSError:
            fresh.close()
            raise
        self._socket = fresh

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DAEMON: Final = 3 << 3  # syslog's facility
LONGEST: Final = 32 * 1024  # characters of one message, bytes of one to syslog or journald; longer ones are cut


def _cut(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")[:LONGEST]


class Syslog:
    """Lines to the local syslog daemon, in the format that syslog(3) writes."""

    def __init__(self, name: str, path: str = "/dev/log") -> None:
        self._ident = f"{name}[{os.getpid()}]"
        self._datagrams = _Datagrams(path)

    def write(self, records: Sequence[logging.LogRecord]) -> None:
        for record in records:
            self._datagrams.send(self._datagram(record))

    def _datagram(self, record: logging.LogRecord) -> bytes:
        moment = time.localtime(record.created)
        # The C locale's names, whatever locale is set; the day is padded with a blank (RFC 3164, 4.1.2).
        month = _MONTHS[moment.tm_mon - 1]
        stamp = f"{month} {moment.tm_mday:2d} {time.strftime('%H:%M:%S', moment)}"
        text = printable(record.message)
        if record.exc_text:
            text += " " + printable(record.exc_text)
        return _cut(f"<{_DAEMON | _priority(record)}>{stamp} {self._ident}: {text}")

    def close(self) -> None:
        self._datagrams.close()


class Journal:
    """Lines to systemd's journal with its fields (systemd, "Native Journal Protocol")."""

    def __init__(self, name: str = PACKAGE, path: str = "/run/systemd/journal/socket") -> None:
        self._name = name
        self._datagrams = _Datagrams(path)

    def write(self, records: Sequence[logging.LogRecord]) -> None:
        for record in records:
            self._datagrams.send(self._datagram(record))

    def _datagram(self, record: logging.LogRecord) -> bytes:
        text = record.message if not record.exc_text else f"{record.message}\n{record.exc_text}"
        fields = {
            "MESSAGE": text,
            "PRIORITY": str(_priority(record)),
            "SYSLOG_IDENTIFIER": self._name,
            "CODE_FILE": file_of(record),
            "CODE_LINE": str(record.lineno),
            "CODE_FUNC": record.funcName or "",
            "PGDOORMAN_COMPONENT": record.name.removeprefix(f"{PACKAGE}."),
            "THREAD_NAME": record.threadName or "",
        }
        parts = []
        for name, value in fields.items():
            raw = _cut(value)
            # With its length in front a value may contain anything, line breaks too.
            parts.append(name.encode() + b"\n" + struct.pack("<Q", len(raw)) + raw + b"\n")
        return b"".join(parts)

    def close(self) -> None:
        self._datagrams.close()


def stderr_is_the_journal(environment: Mapping[str, str], descriptor: int = 2) -> bool:
    """Whether JOURNAL_STREAM names this descriptor by device and inode (systemd.exec): a child whose stderr is
    somewhere else has inherited the variable only."""
    device, separator, inode = environment.get("JOURNAL_STREAM", "").partition(":")
    if not separator:
        return False
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))
