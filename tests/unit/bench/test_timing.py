"""How the micro-benchmarks time, and that each of their operations does what it says on today's code."""

import pytest

from bench.micro import framing, handoff, ledger
from bench.micro.timing import Operation, timed, turns_for


def test_turns_are_scaled_from_a_try_that_the_clock_can_see() -> None:
    asked: list[int] = []

    def loop(count: int) -> float:
        asked.append(count)
        return count * 0.001

    assert turns_for(Operation("one millisecond", loop), 0.1) == 100
    assert asked == [1, 2, 4, 8, 16]


def test_the_best_and_the_middle_per_operation() -> None:
    speeds = iter([1.0, 3e-6, 1e-6, 2e-6])
    operation = Operation("uneven", lambda count: count * next(speeds), share=2)
    timing = timed(operation, 3, seconds=1.0)
    assert timing.best == pytest.approx(500)
    assert timing.middle == pytest.approx(1000)


def test_the_walk_ends_at_the_end() -> None:
    assert framing.walk(framing.REPLY) == len(framing.REPLY)
    assert framing.walk(framing.ROWS) == len(framing.ROWS)
    assert framing.walk(framing.REPLY[:-1]) == len(framing.REPLY)  # where the cut message would have ended


@pytest.mark.parametrize(
    "operation",
    [*framing.operations(), *ledger.operations(), *handoff.operations()],
    ids=lambda operation: operation.name,
)
def test_every_operation_runs(operation: Operation) -> None:
    assert operation.loop(50) > 0
