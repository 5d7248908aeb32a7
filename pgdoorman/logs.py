"""Logging set-up: where log lines go, which ones, and that writing one never delays a worker.

    logs = set_up(log_format="text", level="info,pool=debug")
    logs.set_levels("info")          at any time, from any thread
    logs.close()                     at the end: what is queued is written, for a moment at most

Rooms log with `logging.getLogger(__name__)` and know nothing of this. A call formats its message and puts it into a
bounded queue; one thread writes. If that thread cannot keep up (a full pipe behind stderr), lines are dropped and
counted, and a line says how many; no caller ever waits.

Destinations, in this order:

    syslog     if a name for it is given: datagrams to /dev/log (RFC 3164 as local daemons speak it, facility daemon)
    journald   if stderr is the journal (JOURNAL_STREAM) and the format is text: its native protocol, with fields
    stderr     text or one JSON object a line; also whenever one of the others fails

What is the same text over and over again is sampled: see `Sampling`.
"""

import atexit
import contextlib
import enum
import json
import logging
import os
import pkgutil
import queue
import re
import select
import socket
import struct
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

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
_NAMES: Final = {TRACE: "TRACE", logging.DEBUG: "DEBUG", logging.INFO: "INFO", logging.WARNING: "WARN"}


class LogFormat(enum.Enum):
    """How a line on stderr looks; the values are those of the command line."""

    TEXT = "text"
    STRUCTURED = "structured"
    DEBUG = "debug"
    """PgDoorman's third name for text."""


# --- which lines ------------------------------------------------------------------------------------------------------


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
    return {module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])}


# --- not the same again and again -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sampling:
    """How much of the same is too much. At the end of a period one line tells how many more there were."""

    period: float = 10.0
    """Seconds."""
    same_text: int = 5
    """Lines of one place in the code with exactly the same text that are written in one period."""
    same_place: int = 500
    """Warnings and errors of one place in the code, whatever their text. Lines about what is normal (a login) are never
    left out for being many: they are asked for, or switched off."""


@dataclass(slots=True)
class _Window:
    """One text, or one place, in the present period."""

    began: float
    record: logging.LogRecord
    seen: int = 0
    left_out: int = 0


type _Key = tuple[str, int, str]

_MOST_WINDOWS: Final = 4096  # of different texts; beyond that they are not counted and all written


