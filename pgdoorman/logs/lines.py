"""How a line looks."""

import json
import logging
import os
import re
import time
from functools import lru_cache
from typing import Final

from pgdoorman.logs.levels import PACKAGE, TRACE

_NAMES: Final = {TRACE: "TRACE", logging.DEBUG: "DEBUG", logging.INFO: "INFO", logging.WARNING: "WARN"}

# Names of users and texts of servers end up in log lines: a line break in one must not look like a line of ours, nor an
# escape sequence do something to the terminal of whoever reads it.
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def printable(text: str) -> str:
    """The text with escapes in place of control characters."""
    if text.isprintable():
        return text
    return _CONTROL.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


def _timestamp(moment: float) -> str:
    seconds, milliseconds = divmod(int(moment * 1000), 1000)
    return f"{_whole_seconds(seconds)}.{milliseconds:03d}Z"


@lru_cache(maxsize=4)
def _whole_seconds(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def level_name(record: logging.LogRecord) -> str:
    """WARN for WARNING, ERROR for whatever is worse."""
    return _NAMES.get(record.levelno, "ERROR" if record.levelno >= logging.ERROR else record.levelname)


def file_of(record: logging.LogRecord) -> str:
    """The source file: its path inside the package, the name alone of others."""
    return _file_at(record.pathname)


@lru_cache(maxsize=1024)
def _file_at(path: str) -> str:
    _, separator, inside = path.rpartition(f"{os.sep}{PACKAGE}{os.sep}")
    return inside if separator else os.path.basename(path)


def text_line(record: logging.LogRecord) -> str:
    """`2026-01-31T23:59:59.123Z WARN pool/pool.py:12: message`; a traceback follows on lines of its own, indented."""
    place = f"{file_of(record)}:{record.lineno}"
    line = f"{_timestamp(record.created)} {level_name(record)} {place}: {printable(record.message)}"
    if record.exc_text:
        line += "".join(f"\n    {printable(row)}" for row in record.exc_text.splitlines())
    return line


_COLOURS: Final = {"ERROR": "31", "WARN": "33", "INFO": "32", "DEBUG": "36", "TRACE": "90"}


def coloured_line(record: logging.LogRecord) -> str:
    """`text_line` for a terminal: the level in colour, what stands around it dim."""
    level = level_name(record)
    before, _, rest = text_line(record).partition(f" {level} ")
    place, _, text = rest.partition(": ")
    return f"\x1b[2m{before}\x1b[0m \x1b[{_COLOURS.get(level, '0')}m{level}\x1b[0m \x1b[2m{place}:\x1b[0m {text}"


def json_line(record: logging.LogRecord) -> str:
    """The same as one JSON object: timestamp, level, file, line, message, and component, thread, perhaps exception."""
    values = {
        "timestamp": _timestamp(record.created),
        "level": level_name(record),
        "file": file_of(record),
        "line": record.lineno,
        "message": record.message,
        "component": record.name.removeprefix(f"{PACKAGE}."),
        "thread": record.threadName,
    }
    if record.exc_text:
        values["exception"] = record.exc_text
    return json.dumps(values)  # ASCII only: whatever a name contains, the line stays one line
