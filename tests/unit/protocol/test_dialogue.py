"""The runner of dialogues: bytes in, bytes out, and what it refuses."""

import gc
from weakref import ref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgdoorman.errors import BackendUnavailable, ProtocolViolation
from pgdoorman.protocol.dialogue import (
    Dialogue,
    FindSecret,
    Message,
    Offload,
    Receive,
    Runner,
    Send,
    offload,
    receive,
    send,
)
from tests.support.script import finds, receives, run_script, sends, sends_into, works


def frame(kind: str, body: bytes = b"", length: int | None = None) -> bytes:
    return kind.encode() + (len(body) + 4 if length is None else length).to_bytes(4) + body


def echo(count: int, types: bytes = b"", limit: int = 100) -> Dialogue[list[Message]]:
    heard = []
    for _ in range(count):
        message = yield from receive(types, limit)
        heard.append(message)
        yield Send(message.body)
    return heard


def test_a_dialogue_that_asks_nothing_is_over_at_once() -> None:
    runner = Runner(echo(0))
    assert runner.done
    assert runner.wants is None
    assert runner.result() == []


def test_output_is_held_until_it_is_taken() -> None:
    def two() -> Dialogue[int]:
        yield from send(b"a")
        yield from send(b"b")
        return 7

    runner = Runner(two())
    assert runner.take_output() == b"ab"
    assert runner.take_output() == b""
    assert runner.result() == 7


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=5), st.data())
def test_messages_arrive_whole_however_the_bytes_are_cut(bodies: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(frame("p", body) for body in bodies)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    runner = Runner(echo(len(bodies)))
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        runner.feed(stream[start:end])
    assert [message.body for message in runner.result()] == bodies
    assert runner.take_output() == b"".join(bodies)


def test_what_comes_after_the_end_is_kept_for_the_next_reader() -> None:
    runner = Runner(echo(1))
    runner.feed(frame("p", b"x") + frame("Q", b"select\0"))
    assert runner.done
    assert runner.take_input() == frame("Q", b"select\0")
    assert runner.take_input() == b""


@pytest.mark.parametrize("header", [b"Q", b"\0", b"\xff", b"Q\0\0\0\x04"])
def test_a_wrong_type_is_refused_at_its_first_byte(header: bytes) -> None:
    runner = Runner(echo(1, b"p"))
    runner.feed(header)
    with pytest.raises(ProtocolViolation, match="unexpected message type"):
        runner.result()


@pytest.mark.parametrize("length", [0, 1, 3, 101, 0x7FFF_FFFF, 0x8000_0000, 0x8000_0001, 0xFFFF_FFFF])
def test_a_length_outside_the_bounds_is_refused_at_the_header(length: int) -> None:
    runner = Runner(echo(1, b"p", limit=100))
    runner.feed(b"p" + length.to_bytes(4))
    with pytest.raises(ProtocolViolation, match="invalid length"):
        runner.result()


@pytest.mark.parametrize("size", [0, 96])
def test_lengths_on_the_bounds_are_admitted(size: int) -> None:
    runner = Runner(echo(1, b"p", limit=100))
    runner.feed(frame("p", bytes(size)))
    assert runner.result() == [Message(ord("p"), bytes(size))]


def test_a_dialogue_may_answer_a_violation_before_it_ends() -> None:
    def polite() -> Dialogue[None]:
        try:
            yield Receive(b"p")
        except ProtocolViolation:
            yield Send(b"no")
            raise

    runner = Runner(polite())
    runner.feed(b"Q")
    assert runner.take_output() == b"no"
    with pytest.raises(ProtocolViolation):
        runner.result()


def test_work_and_secrets_are_left_to_the_owner() -> None:
    def curious() -> Dialogue[tuple[int, object]]:
        number = yield from offload(lambda: 6 * 7)
        secret = yield FindSecret("u", "d")
        return number, secret

    runner = Runner(curious())
    first = runner.wants
    assert isinstance(first, Offload)
    runner.answer(first.work())
    second = runner.wants
    assert second == FindSecret("u", "d")
    runner.answer("s")
    assert runner.result() == (42, "s")


def test_bytes_that_come_during_work_wait_for_it() -> None:
    def working() -> Dialogue[bytes]:
        yield Offload(lambda: None)
        message = yield from receive(b"p")
        return message.body

    runner = Runner(working())
    runner.feed(frame("p", b"early"))
    assert not runner.done
    runner.answer(None)
    assert runner.result() == b"early"


def test_what_work_raises_is_thrown_in() -> None:
    def careful() -> Dialogue[str]:
        try:
            yield Offload(lambda: 1 / 0)
        except ZeroDivisionError:
            return "caught"
        return "missed"

    runner = Runner(careful())
    runner.fail(ZeroDivisionError())
    assert runner.result() == "caught"


def test_a_hang_up_is_thrown_in_as_an_error() -> None:
    runner = Runner(echo(1))
    runner.fail(BackendUnavailable("gone"))
    with pytest.raises(BackendUnavailable):
        runner.result()


def test_an_error_that_is_none_of_ours_leaves_through_the_owner_and_ends_the_dialogue() -> None:
    def broken() -> Dialogue[None]:
        yield Receive()
        raise KeyError("a defect")

    runner = Runner(broken())
    with pytest.raises(KeyError):
        runner.feed(frame("p"))
    assert runner.done


def test_close_runs_the_finally_blocks() -> None:
    closed = []

    def tidy() -> Dialogue[None]:
        try:
            yield Receive()
        finally:
            closed.append(True)

    runner = Runner(tidy())
    runner.close()
    assert closed == [True]
    assert runner.done


def test_no_bytes_show_in_a_repr() -> None:
    assert "secret" not in repr(Send(b"secret")) + repr(Message(ord("p"), b"secret"))


# The script helper itself: a test tool that cannot fail would pass everything.


def login() -> Dialogue[str]:
    yield Send(b"hello")
    message = yield from receive(b"p")
    secret = yield FindSecret(message.body.decode(), "d")
    work = yield from offload(lambda: 1)
    return f"{secret}{work}"


def test_a_script_that_is_kept_returns_the_result() -> None:
    sink: list[bytes] = []
    assert run_script(login(), sends(b"hello"), receives("p", b"u"), finds("s", user="u"), works()) == "s1"
    assert run_script(login(), sends_into(sink), receives("p", lambda: sink[0]), finds("s"), works(5)) == "s5"


@pytest.mark.parametrize(
    ("steps", "difference"),
    [
        ((sends(b"hullo"),), r"\+send +b'hello'"),
        ((sends(b"hello"), receives("Q")), r"-receive 'Q'(.|\n)*\+receive any of"),
        ((sends(b"hello"), receives("p", b"u")), r"\+find +secret of u"),
        ((sends(b"hello"), receives("p", b"u"), finds("s", stale=True)), r"-find +secret of anyone again"),
        ((sends(b"hello"), receives("p", b"u"), finds("s"), works(), receives("p")), r"\+returns"),
    ],
)
def test_a_script_that_is_left_shows_where(steps: tuple[object, ...], difference: str) -> None:
    with pytest.raises(AssertionError, match=difference):
        run_script(login(), *steps)  # type: ignore[arg-type]  # the parameters are Steps


def test_a_closed_one_that_failed_leaves_no_circle() -> None:
    """The pooler runs without automatic cyclic collection: thousands of failed log-ins would stay in memory."""

    class Marked:
        """Can be referred to weakly."""

    def failing(held: Marked) -> Dialogue[None]:
        yield Send(b"hello")
        assert held is not None
        raise ProtocolViolation("no")

    held = Marked()
    runner = Runner(failing(held))
    with pytest.raises(ProtocolViolation):
        runner.result()
    runner.close()
    gone = ref(held)
    enabled = gc.isenabled()
    gc.disable()
    try:
        del held, runner
        assert gone() is None
    finally:
        if enabled:
            gc.enable()
