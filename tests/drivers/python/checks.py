"""Runs named checks and prints one line of JSON for each: {"name", "ok", "detail"}, and "skipped" with the reason.

Programs made of this run under another Python than the pooler's, if there is one for which the drivers ship binaries
(3.11 is old enough to count on); nothing here may need a newer one.
"""

import asyncio
import contextlib
import inspect
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

LIMIT_SECONDS = 40


class NotHere(Exception):
    """What the check needs is not installed or switched off."""


_registered: dict[str, Callable[[], Any]] = {}


def check(name: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Registers a function, plain or async, without parameters. It fails by raising."""

    def register(body: Callable[[], Any]) -> Callable[[], Any]:
        assert name not in _registered, name
        _registered[name] = body
        return body

    return register


def setting(name: str) -> str:
    """One of PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE."""
    return os.environ[name]


def equal(have: object, want: object) -> None:
    assert have == want, f"got {str(have)[:300]!r}, expected {str(want)[:300]!r}"


def sqlstate(error: BaseException) -> str:
    """The five characters, wherever this driver keeps them; empty if it has none (a failed login in psycopg)."""
    origin = getattr(error, "orig", None) or error.__cause__ or error
    for candidate in (error, origin, getattr(origin, "__cause__", None)):
        state = getattr(candidate, "sqlstate", None) or getattr(candidate, "pgcode", None)
        if state:
            return str(state)
    return ""


def _judge(error: Exception, state: str) -> None:
    if sqlstate(error) != state:
        raise AssertionError(f"expected SQLSTATE {state}, got {sqlstate(error)}: {error!r}") from error


@contextlib.contextmanager
def raising(kind: type[BaseException], text: str = "") -> Iterator[None]:
    """The block must raise this, with this in its text."""
    try:
        yield
    except kind as error:
        if text not in str(error):
            raise AssertionError(f"expected {text!r} in {error}") from error
    else:
        raise AssertionError(f"expected {kind.__name__}, but nothing failed")


def refused(state: str, action: Callable[..., object], *arguments: Any, **named: Any) -> Any:
    """Calls it and expects an error with this SQLSTATE. Returns the error."""
    try:
        action(*arguments, **named)
    except Exception as error:  # noqa: BLE001 - each driver has errors of its own
        _judge(error, state)
        return error
    raise AssertionError(f"expected SQLSTATE {state}, but nothing failed")


async def refused_later(state: str, action: Awaitable[object]) -> Any:
    """Awaits it and expects an error with this SQLSTATE. Returns the error."""
    try:
        await action
    except Exception as error:  # noqa: BLE001 - each driver has errors of its own
        _judge(error, state)
        return error
    raise AssertionError(f"expected SQLSTATE {state}, but nothing failed")


def together(count: int, work: Callable[[int], object]) -> None:
    """Runs work(0) .. work(count - 1) in threads at once; raises the first error of any of them."""
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001 - raised again below, in the thread that waits
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


async def together_later(count: int, work: Callable[[int], Awaitable[object]]) -> None:
    """Runs work(0) .. work(count - 1) as tasks at once; waits for all, raises the first error of any of them."""
    for outcome in await asyncio.gather(*(work(number) for number in range(count)), return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


def wait_for(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Polls every 10 ms. Raises AssertionError after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.01)


def _described(error: BaseException) -> str:
    here = Path(__file__).name
    frames = [
        f"{Path(frame.filename).name}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).name.startswith("suite_") and Path(frame.filename).name != here
    ]
    state = f" [{sqlstate(error)}]" if sqlstate(error) else ""
    return f"{type(error).__name__}: {str(error)[:600]}{state} ({', '.join(frames[-3:])})"


def _outcome(body: Callable[[], Any]) -> tuple[str, str]:
    """What went wrong, and why it was skipped; both empty if it passed."""
    answers: list[tuple[str, str]] = []

    def run() -> None:
        try:
            if inspect.iscoroutinefunction(body):
                asyncio.run(body())
            else:
                body()
            answers.append(("", ""))
        except NotHere as missing:
            answers.append(("", str(missing)))
        except BaseException as error:  # noqa: BLE001 - it is the check's outcome
            answers.append((_described(error), ""))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(LIMIT_SECONDS)
    return answers[0] if answers else (f"still running after {LIMIT_SECONDS} s", "")


def main() -> None:
    """Runs the checks named on the command line, or all."""
    wanted = set(sys.argv[1:])
    for name, body in _registered.items():
        if wanted and name not in wanted:
            continue
        started = time.monotonic()
        detail, skipped = _outcome(body)
        line = {"name": name, "ok": not detail, "detail": detail, "seconds": round(time.monotonic() - started, 3)}
        if skipped:
            line["skipped"] = skipped
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
    # Threads of checks that never came back must not hold the program.
    os._exit(0)
