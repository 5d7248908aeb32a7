"""The janitor."""

from threading import Event

import pytest

from pgdoorman.runtime.periodic import Periodic

PATIENCE = 5.0


def test_each_duty_at_its_own_pace() -> None:
    janitor = Periodic()
    often: list[int] = []
    seldom: list[int] = []
    enough = Event()

    def quick() -> None:
        often.append(1)
        if len(often) >= 5:
            enough.set()

    janitor.every(0.01, quick)
    janitor.every(60.0, lambda: seldom.append(1))
    janitor.start()
    assert enough.wait(PATIENCE)
    janitor.stop()
    assert not janitor.is_alive()
    assert seldom == []
    before = len(often)
    assert not Event().wait(0.05)
    assert len(often) == before


def test_a_failing_duty_ends_neither_itself_nor_the_others(caplog: pytest.LogCaptureFixture) -> None:
    janitor = Periodic()
    failures: list[int] = []
    good: list[int] = []
    enough = Event()

    def fail() -> None:
        failures.append(1)
        raise ZeroDivisionError

    def succeed() -> None:
        good.append(1)
        if len(good) >= 3 and len(failures) >= 3:
            enough.set()

    janitor.every(0.005, fail)
    janitor.every(0.005, succeed)
    janitor.start()
    assert enough.wait(PATIENCE)
    janitor.stop()
    assert "ZeroDivisionError" in caplog.text


def test_a_slow_duty_makes_up_for_nothing() -> None:
    janitor = Periodic()
    runs: list[int] = []
    first = Event()
    gate = Event()

    def slow() -> None:
        runs.append(1)
        first.set()
        gate.wait(PATIENCE)

    janitor.every(0.001, slow)
    janitor.start()
    assert first.wait(PATIENCE)
    Event().wait(0.05)
    assert len(runs) == 1
    gate.set()
    janitor.stop()


def test_without_duties_and_before_the_start() -> None:
    janitor = Periodic()
    janitor.start()
    janitor.join(PATIENCE)
    assert not janitor.is_alive()
    janitor.stop()
    janitor = Periodic()
    called: list[int] = []
    janitor.every(0.001, lambda: called.append(1))
    janitor.stop()
    janitor.start()
    janitor.join(PATIENCE)
    assert called == []
