"""Timers ring once, in order, and not after they were cancelled."""

from collections.abc import Callable
from time import monotonic

from hypothesis import given
from hypothesis import strategies as st

from pgdoorman.runtime.timers import Timer, Timers


def ring(timers: Timers, now: float) -> None:
    for call in timers.take_due(now):
        call()


@given(st.lists(st.tuples(st.floats(0.0, 100.0), st.booleans()), max_size=30), st.floats(0.0, 120.0))
def test_what_is_due_rings_in_order_and_what_was_cancelled_does_not(plan: list[tuple[float, bool]], at: float) -> None:
    timers = Timers()
    rung: list[int] = []
    began = monotonic()

    def ringer(number: int) -> Callable[[], None]:
        return lambda: rung.append(number)

    made = [timers.after(seconds, ringer(number)) for number, (seconds, _) in enumerate(plan)]
    for timer, (_, cancelled) in zip(made, plan, strict=True):
        if cancelled:
            timer.cancel()
    alive = sorted((timer.due, number) for number, timer in enumerate(made) if not plan[number][1])
    assert len(timers) == len(alive)
    assert timers.next_due() == (alive[0][0] if alive else None)
    ring(timers, began + at)
    assert rung == [number for due, number in alive if due <= began + at]
    ring(timers, began + 1000.0)
    assert rung == [number for _, number in alive]
    assert timers.next_due() is None
    assert len(timers) == 0


def test_a_call_may_cancel_one_that_is_due_as_well() -> None:
    timers = Timers()
    rung: list[str] = []
    late: list[Timer] = []

    def early() -> None:
        rung.append("early")
        late[0].cancel()

    timers.after(0.0, early)
    late.append(timers.after(0.0, lambda: rung.append("late")))
    ring(timers, monotonic() + 1.0)
    assert rung == ["early"]


def test_a_call_may_set_a_timer() -> None:
    timers = Timers()
    rung: list[int] = []

    def again() -> None:
        rung.append(len(rung))
        if len(rung) < 2:
            timers.after(50.0, again)

    timers.after(0.0, again)
    ring(timers, monotonic() + 1.0)
    assert rung == [0]
    ring(timers, monotonic() + 60.0)
    assert rung == [0, 1]
    assert timers.next_due() is None


def test_a_cancelled_timer_lets_go_of_its_call() -> None:
    timers = Timers()
    timer = timers.after(10.0, lambda: None)
    timer.cancel()
    timer.cancel()
    assert timer.call is None
