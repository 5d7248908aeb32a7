"""Completion: it ends once, whoever is first, and everybody who wants to know is told once."""

import threading

import pytest

from pgdoorman.control import Cancelled, Completion, ConnectionCounts, HouseState, NotPaused, PoolRow


def test_a_result_arrives() -> None:
    completion = Completion[int]()
    told: list[int] = []
    completion.add_done_callback(lambda ended: told.append(ended.result()))
    assert not completion.done
    with pytest.raises(RuntimeError):
        completion.result()
    assert completion.finish(7)
    completion.add_done_callback(lambda ended: told.append(ended.result() + 1))
    assert told == [7, 8]
    assert completion.done
    assert completion.wait_result(0) == 7


def test_only_the_first_end_counts() -> None:
    completion = Completion[int]()
    assert completion.fail(NotPaused("x"))
    assert not completion.finish(1)
    assert not completion.cancel()
    with pytest.raises(NotPaused):
        completion.result()
    assert Completion.finished(3).result() == 3
    with pytest.raises(NotPaused):
        Completion.failed(NotPaused("x")).result()


def test_a_cancelled_one_ends_with_57014_and_a_late_result_is_too_late() -> None:
    completion = Completion[int]()
    assert completion.cancel()
    assert not completion.finish(1)
    with pytest.raises(Cancelled) as caught:
        completion.wait_result(0)
    assert caught.value.sqlstate == "57014"


def test_none_is_a_result() -> None:
    assert Completion.finished(None).result() is None


def test_waiting_has_a_limit_and_ends_with_the_end() -> None:
    completion = Completion[str]()
    with pytest.raises(TimeoutError):
        completion.wait_result(0.01)
    timer = threading.Timer(0.05, completion.finish, ["done"])
    timer.start()
    assert completion.wait_result(10) == "done"
    timer.join()


def test_many_threads_one_end() -> None:
    for _ in range(200):
        completion = Completion[int]()
        barrier = threading.Barrier(8)
        won: list[int] = []
        told: list[int] = []

        def race(number: int, completion: Completion[int] = completion, barrier: threading.Barrier = barrier,
                 won: list[int] = won, told: list[int] = told) -> None:  # fmt: skip
            barrier.wait()
            if number % 2:
                if completion.finish(number):
                    won.append(number)
            else:
                completion.add_done_callback(lambda ended: told.append(ended.result()))

        threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert told == won * 4


def test_counts_of_rows() -> None:
    assert ConnectionCounts(total=10, tls=4, plain=3, cancel=2).errors == 1
    assert ConnectionCounts(total=1, tls=2).errors == 0  # counted by different threads: never below zero
    row = PoolRow(database="a", user="b", backends_active=1, backends_idle=2, backends_used=4, backends_tested=8,
                  backends_login=16, backends_cancelled=32)  # fmt: skip
    assert row.backends == 63
    assert HouseState().active
    assert not HouseState(paused=True).active
    assert not HouseState(draining=True).active
