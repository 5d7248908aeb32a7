"""Whose query a cancel request means."""

import itertools
from threading import Barrier, Thread

import pytest

from pgdoorman.client.cancel_keys import CancelKey, CancelKeys


def test_a_key_finds_its_owner() -> None:
    keys = CancelKeys()
    alice, bob = object(), object()
    hers, his = keys.issue(alice, 4), keys.issue(bob, 32)
    assert (len(hers.secret), len(his.secret)) == (4, 32)
    assert hers.process_id != his.process_id
    assert keys.find(hers.process_id, hers.secret) is alice
    assert keys.find(his.process_id, his.secret) is bob
    assert len(keys) == 2


def test_wrong_keys_find_nobody() -> None:
    keys = CancelKeys()
    key = keys.issue(object(), 32)
    other = keys.issue(object(), 32)
    for process_id, secret in (
        (key.process_id, other.secret),
        (key.process_id, key.secret[:-1]),
        (key.process_id, key.secret[:4]),
        (key.process_id, key.secret + b"\0"),
        (key.process_id, b""),
        (key.process_id ^ 1 or 2, key.secret),
        (0, b""),
    ):
        assert keys.find(process_id, secret) is None


def test_a_key_that_was_withdrawn() -> None:
    keys = CancelKeys()
    key = keys.issue(object(), 4)
    keys.withdraw(key)
    keys.withdraw(key)
    assert keys.find(key.process_id, key.secret) is None
    assert len(keys) == 0


def test_a_key_may_change_hands() -> None:
    keys = CancelKeys()
    key = keys.issue(object(), 4)
    heir = object()
    keys.assign(key, heir)
    assert keys.find(key.process_id, key.secret) is heir
    restored = CancelKey(12345, b"abcd")
    keys.assign(restored, heir)
    assert keys.find(12345, b"abcd") is heir


def test_secrets_do_not_show() -> None:
    key = CancelKeys().issue(object(), 4)
    assert str(key.secret) not in repr(key)
    assert str(key.process_id) in repr(key)


@pytest.mark.parametrize("length", [4, 32])
def test_secrets_and_process_ids_are_drawn(length: int) -> None:
    """A client may be told any of them; none may be guessed from the others."""
    keys = CancelKeys()
    drawn = [keys.issue(object(), length) for _ in range(500)]
    assert len({key.secret for key in drawn}) == 500
    assert len({key.process_id for key in drawn}) == 500
    assert all(0 < key.process_id < 2**31 for key in drawn)
    steps = {later.process_id - key.process_id for key, later in itertools.pairwise(drawn)}
    assert len(steps) > 400


def test_process_ids_are_unique_among_threads() -> None:
    keys = CancelKeys()
    barrier = Barrier(6)
    drawn: list[list[CancelKey]] = [[] for _ in range(6)]

    def issue(mine: list[CancelKey]) -> None:
        barrier.wait(10.0)
        for _ in range(500):
            key = keys.issue(mine, 4)
            mine.append(key)
            if len(mine) % 3 == 0:
                keys.withdraw(key)

    threads = [Thread(target=issue, args=(mine,)) for mine in drawn]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10.0)
    kept = [key for mine in drawn for number, key in enumerate(mine, 1) if number % 3]
    assert len(keys) == len(kept)
    for mine in drawn:
        for number, key in enumerate(mine, 1):
            assert keys.find(key.process_id, key.secret) is (mine if number % 3 else None)
