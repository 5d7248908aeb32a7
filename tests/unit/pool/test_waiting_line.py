"""The lines: first come, first served, but for a blur between workers."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pgdoorman.pool.waiting_line import BLUR, WaitingLine

WORKERS = 3


class Client:
    """Somebody who waits."""

    def __init__(self, worker_index: int = 0) -> None:
        self.waiting_since = -1.0
        self.in_line = False
        self.worker_index = worker_index


class Line(RuleBasedStateMachine):
    """Beside a plain list, with arrivals that the clock tells apart, and that it does not."""

    def __init__(self) -> None:
        super().__init__()
        self.line: WaitingLine[Client] = WaitingLine(WORKERS)
        self.model: list[Client] = []
        self.now = 1.0

    @rule(worker=st.integers(0, WORKERS - 1), later=st.sampled_from((BLUR / 4, BLUR / 2, BLUR * 3)))
    def join(self, worker: int, later: float) -> None:
        self.now += later
        client = Client(worker)
        self.line.join(client, self.now)
        self.model.append(client)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        gone = self.model.pop(data.draw(st.integers(0, len(self.model) - 1)))
        assert self.line.leave(gone)
        assert not self.line.leave(gone)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def leave_and_come_back(self, data: st.DataObject) -> None:
        who = self.model.pop(data.draw(st.integers(0, len(self.model) - 1)))
        self.line.leave(who)
        self.now += BLUR
        self.line.join(who, self.now)
        self.model.append(who)

    @precondition(lambda self: self.model)
    @rule()
    def first(self) -> None:
        assert self.line.first() is self.model.pop(0)

    @precondition(lambda self: self.model)
    @rule(worker=st.integers(0, WORKERS - 1))
    def next_for(self, worker: int) -> None:
        chosen = self.line.next_for(worker)
        own = [client for client in self.model if client.worker_index == worker]
        if own and own[0].waiting_since - BLUR <= self.model[0].waiting_since:
            assert chosen is own[0]
        else:
            assert chosen is self.model[0]
        self.model.remove(chosen)

    @rule()
    def everyone(self) -> None:
        assert self.line.all() == self.model
        self.model.clear()

    @invariant()
    def they_agree(self) -> None:
        assert len(self.line) == self.line.count == len(self.model)
        assert all(client.in_line for client in self.model)
        if self.model:
            assert self.line.oldest() == self.model[0].waiting_since


TestLine = Line.TestCase
TestLine.settings = settings(max_examples=80, stateful_step_count=30)


def test_an_empty_line() -> None:
    line: WaitingLine[Client] = WaitingLine(2)
    for take in (line.first, line.oldest, lambda: line.next_for(1)):
        with pytest.raises(IndexError):
            take()
    assert line.all() == []
    client = Client(1)
    assert not line.leave(client)
    line.join(client, 1.0)
    assert line.leave(client)
    with pytest.raises(IndexError):
        line.oldest()


def test_nobody_is_passed_over_for_longer_than_the_blur() -> None:
    """One worker frees backends for ever, and always has waiters of its own: the others' have their turn all the same."""
    line: WaitingLine[Client] = WaitingLine(2)
    other = Client(1)
    line.join(other, 0.0)
    now = 0.0
    for _ in range(100):
        now += BLUR / 10
        line.join(Client(0), now)
        if line.next_for(0) is other:
            break
    assert not other.in_line
    assert now <= BLUR * 1.5
