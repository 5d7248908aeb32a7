"""How an operation is timed."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

TRY_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Operation:
    """`loop(count)` does the operation `count` times and returns the seconds it took by its own clock, so that setting
    up is not timed. `share` is how many operations one turn of the loop stands for."""

    name: str
    loop: Callable[[int], float]
    share: int = 1


@dataclass(frozen=True, slots=True)
class Timing:
    """Nanoseconds per operation: the best try and the middle one."""

    name: str
    best: float
    middle: float


def turns_for(operation: Operation, seconds: float) -> int:
    """How many turns take about `seconds`: doubled until a try is long enough to be scaled up from."""
    turns = 1
    while True:
        elapsed = operation.loop(turns)
        if elapsed >= seconds / 10:
            return max(1, round(turns * seconds / elapsed))
        turns *= 2


def timed(operation: Operation, tries: int, seconds: float = TRY_SECONDS) -> Timing:
    """Time it `tries` times, about `seconds` each."""
    turns = turns_for(operation, seconds)
    each = [operation.loop(turns) / turns / operation.share * 1e9 for _ in range(tries)]
    return Timing(operation.name, min(each), median(each))


def calling(name: str, call: Callable[[], object], share: int = 1) -> Operation:
    """An operation that is one call. The loop around it costs about 20 ns, which is left in."""

    def loop(count: int) -> float:
        turns = range(count)
        began = time.perf_counter()
        for _ in turns:
            call()
        return time.perf_counter() - began

    return Operation(name, loop, share)
