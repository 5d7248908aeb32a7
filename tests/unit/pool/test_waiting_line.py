"""The line: first come, first served, and out of the middle in constant time."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pgdoorman.pool.waiting_line import WaitingLine


class Line(RuleBasedStateMachine):
    """Beside a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.line: WaitingLine[str] = WaitingLine()
        self.model: list[tuple[str, float]] = []
        self.came = 0

    @rule()
    def join(self) -> None:
        self.came += 1
        self.line.join(f"client {self.came}", float(self.came))
        self.model.append((f"client {self.came}", float(self.came)))

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        gone, _ = self.model.pop(data.draw(st.integers(0, len(self.model) - 1)))
        assert self.line.leave(gone)
        assert not self.line.leave(gone)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def leave_and_come_back(self, data: st.DataObject) -> None:
        who, _ = self.model.pop(data.draw(st.integers(0, len(self.model) - 1)))
        self.line.leave(who)
        self.came += 1
        self.line.join(who, float(self.came))
        self.model.append((who, float(self.came)))

    @precondition(lambda self: self.model)
    @rule()
    def first(self) -> None:
        assert self.line.first() == self.model.pop(0)[0]

    @rule()
    def everyone(self) -> None:
        assert self.line.all() == [who for who, _ in self.model]
        self.model.clear()

    @invariant()
    def they_agree(self) -> None:
        assert len(self.line) == len(self.model)
        assert bool(self.line) == bool(self.model)
        assert all(who in self.line for who, _ in self.model)
        assert "nobody" not in self.line
        if self.model:
            assert self.line.oldest() == self.model[0][1]


TestLine = Line.TestCase
TestLine.settings = settings(max_examples=50, stateful_step_count=30)


def test_an_empty_line() -> None:
    line: WaitingLine[str] = WaitingLine()
    with pytest.raises(IndexError):
        line.first()
    with pytest.raises(IndexError):
        line.oldest()
    assert line.all() == []
    assert not line.leave("nobody")
    line.join("one", 1.0)
    assert line.leave("one")
    with pytest.raises(IndexError):
        line.oldest()
