"""What is said of every client that comes or goes: the usual log lines, made with a fifth of the usual work.

`logging` looks up the calling frame, splits its path, fills in twenty attributes and walks from logger to logger, for each
line. Of a line that is said thousands of times a second all that is the same each time.
"""

import logging
import sys
from threading import current_thread
from time import time
from typing import Any, Final

_root: Final = logging.getLogger()
_new: Final = object.__new__


class EventRecord(logging.LogRecord):
    """The record of an `Event`, with all that formatters look for. No two have the same text: it is not sampled."""


class Event:
    """A log line with a text of its own each time, as it names a client by number. To be made once, at module level: it
    appears to come from there. `text` is a %-format, as in `logging`."""

    __slots__ = ("_always", "_level", "_logger")

    def __init__(self, logger: logging.Logger, level: int, text: str) -> None:
        self._logger = logger
        self._level = level
        frame = sys._getframe(1)  # noqa: SLF001  # as `logging` does
        path = frame.f_code.co_filename
        # What `LogRecord.__init__` sets, but for the arguments, the time and the thread.
        whole = logging.LogRecord(logger.name, level, path, frame.f_lineno, text, (), None, frame.f_code.co_name)
        self._always = vars(whole)

    def say(self, *arguments: Any) -> None:
        """Log it, if lines of this logger and level are wanted."""
        if not self._logger.isEnabledFor(self._level):
            return
        record = _new(EventRecord)
        own = record.__dict__
        own.update(self._always)
        own["args"] = arguments
        own["created"] = now = time()
        own["msecs"] = now % 1 * 1000
        own["threadName"] = current_thread().name
        for handler in _root.handlers:
            handler.handle(record)
