"""Commands for a running pgdoorman: reload, stop, status, show, pause and so on. Each speaks with its console.

Exit codes: 0 done; 1 refused by the console; 69 (EX_UNAVAILABLE) nobody answers; 75 (EX_TEMPFAIL) not over in time;
78 (EX_CONFIG) a configuration that cannot be used.
"""

import json
import os
import sys
from collections.abc import Callable, Sequence
from select import POLLIN, poll
from typing import Any

from pgdoorman.admin.commands import WAIT_FOR_RESTART
from pgdoorman.cli.instances import Instance, find
from pgdoorman.cli.sql_client import Answer, quoted_name
from pgdoorman.cli.target import Target
from pgdoorman.cli.terminal import as_number, print_table
from pgdoorman.errors import BackendRefused, PgDoormanError

EX_REFUSED = 1
EX_UNAVAILABLE = 69
EX_TEMPFAIL = 75
EX_CONFIG = 78

_CONFIG_ERROR = "F0000"  # config_file_error


def with_instance(target: Target, work: Callable[[Instance], int]) -> int:
    """Find the instance, do the work, tell what went wrong. Returns the exit code."""
    try:
        instance = find(target)
    except PgDoormanError as error:
        return _complain(error, EX_REFUSED if isinstance(error, BackendRefused) else EX_UNAVAILABLE)
    try:
        with instance.client:
            return work(instance)
    except BackendRefused as refused:
        return _complain(refused, EX_REFUSED)
    except PgDoormanError as error:
        return _complain(error, EX_UNAVAILABLE)


def _complain(error: PgDoormanError, code: int) -> int:
    print(f"pgdoorman: {error}", file=sys.stderr)
    hint = error.hint or (error.fields.get("H", "") if isinstance(error, BackendRefused) else "")
    if hint:
        print(f"hint: {hint}", file=sys.stderr)
    return code


# --- reload -----------------------------------------------------------------------------------------------------------


def reload(target: Target, *, as_json: bool) -> int:
    """Have the configuration read again, wait for the end, print what changed and what needs a restart."""

    def work(instance: Instance) -> int:
        try:
            outcome = _outcome(instance.client.ask("RELOAD"))
        except BackendRefused as refused:
            if refused.sqlstate_of_server != _CONFIG_ERROR:
                raise
            errors = refused.fields.get("D", "").splitlines() or [refused.message]
            if as_json:
                _print_json({"applied": False, "errors": errors})
            else:
                print("\n".join(["reload failed, nothing was changed:", *errors]), file=sys.stderr)
            return EX_CONFIG
        if as_json:
            _print_json({"applied": True, **outcome})
        else:
            _print_outcome(outcome)
        return 0

    return with_instance(target, work)


def _outcome(answer: Answer) -> dict[str, list[str]]:
    changed: list[str] = []
    restart: list[str] = []
    warnings: list[str] = []
    for notice in answer.notices:
        if notice.severity == "WARNING":
            warnings.append(notice.text)
        elif notice.text.startswith(WAIT_FOR_RESTART):
            restart += notice.text.removeprefix(WAIT_FOR_RESTART).split(", ")
        else:
            changed.append(notice.text)
    return {"changed": changed, "restart_needed": restart, "warnings": warnings}


def _print_outcome(outcome: dict[str, list[str]]) -> None:
    for warning in outcome["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    waiting = outcome["restart_needed"]
    for change in outcome["changed"]:
        if change.partition(":")[0] not in waiting:
            print(f"  {change}")
    for key in waiting:
        change = next((text for text in outcome["changed"] if text.partition(":")[0] == key), key)
        print(f"  {change.removesuffix(' (needs restart)')} -- waits for a restart")
    print("reloaded" if outcome["changed"] else "reloaded, nothing has changed")


# --- stop -------------------------------------------------------------------------------------------------------------


def stop(target: Target, *, now: bool, wait: float) -> int:
    """Stop it, gracefully or now, and wait up to `wait` seconds until it is gone (0: do not wait)."""

    def work(instance: Instance) -> int:
        # Taken before the request: afterwards the number could be somebody else's.
        process = _process_handle(instance.process_id)
        try:
            instance.client.ask("SHUTDOWN IMMEDIATE" if now else "SHUTDOWN")
        except BackendRefused:
            raise
        except PgDoormanError:
            if not now:
                raise  # at once, the connection may end before the answer
        if not wait:
            print("stopping")
            return 0
        ended = _wait_process(process, wait) if process >= 0 else instance.client.wait_end(wait)
        if not ended:
            print(f"pgdoorman: still running after {wait:g} s", file=sys.stderr)
            return EX_TEMPFAIL
        print("stopped")
        return 0

    return with_instance(target, work)


def _process_handle(process_id: int) -> int:
    if process_id:
        try:
            return os.pidfd_open(process_id)
        except OSError:
            pass
    return -1


def _wait_process(handle: int, seconds: float) -> bool:
    waiting = poll()
    waiting.register(handle, POLLIN)
    try:
        return bool(waiting.poll(seconds * 1000))
    finally:
        os.close(handle)


# --- looking ----------------------------------------------------------------------------------------------------------


def status(target: Target, *, as_json: bool) -> int:
    """Which process this is and how it fares."""

    def work(instance: Instance) -> int:
        rows = instance.client.ask("SHOW STATUS").table()
        found = {str(row["key"]): row["value"] or "" for row in rows}
        if as_json:
            _print_json({key: as_number(value) for key, value in found.items()})
            return 0
        width = max(map(len, found))
        for key, value in found.items():
            shown = _duration(int(value)) if key == "uptime" else value
            print(f"{key.replace('_', ' '):<{width}}  {shown}")
        return 0

    return with_instance(target, work)


def _duration(seconds: int) -> str:
    days, rest = divmod(seconds, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    parts = ((days, "d"), (hours, "h"), (minutes, "m"), (rest, "s"))
    return " ".join(f"{number}{unit}" for number, unit in parts if number) or "0s"


def show(target: Target, what: Sequence[str], *, as_json: bool) -> int:
    """The rows of SHOW, as a table or as JSON."""

    def work(instance: Instance) -> int:
        answer = instance.client.ask("SHOW " + " ".join(_word(part) for part in what))
        if as_json:
            _print_json([_plain(answer, row) for row in answer.rows])
        else:
            print_table(answer.columns, answer.rows, answer.numeric)
        return 0

    return with_instance(target, work)


def _plain(answer: Answer, row: Sequence[str | None]) -> dict[str, Any]:
    cells = zip(answer.columns, row, answer.numeric, strict=True)
    return {name: as_number(value) if numeric else value for name, value, numeric in cells}


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


# --- acting -----------------------------------------------------------------------------------------------------------


def order(target: Target, verb: str, *arguments: str) -> int:
    """A command of the console that answers when it is done."""

    def work(instance: Instance) -> int:
        answer = instance.client.ask(" ".join([verb, *(quoted_name(argument) for argument in arguments if argument)]))
        for notice in answer.notices:
            print(f"{notice.severity.lower()}: {notice.text}", file=sys.stderr)
        print(verb)
        return 0

    return with_instance(target, work)


def _word(text: str) -> str:
    return text if text.replace("_", "").replace("-", "").isalnum() else quoted_name(text)
