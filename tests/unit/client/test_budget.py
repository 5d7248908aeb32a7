"""The memory that all clients share."""

from threading import Barrier, Thread

import pytest

from pgdoorman.client.budget import Budget
from pgdoorman.errors import OutOfBudget


def test_up_to_the_limit_and_not_beyond() -> None:
    budget = Budget(100)
    budget.take(60)
    budget.take(40)
    assert budget.used == 100
    with pytest.raises(OutOfBudget) as refused:
        budget.take(1)
    assert refused.value.sqlstate == "53200"
    assert budget.used == 100, "what was refused is not counted"
    budget.give_back(60)
    with pytest.raises(OutOfBudget):
        budget.take(61)
    budget.take(60)
    assert budget.used == 100


def test_a_lowered_limit_refuses_until_enough_came_back() -> None:
    budget = Budget(100)
    budget.take(80)
    budget.limit = 50
    with pytest.raises(OutOfBudget):
        budget.take(1)
    budget.give_back(40)
    budget.take(10)
    assert budget.used == 50


def test_nothing_is_lost_among_threads() -> None:
    budget = Budget(300)
    barrier = Barrier(8)
    refused: list[int] = []

    def work(size: int) -> None:
        barrier.wait(10.0)
        for _ in range(1000):
            try:
                budget.take(size)
            except OutOfBudget:
                refused.append(size)
                continue
            assert budget.used <= 300
            budget.give_back(size)

    threads = [Thread(target=work, args=(50 + number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10.0)
    assert budget.used == 0
