"""Lines that are said of every client: the same to see as any other, for less work."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgdoorman.logs.events import Event
from pgdoorman.logs.sampling import Sampling
from pgdoorman.logs.writer import Logs, set_up

log = logging.getLogger("pgdoorman.pool")
CAME = Event(log, logging.INFO, "client %d came from %s")


@pytest.fixture
def logs(file: tuple[Path, int]) -> Iterator[Logs]:
    running = set_up(log_format="structured", descriptor=file[1], environment={}, sampling=Sampling(same_text=1))
    yield running
    running.close()


def _said(file: tuple[Path, int], logs: Logs) -> list[dict[str, object]]:
    assert logs.wait_flush()
    return [json.loads(line) for line in file[0].read_text().splitlines()]


def test_it_looks_like_any_other_line(file: tuple[Path, int], logs: Logs) -> None:
    CAME.say(7, "here\nthere")
    log.info("client %d came from %s", 7, "here\nthere")
    event, usual = _said(file, logs)
    assert event.keys() == usual.keys()
    for line in (event, usual):
        del line["line"], line["timestamp"]
    assert event == usual


def test_levels_hold_for_it(file: tuple[Path, int], logs: Logs) -> None:
    logs.set_levels("info,pool=warn")
    CAME.say(1, "a")
    logs.set_levels("info")
    CAME.say(2, "a")
    assert [line["message"] for line in _said(file, logs)] == ["client 2 came from a"]


def test_it_is_not_sampled(file: tuple[Path, int], logs: Logs) -> None:
    for _ in range(3):
        CAME.say(1, "a")
    assert len(_said(file, logs)) == 3


def test_other_handlers_find_all_that_they_look_for(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "pgdoorman.pool"):
        CAME.say(3, "b")
    (record,) = caplog.records
    assert record.getMessage() == "client 3 came from b"
    usual = log.makeRecord(log.name, logging.INFO, record.pathname, record.lineno, "m", (), None, "f")
    assert vars(usual).keys() <= vars(record).keys()
    assert record.funcName == "<module>"


def test_what_cannot_be_formatted_is_still_a_line(file: tuple[Path, int], logs: Logs) -> None:
    CAME.say("x")
    assert "could not be formatted: TypeError" in str(_said(file, logs)[0]["message"])
