"""What is paused after any sequence of PAUSE, RESUME and KILL."""

import itertools

from pgdoorman.doorman.pauses import Pauses


def _paused(pauses: Pauses, *databases: str) -> str:
    return " ".join(name for name in databases if pauses.holds(name))


def test_one_of_all_is_resumed() -> None:
    pauses = Pauses()
    assert pauses.begin(None)
    assert not pauses.begin(None)
    assert pauses.everything
    assert pauses.end("a")
    assert not pauses.end("a")
    assert _paused(pauses, "a", "b", "comes later") == "b comes later"
    assert not pauses.everything
    assert pauses.begin("a")
    assert _paused(pauses, "a", "b") == "a b"
    assert pauses.end("a")
    assert pauses.begin(None), "one of them was not paused"
    assert pauses.everything
    assert pauses.end(None)
    assert not pauses.end(None)
    assert _paused(pauses, "a", "b", "comes later") == ""


def test_everything_is_resumed_whatever_was_paused_by_name() -> None:
    pauses = Pauses()
    pauses.begin_each(["a", "b"])
    assert not pauses.begin("a")
    assert not pauses.everything
    assert pauses.end(None)
    assert _paused(pauses, "a", "b") == ""


def test_orders_are_as_if_each_database_had_a_switch_of_its_own() -> None:
    orders = [(verb, name) for verb in ("begin", "end") for name in (None, "a", "b")]
    for sequence in itertools.product(orders, repeat=4):
        pauses = Pauses()
        expected = {"a": False, "b": False}
        for verb, name in sequence:
            getattr(pauses, verb)(name)
            expected.update(dict.fromkeys(expected if name is None else [name], verb == "begin"))
        assert {name: pauses.holds(name) for name in expected} == expected, sequence
