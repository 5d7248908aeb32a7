"""The inbox: nothing lost, nothing twice, one announcement per burst."""

import gc
import os
import select
import weakref

import pytest

from pgdoorman.runtime.inbox import Inbox


def is_announced(inbox: Inbox) -> bool:
    return bool(select.select([inbox.fd], [], [], 0)[0])


def test_calls_come_out_in_order_and_once() -> None:
    inbox = Inbox()
    made: list[int] = []
    for number in range(5):
        assert inbox.post(lambda number=number: made.append(number))  # type: ignore[misc]
    assert is_announced(inbox)
    for call in inbox.take():
        call()
    assert made == [0, 1, 2, 3, 4]
    assert not is_announced(inbox)
    assert inbox.take() == []


def test_a_burst_is_announced_once() -> None:
    inbox = Inbox()
    for _ in range(100):
        inbox.post(lambda: None)
    assert os.eventfd_read(inbox.fd) == 1
    assert len(inbox.take()) == 100


def test_what_comes_after_a_take_is_announced_again() -> None:
    inbox = Inbox()
    inbox.post(lambda: None)
    inbox.take()
    inbox.post(lambda: None)
    assert is_announced(inbox)


def test_a_closed_inbox_gives_back_what_it_has_and_takes_nothing() -> None:
    inbox = Inbox()

    def call() -> None:
        """Never made."""

    inbox.post(call)
    assert inbox.close() == [call]
    assert not inbox.post(call)
    assert inbox.close() == []
    assert inbox.take() == []


def test_its_descriptor_goes_with_it() -> None:
    """Not before: a post that was accepted may still be about to write to it."""
    inbox = Inbox()
    fd = inbox.fd
    inbox.close()
    os.fstat(fd)
    gone = weakref.ref(inbox)
    del inbox
    gc.collect()
    assert gone() is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
