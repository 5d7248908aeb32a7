"""When memory is given back."""

import os
from itertools import pairwise

from pgdoorman.runtime.memory import LONGEST_PAUSE, WORTH_WHILE, MemoryReturn, give_back, resident_bytes

MB = 1 << 20


def test_resident_bytes() -> None:
    assert 10 * MB < resident_bytes() < 100_000 * MB


def test_giving_back_leaves_no_descriptor() -> None:
    before = os.listdir("/proc/self/fd")
    give_back()
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_little_more_than_the_least_is_nothing_to_do() -> None:
    memory = MemoryReturn()
    for second, resident in enumerate((90 * MB, 50 * MB, 50 * MB + WORTH_WHILE - 1)):
        assert not memory.is_worth_while(second, resident)


def test_tries_that_change_nothing_become_rare() -> None:
    memory = MemoryReturn()
    assert not memory.is_worth_while(0.0, 50 * MB)
    tries = [second for second in range(1, 1000) if memory.is_worth_while(second, 200 * MB)]
    pauses = [later - sooner for sooner, later in pairwise(tries)]
    assert tries[0] == 1
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE
    assert memory.is_worth_while(1000, 200 * MB + WORTH_WHILE), "at once when there is more of it"


def test_tries_that_help_go_on() -> None:
    memory = MemoryReturn()
    memory.is_worth_while(0.0, 50 * MB)
    resident = 300 * MB
    for second in range(1, 60):
        assert memory.is_worth_while(second, resident)
        resident -= 4 * MB