class _Sampler:
    """Decides which lines are left out. Shared by all threads: the lock is held for a look-up in a table."""

    def __init__(self, limits: Sampling, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._lock = threading.Lock()
        self._windows: dict[_Key, _Window] = {}
        self.left_out = 0

    def admits(self, record: logging.LogRecord, text: str) -> bool:
        """Whether this line is to be written."""
        now = self._clock()
        with self._lock:
            admitted = self._count_locked((record.pathname, record.lineno, text), record, now, self._limits.same_text)
            if admitted and record.levelno >= logging.WARNING:
                place = (record.pathname, record.lineno, "")
                admitted = self._count_locked(place, record, now, self._limits.same_place)
            self.left_out += not admitted
            return admitted

    def _count_locked(self, key: _Key, record: logging.LogRecord, now: float, limit: int) -> bool:
        window = self._windows.get(key)
        if window is None:
            if len(self._windows) >= _MOST_WINDOWS:
                return True
            window = self._windows[key] = _Window(now, record)
        window.seen += 1
        if window.seen > limit:
            window.left_out += 1
            return False
        return True

    def ended(self, *, everything: bool = False) -> list[_Window]:
        """The windows whose period is over, and out of which lines were left. The writer asks after every batch, so only
        those that are over are looked at: they stand first."""
        now = self._clock()
        over = []
        with self._lock:
            for key, window in self._windows.items():
                if not everything and now - window.began < self._limits.period:
                    break
                over.append(key)
            windows = [self._windows.pop(key) for key in over]
        return [window for window in windows if window.left_out]


# --- how a line looks -------------------------------------------------------------------------------------------------

# Names of users and texts of servers end up in log lines: a line break in one must not look like a line of ours, nor an
# escape sequence do something to the terminal of whoever reads it.
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def _printable(text: str) -> str:
    return _CONTROL.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


def _timestamp(moment: float) -> str:
    milliseconds = int(moment * 1000)
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(milliseconds // 1000))
    return f"{seconds}.{milliseconds % 1000:03d}Z"


def _level_name(record: logging.LogRecord) -> str:
    return _NAMES.get(record.levelno, "ERROR" if record.levelno >= logging.ERROR else record.levelname)


def _file(record: logging.LogRecord) -> str:
    _, separator, inside = record.pathname.rpartition(f"{os.sep}{PACKAGE}{os.sep}")
    return inside if separator else record.filename


def text_line(record: logging.LogRecord) -> str:
    """`2026-01-31T23:59:59.123Z WARN pool/pool.py:12: message`; a traceback follows on lines of its own, indented."""
    place = f"{_file(record)}:{record.lineno}"
    line = f"{_timestamp(record.created)} {_level_name(record)} {place}: {_printable(record.message)}"
    if record.exc_text:
        line += "".join(f"\n    {_printable(row)}" for row in record.exc_text.splitlines())
    return line


_COLOURS: Final = {"ERROR": "31", "WARN": "33", "INFO": "32", "DEBUG": "36", "TRACE": "90"}


def coloured_line(record: logging.LogRecord) -> str:
    """`text_line` for a terminal: the level in colour, what stands around it dim."""
    level = _level_name(record)
    before, _, rest = text_line(record).partition(f" {level} ")
    place, _, text = rest.partition(": ")
    return f"\x1b[2m{before}\x1b[0m \x1b[{_COLOURS.get(level, '0')}m{level}\x1b[0m \x1b[2m{place}:\x1b[0m {text}"


def json_line(record: logging.LogRecord) -> str:
    """The same as one JSON object: timestamp, level, file, line, message, and component, thread, perhaps exception."""
    values = {
        "timestamp": _timestamp(record.created),
        "level": _level_name(record),
        "file": _file(record),
        "line": record.lineno,
        "message": record.message,
        "component": record.name.removeprefix(f"{PACKAGE}."),
        "thread": record.threadName,
    }
    if record.exc_text:
        values["exception"] = record.exc_text
    return json.dumps(values)  # ASCII only: whatever a name contains, the line stays one line


# --- where lines go ---------------------------------------------------------------------------------------------------


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
_LONGEST: Final = 32 * 1024  # characters of one message, bytes of one to syslog or journald; longer ones are cut


def _cut(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")[:_LONGEST]


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
        text = _printable(record.message)
        if record.exc_text:
            text += " " + _printable(record.exc_text)
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
            "CODE_FILE": _file(record),
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


# --- from the callers to the writer -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LogStatistics:
    """What has become of the lines."""

    written: int = 0
    dropped: int = 0
    """Not even queued: the writer was too far behind."""
    left_out: int = 0
    """More of the same (`Sampling`)."""
    failed: int = 0
    """Neither the destination nor stderr took them."""


@dataclass(slots=True)
class _Flush:
    """Asks the writer to tell when it is through with everything before this."""

    reached: threading.Event = field(default_factory=threading.Event)
    end: bool = False


class _ToQueue(logging.Handler):
    """Takes the lines of all threads. Has no lock of its own: `logging` would hold it around every emit."""

    def __init__(
        self, lines: "queue.SimpleQueue[logging.LogRecord | _Flush]", capacity: int, sampler: _Sampler
    ) -> None:
        super().__init__(level=0)
        self._lines = lines
        self._capacity = capacity
        self._sampler = sampler
        self._dropping = threading.Lock()
        self.dropped = 0

    def createLock(self) -> None:  # noqa: N802  # logging's name
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        # What is formatted may change before the writer comes to it, and a traceback would keep every frame's sockets.
        try:
            record.message = record.getMessage()
        except Exception as error:  # noqa: BLE001  # any __str__ may raise anything; a log call must not
            record.message = f"{record.msg!r} could not be formatted: {type(error).__name__}"
        if len(record.message) > _LONGEST:
            record.message = record.message[:_LONGEST] + "..."
        if not self._sampler.admits(record, record.message):
            return
        # Several threads at once may overshoot by as many lines as they are; exact would need a lock around each put.
        if self._lines.qsize() >= self._capacity:
            with self._dropping:
                self.dropped += 1
            return
        if record.exc_info and not record.exc_text:
            record.exc_text = "".join(traceback.format_exception(*record.exc_info)).rstrip()
        record.exc_info = None
        record.args = None
        self._lines.put(record)


_BATCH: Final = 200
_PAUSE: Final = 1.0  # seconds after which the writer looks for ended periods though nothing is logged


class Logs:
    """The lines' way from the callers to their destination. Made by `set_up`."""

    def __init__(
        self, destination: Destination, fallback: Destination, levels: Levels, *, capacity: int, sampling: Sampling,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._destination = destination
        self._fallback = fallback
        self._first_levels = levels
        self._levels = levels
        self._changing = threading.Lock()
        self._lines: queue.SimpleQueue[logging.LogRecord | _Flush] = queue.SimpleQueue()
        self._sampler = _Sampler(sampling, clock)
        self._handler = _ToQueue(self._lines, capacity, self._sampler)
        self._thread = threading.Thread(target=self._write, name="log writer", daemon=True)
        self._written = self._failed = self._dropped_told = 0
        self._closed = False
        self._found: tuple[list[logging.Handler], int] = ([], logging.WARNING)

    def begin(self) -> None:
        """Take over the root logger and start the writer. Fork before this, not after: threads do not survive it."""
        logging.addLevelName(TRACE, "TRACE")
        root = logging.getLogger()
        self._found = (root.handlers[:], root.level)
        root.handlers[:] = [self._handler]
        root.setLevel(logging.WARNING)  # libraries; ours have the level for all
        logging.captureWarnings(True)
        with self._changing:
            self._apply_locked(self._levels)
        self._thread.start()
        atexit.register(self.close)

    @property
    def levels(self) -> str:
        """The filter in force, as it was given."""
        return self._levels.text

    def set_levels(self, text: str) -> None:
        """Put another filter in force; `default` is the one of the start. Raises `ConfigError` and changes nothing."""
        levels = self._first_levels if text.strip().lower() == "default" else parse_levels(text)
        with self._changing:
            self._apply_locked(levels)

    def _apply_locked(self, levels: Levels) -> None:
        for name in self._levels.components:
            logging.getLogger(name).setLevel(logging.NOTSET)
        logging.getLogger(PACKAGE).setLevel(levels.default)
        for name, level in levels.components.items():
            logging.getLogger(name).setLevel(level)
        self._levels = levels

    def statistics(self) -> LogStatistics:
        """What has become of the lines so far."""
        return LogStatistics(self._written, self._handler.dropped, self._sampler.left_out, self._failed)

    def wait_flush(self, timeout: float = 5.0) -> bool:
        """Block until everything logged before is written; False if that takes longer than `timeout` seconds."""
        if not self._thread.is_alive():
            return self._lines.empty()
        mark = _Flush()
        self._lines.put(mark)
        return mark.reached.wait(timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Write what is queued, for `timeout` seconds at most, and give the root logger back as it was. Idempotent."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        root = logging.getLogger()
        if self._handler in root.handlers:
            root.handlers[:], level = self._found
            root.setLevel(level)
            logging.captureWarnings(False)
            with self._changing:
                self._apply_locked(Levels("", logging.NOTSET, {}))
        self._lines.put(_Flush(end=True))
        self._thread.join(timeout)
        if not self._thread.is_alive():
            self._destination.close()
            self._fallback.close()

    # --- the writer's thread ---

    def _write(self) -> None:
        while True:
            records, mark = self._next_batch()
            end = mark is not None and mark.end
            records += self._summaries(everything=end)
            if records:
                self._put(records)
            if mark is not None:
                mark.reached.set()
            if end:
                return

    def _next_batch(self) -> tuple[list[logging.LogRecord], _Flush | None]:
        records: list[logging.LogRecord] = []
        with contextlib.suppress(queue.Empty):
            item = self._lines.get(timeout=_PAUSE)
            while True:
                if isinstance(item, _Flush):
                    return records, item
                records.append(item)
                if len(records) >= _BATCH:
                    break
                item = self._lines.get_nowait()
        return records, None

    def _summaries(self, *, everything: bool) -> list[logging.LogRecord]:
        lines = [
            _like(window.record, f"{window.left_out} more like this: {window.record.message}")
            for window in self._sampler.ended(everything=everything)
        ]
        dropped = self._handler.dropped
        if dropped > self._dropped_told:
            text = f"{dropped - self._dropped_told} log lines were dropped: they came faster than they could be written"
            lines.append(_own(text))
            self._dropped_told = dropped
        return lines

    def _put(self, records: list[logging.LogRecord]) -> None:
        try:
            self._destination.write(records)
        except OSError:
            try:
                self._fallback.write(records)
            except OSError:
                self._failed += len(records)
                return
        self._written += len(records)


def _like(record: logging.LogRecord, text: str) -> logging.LogRecord:
    line = logging.makeLogRecord(dict(record.__dict__))
    line.created = time.time()
    line.message = text
    line.exc_text = None
    return line


def _own(text: str) -> logging.LogRecord:
    line = logging.LogRecord(f"{PACKAGE}.logs", logging.WARNING, __file__, 0, text, None, None)
    line.message = text
    return line


def set_up(
    *,
    log_format: str = "text",
    level: str = "info",
    syslog_name: str | None = None,
    colours: bool = False,
    capacity: int = 10_000,
    sampling: Sampling = Sampling(),
    descriptor: int = 2,
    environment: Mapping[str, str] = os.environ,
) -> Logs:
    """Send everything that is logged to where this program's lines belong.

    `log_format` is one of `LogFormat`, `level` a filter for `parse_levels`; `colours` are for text on a terminal;
    `capacity` is how many lines may wait for the writer. Raises `ConfigError` for a format or a level that there is not.
    To be called once, after any fork.
    """
    try:
        chosen = LogFormat(log_format.lower())
    except ValueError:
        raise ConfigError(f"no such log format: {log_format!r} (text, structured)", key="log_format") from None
    levels = parse_levels(level)
    structured = chosen is LogFormat.STRUCTURED
    line = json_line if structured else coloured_line if colours else text_line
    stderr = Descriptor(descriptor, line)
    destination: Destination = stderr
    if syslog_name:
        destination = Syslog(syslog_name)
    elif not structured and stderr_is_the_journal(environment, descriptor):
        destination = Journal()
    logs = Logs(destination, stderr, levels, capacity=capacity, sampling=sampling)
    logs.begin()
    return logs
