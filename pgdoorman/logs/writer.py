"""The lines' way from the callers to their destination.

    logs = set_up(log_format="text", level="info,pool=debug")
    logs.set_levels("info")          at any time, from any thread
    logs.close()                     at the end: what is queued is written, for a moment at most

If the writing thread cannot keep up (a full pipe behind stderr), lines are dropped and counted, and a line says how many;
no caller ever waits.

Destinations, in this order:

    syslog     if a name for it is given: datagrams to /dev/log (RFC 3164 as local daemons speak it, facility daemon)
    journald   if stderr is the journal (JOURNAL_STREAM) and the format is text: its native protocol, with fields
    stderr     text or one JSON object a line; also whenever one of the others fails
"""

import atexit
import contextlib
import enum
import logging
import os
import queue
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from pgdoorman.errors import ConfigError
from pgdoorman.logs.destinations import (
    LONGEST,
    Descriptor,
    Destination,
    Journal,
    Syslog,
    stderr_is_the_journal,
)
from pgdoorman.logs.events import EventRecord
from pgdoorman.logs.levels import PACKAGE, TRACE, Levels, parse_levels
from pgdoorman.logs.lines import coloured_line, json_line, text_line
from pgdoorman.logs.sampling import USUAL, Sampler, Sampling


class LogFormat(enum.Enum):
    """How a line on stderr looks; the values are those of the command line."""

    TEXT = "text"
    STRUCTURED = "structured"
    DEBUG = "debug"
    """PgDoorman's third name for text."""


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

    def __init__(self, lines: "queue.SimpleQueue[logging.LogRecord | _Flush]", capacity: int, sampler: Sampler) -> None:
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
        if len(record.message) > LONGEST:
            record.message = record.message[:LONGEST] + "..."
        if type(record) is not EventRecord and not self._sampler.admits(record, record.message):
            return
        # Several threads at once may overshoot by as many lines as they are; exact would need a lock around each put.
        if self._lines.qsize() >= self._capacity:
            with self._dropping:
                self.dropped += 1
            return
        if record.exc_info and not record.exc_text:
            record.exc_text = "".join(traceback.format_exception(*record.exc_info)).rstrip()
        record.exc_info = None
        record.msg, record.args = record.message, None
        self._lines.put(record)


_BATCH: Final = 200
_REST: Final = (
    0.02  # seconds between batches that are not full: a writer that is woken for each line costs more than the line
)
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
        self._sampler = Sampler(sampling, clock)
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
            if records and len(records) < _BATCH:
                time.sleep(_REST)

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
    sampling: Sampling = USUAL,
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
