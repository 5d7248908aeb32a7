"""What a backend has prepared."""

from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgdoorman.prepared.backend_names import BackendNames, MustWait
from pgdoorman.prepared.statement import LARGEST_REMEMBERED, Statement


def statements(count: int) -> list[Statement]:
    return [Statement(b"select %d\0\0\0" % number) for number in range(count)]


def test_what_was_sent_may_be_counted_on_in_its_own_segment() -> None:
    names = BackendNames()
    (one,) = statements(1)
    assert not names.has(one)
    names.sent(one, 7)
    assert names.has(one, 7)
    assert one not in names
    with pytest.raises(MustWait):
        names.has(one, 8)
    names.confirmed(one)
    assert names.has(one, 8)
    assert one in names
    assert len(names) == 1
    assert (names.hits, names.misses) == (1, 1)


def test_what_was_refused_is_not_there() -> None:
    names = BackendNames()
    (one,) = statements(1)
    names.sent(one, 1)
    names.refused(one)
    assert not names.has(one, 2)


def test_the_least_recently_used_go_first() -> None:
    names = BackendNames()
    made = statements(4)
    for one in made:
        names.confirmed(one)
    names.has(made[0])
    assert names.surplus(4) == []
    assert names.surplus(2) == [made[1].name, made[2].name]
    assert names.surplus(0) == [made[3].name, made[0].name]
    assert len(names) == 0


def test_forgetting() -> None:
    names = BackendNames()
    one, other = statements(2)
    names.confirmed(one)
    names.confirmed(other)
    names.forget(one)
    names.forget(one)
    assert one not in names
    names.clear()
    assert len(names) == 0


def test_a_parse_behind_deallocate_all_counts() -> None:
    names = BackendNames()
    old, new = statements(2)
    names.confirmed(old)
    names.sent(new, 1)
    names.clear()
    names.confirmed(new)
    assert new in names
    assert old not in names


def test_large_ones_are_not_kept_alive() -> None:
    """They are their client's own: when that has let go of one it is closed."""
    names = BackendNames()
    large = Statement(b"select 1 --" + b"x" * LARGEST_REMEMBERED + b"\0\0\0")
    other = Statement(b"select 2 --" + b"x" * LARGEST_REMEMBERED + b"\0\0\0")
    for one in (large, other):
        names.sent(one, 1)
        names.confirmed(one)
        assert one in names
        assert names.has(one, 2)
    assert (len(names), names.hits) == (2, 2)
    assert names.surplus(0) == []
    name = large.name
    del large, one
    assert names.has_large
    assert names.surplus(100) == [name]
    assert other in names
    other_name = other.name
    del other
    assert names.surplus(100) == [other_name]
    assert not names.has_large
    assert len(names) == 0


@given(st.lists(st.tuples(st.sampled_from(["make", "use", "trim"]), st.integers(0, 7)), max_size=60))
def test_the_order_is_that_of_use(steps: list[tuple[str, int]]) -> None:
    made = statements(8)
    names = BackendNames()
    model: OrderedDict[Statement, None] = OrderedDict()
    for what, number in steps:
        one = made[number]
        if what == "trim":
            gone = names.surplus(number)
            expected = list(model)[: max(0, len(model) - number)]
            assert gone == [other.name for other in expected]
            for other in expected:
                del model[other]
        elif names.has(one):
            assert one in model
            model.move_to_end(one)
        else:
            assert one not in model
            if what == "make":
                names.sent(one)
                names.confirmed(one)
                model[one] = None
