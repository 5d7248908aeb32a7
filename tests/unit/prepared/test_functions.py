"""Verdicts about functions."""

from threading import Barrier, Thread

from pgdoorman.prepared.functions import LIFE, MOST, Functions


def test_what_was_asked_and_not_found_harmful_is_harmless() -> None:
    functions = Functions()
    functions.learn({b"f", b"g"}, {b"g"})
    assert functions.harmless == {b"f"}
    functions.learn({b"g", b"h"}, set())
    assert functions.harmless == {b"f", b"g", b"h"}


def test_what_was_found_before_a_change_is_not_learned_after_it() -> None:
    functions = Functions()
    asked_at = functions.generation
    functions.learn({b"f"}, set(), asked_at)
    functions.forget()
    assert functions.harmless == frozenset()
    functions.learn({b"f"}, set(), asked_at)
    assert functions.harmless == frozenset()
    functions.learn({b"f"}, set(), functions.generation)
    assert functions.harmless == {b"f"}


def test_verdicts_do_not_hold_for_ever() -> None:
    functions = Functions()
    functions.learn({b"f"}, set())
    began = functions._since
    functions.age(began + LIFE - 1)
    assert functions.harmless == {b"f"}
    functions.age(began + LIFE + 1)
    assert functions.harmless == frozenset()


def test_there_is_an_end_to_what_is_kept() -> None:
    functions = Functions()
    for number in range(30):
        functions.learn({b"%d %d" % (number, one) for one in range(1000)}, set())
    assert len(functions.harmless) == MOST


def test_no_verdict_is_lost_among_threads() -> None:
    functions = Functions()
    barrier = Barrier(4)

    def learn(prefix: int) -> None:
        barrier.wait(10.0)
        for number in range(300):
            functions.learn({b"%d %d" % (prefix, number)}, set())

    threads = [Thread(target=learn, args=(prefix,)) for prefix in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10.0)
    assert len(functions.harmless) == 1200
