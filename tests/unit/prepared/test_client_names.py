"""What a client calls its statements, while answers are outstanding."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgdoorman.prepared.backend_names import BackendNames, MustWait
from pgdoorman.prepared.client_names import MOST_RECENT, ClientNames, Naming, Preparing
from pgdoorman.prepared.statement import Statement


def statement(text: bytes = b"select 1") -> Statement:
    return Statement(text + b"\0\0\0")


def parse(names: ClientNames, name: bytes, made: Statement, backend: BackendNames | None = None) -> Naming:
    return Naming(names, name, made, backend)


def close(names: ClientNames, name: bytes) -> Naming:
    return Naming(names, name, None, None)


def test_a_name_becomes_true_with_its_answer() -> None:
    names = ClientNames()
    made = statement()
    naming = parse(names, b"s", made)
    assert len(names) == 0
    assert not names.is_settled
    assert names.find(b"s") is made, "within its segment it may be counted on"
    naming.happened()
    assert names.find(b"s") is made
    assert len(names) == 1
    assert names.is_settled


@pytest.mark.parametrize("outcome", ["failed", "skipped"])
def test_a_name_whose_parse_did_not_succeed_was_never_made(outcome: str) -> None:
    names = ClientNames()
    getattr(parse(names, b"s", statement()), outcome)()
    assert names.find(b"s") is None
    assert names.is_settled


def test_across_a_sync_one_has_to_wait() -> None:
    names = ClientNames()
    made = statement()
    naming = parse(names, b"s", made)
    names.segment += 1
    with pytest.raises(MustWait):
        names.find(b"s")
    assert names.find(b"other") is None
    naming.happened()
    assert names.find(b"s") is made


def test_a_close_counts_from_its_place_on() -> None:
    names = ClientNames()
    old, new = statement(), statement()
    parse(names, b"s", old).happened()
    closing = close(names, b"s")
    assert names.find(b"s") is None
    making = parse(names, b"s", new)
    assert names.find(b"s") is new
    closing.happened()
    assert names.find(b"s") is new
    making.happened()
    assert names.find(b"s") is new


def test_a_statement_made_again_under_its_name_is_taken() -> None:
    """Between the two answers, and behind them."""
    names = ClientNames()
    shared = statement()
    parse(names, b"s", shared).happened()
    closing = close(names, b"s")
    making = parse(names, b"s", shared)
    for answer in (closing, making):
        assert not names.is_free(shared, b"other")
        answer.happened()
    assert not names.is_free(shared, b"other")
    assert names.is_free(shared, b"s")
    close(names, b"s").happened()
    assert names.is_free(shared, b"other")


def test_a_close_that_was_skipped_closed_nothing() -> None:
    names = ClientNames()
    old = statement()
    parse(names, b"s", old).happened()
    close(names, b"s").skipped()
    assert names.find(b"s") is old


def test_a_failed_parse_of_the_unnamed_statement_drops_the_old_one() -> None:
    names = ClientNames()
    old = statement()
    parse(names, b"", old).happened()
    parse(names, b"", statement()).skipped()
    assert names.find(b"") is old
    parse(names, b"", statement()).failed()
    assert names.find(b"") is None


def test_a_query_drops_the_unnamed_statement_only() -> None:
    names = ClientNames()
    kept = statement()
    parse(names, b"", statement()).happened()
    parse(names, b"s", kept).happened()
    names.drop_unnamed()
    assert names.find(b"") is None
    assert names.find(b"s") is kept
    names.clear()
    assert names.find(b"s") is None


def test_the_backend_learns_the_same() -> None:
    names, backend = ClientNames(), BackendNames()
    made, failed, skipped = statement(), statement(), statement()
    for one in (made, failed, skipped):
        backend.sent(one, names.segment)
    parse(names, b"1", made, backend).happened()
    parse(names, b"2", failed, backend).failed()
    parse(names, b"3", skipped, backend).skipped()
    assert made in backend
    assert failed not in backend
    assert skipped not in backend
    assert not backend.has(failed)
    assert not backend.has(skipped)


def test_names_for_error_texts() -> None:
    names = ClientNames()
    made, pending = statement(), statement()
    parse(names, b"made", made).happened()
    naming = parse(names, b"pending", pending)
    assert names.name_of(made.name) == b"made"
    assert names.name_of(pending.name) == b"pending"
    assert names.name_of(statement().name) is None
    naming.failed()
    assert names.name_of(pending.name) == b"pending"  # the error that ended it may still come


def test_what_was_parsed_lately_is_at_hand() -> None:
    names = ClientNames()
    first = statement()
    names.remember(b"tail", first, 0)
    assert names.recent[b"tail"] is first
    assert names.recent_generation == 0
    for number in range(MOST_RECENT * 3):
        names.remember(b"%d" % number, statement(), 0)
        assert len(names.recent) <= MOST_RECENT
    names.remember(b"tail", first, 1)
    assert list(names.recent) == [b"tail"], "of one generation"


@pytest.mark.parametrize(("most", "kept"), [(1, 1), (3, 2), (0, 5)])
def test_how_much_is_kept_at_hand(most: int, kept: int) -> None:
    names = ClientNames(most)
    for number in range(5):
        names.remember(b"%d" % number, statement(), 0)
    assert len(names.recent) == kept


@given(st.data())
def test_any_answers_in_order_leave_what_the_server_has(data: st.DataObject) -> None:
    """Against the plain truth: a dictionary that each answer changes when it comes, and that a use must never guess."""
    names = ClientNames()
    truth: dict[bytes, Statement] = {}
    outstanding: deque[tuple[Naming, int]] = deque()
    failing: set[int] = set()  # segments in which something has failed
    shared = [statement(), statement()]  # of texts that several clients use
    for _ in range(data.draw(st.integers(0, 40))):
        match data.draw(st.sampled_from(["parse", "parse", "close", "sync", "answer", "answer", "use"])):
            case "parse":
                name = data.draw(st.sampled_from([b"", b"a", b"b"]))
                made = data.draw(st.sampled_from(shared))
                if not names.is_free(made, name):
                    made = statement()
                outstanding.append((parse(names, name, made), names.segment))
            case "close":
                name = data.draw(st.sampled_from([b"", b"a", b"b"]))
                outstanding.append((close(names, name), names.segment))
            case "sync":
                names.segment += 1
            case "use":
                name = data.draw(st.sampled_from([b"", b"a", b"b"]))
                pending = [naming for naming, _ in outstanding if naming.name == name]
                if not pending:
                    assert names.find(name) is truth.get(name)
                elif pending[-1].segment == names.segment:
                    assert names.find(name) is pending[-1].statement
                else:
                    with pytest.raises(MustWait):
                        names.find(name)
            case _ if outstanding:
                naming, segment = outstanding.popleft()
                fails = naming.statement is not None and data.draw(st.booleans())
                if segment in failing:
                    naming.skipped()
                elif fails:
                    failing.add(segment)
                    if not naming.name:
                        truth.pop(b"", None)
                    naming.failed()
                else:
                    if naming.statement is None:
                        truth.pop(naming.name, None)
                    else:
                        truth[naming.name] = naming.statement
                    naming.happened()
        assert len(set(truth.values())) == len(truth), (
            "two names for one statement: an error text may show the wrong one"
        )
    while outstanding:
        naming, _ = outstanding.popleft()
        naming.skipped()
    assert names.is_settled
    assert names.names == truth


def test_our_own_parse_in_front_of_a_message() -> None:
    backend = BackendNames()
    one, other, third = statement(), statement(), statement()
    Preparing(backend, one, 0).happened()
    failing = Preparing(backend, other, 0)
    assert backend.has(other, 0)
    failing.failed()
    Preparing(backend, third, 0).skipped()
    assert (one in backend, backend.has(other), backend.has(third)) == (True, False, False)
