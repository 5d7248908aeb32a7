"""Scripted conversations: the questions that a dialogue may ask, and the runner that turns bytes into answers.

A dialogue is a generator. It yields a question, is resumed with the answer, and returns its result; so a log-in reads
like the protocol chapter and never sees a socket, a clock or a thread. Whoever runs it (an event loop, a blocking
helper thread, a test script) owns those three, and any time limit.

`Runner` does the part that all of them share: it holds what is to be sent, cuts what was received into messages,
refuses a message of the wrong type or size as soon as its five-byte header is known (so a peer can never make us
buffer more than the dialogue asked for), and leaves to its owner only the questions that need the outside world.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Final

from pgdoorman.errors import PgDoormanError, ProtocolViolation

HEADER_SIZE: Final = 5
"""Bytes of a message header: one of type and four of length."""

DEFAULT_LIMIT: Final = 65535 + 4
"""The largest length field that `Receive` admits unless it says otherwise: a body of 65,535 bytes."""


@dataclass(frozen=True, slots=True)
class Send:
    """Answered with None. The runner may hold the bytes until the next `Receive`, `Offload` or `FindSecret`, or the
    end of the dialogue, but never beyond: what was sent before an error still goes out before the error."""

    data: bytes

    def __repr__(self) -> str:
        # The bytes may hold a password.
        return f"Send({len(self.data)} bytes)"


@dataclass(frozen=True, slots=True)
class Receive:
    """Answered with the next `Message`, whose type must be one of `types` (empty: any) and whose length field, which
    counts itself but not the type byte, must be between 4 and `limit`. Anything else is a `ProtocolViolation`, thrown
    into the dialogue before the body is waited for."""

    types: bytes = b""
    limit: int = DEFAULT_LIMIT


@dataclass(frozen=True, slots=True)
class Offload[T]:
    """Answered with `work()`, which is heavy or blocks (PBKDF2, PAM, LDAP, DNS) and is therefore run where blocking is
    allowed. What it raises is thrown into the dialogue. The work shares nothing with the dialogue while it runs.

    `waits` tells work that waits for somebody else, perhaps for seconds, from work that computes: whoever has threads
    for both keeps them apart, so that the one does not hold up the other."""

    work: Callable[[], T]
    waits: bool = False


@dataclass(frozen=True, slots=True)
class FindSecret:
    """Answered with what is stored for a user (`auth.secrets.StoredSecret`), or None when there is no such user. How
    it is found (user list, cache, auth_query) is not the dialogue's business.

    `stale` means that the answer given before did not fit what the client knows: whoever keeps a cache may look once
    more where the truth is, at a rate of its choosing, and whoever has nothing newer answers the same again."""

    user: str
    database: str
    stale: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """One message: its type byte and its body, without type and length."""

    type: int
    body: bytes

    def __repr__(self) -> str:
        return f"Message({chr(self.type)!r}, {len(self.body)} bytes)"


type Question = Send | Receive | Offload[Any] | FindSecret
type Outward = Offload[Any] | FindSecret
type Dialogue[T] = Generator[Question, Any, T]


def send(data: bytes) -> Dialogue[None]:
    """Ask `Send`."""
    yield Send(data)


def receive(types: bytes = b"", limit: int = DEFAULT_LIMIT) -> Dialogue[Message]:
    """Ask `Receive`; with this the type checker knows what comes back."""
    message: Message = yield Receive(types, limit)
    return message


def offload[T](work: Callable[[], T], *, waits: bool = False) -> Dialogue[T]:
    """Ask `Offload`."""
    result: T = yield Offload(work, waits)
    return result


def describe_type(code: int) -> str:
    """A message type as an error text shows it: the letter where it is one, else the number."""
    return f"'{chr(code)}'" if 0x21 <= code <= 0x7E else f"0x{code:02x}"


class Runner[T]:
    """Drives one dialogue without doing any I/O.

    The owner gives it what was received (`feed`), sends what it hands out (`take_output`), and looks at `wants`:

    - an `Offload` or `FindSecret`: do it and call `answer` (or `fail` with what it raised);
    - a `Receive`: bytes are needed, call `feed` when there are any;
    - None: the dialogue is over, and `result()` returns its value or raises its error.

    Every method may finish the dialogue, so look at `take_output` and `wants` after each. Not thread-safe: like a
    socket, a runner has one owner at a time.
    """

    __slots__ = ("_dialogue", "_done", "_error", "_input", "_output", "_result", "_waiting")

    def __init__(self, dialogue: Dialogue[T]) -> None:
        self._dialogue = dialogue
        self._input = bytearray()
        self._output = bytearray()
        self._waiting: Receive | Outward | None = None
        self._done = False
        self._result: T | None = None
        self._error: Exception | None = None
        self._resume(None)

    @property
    def wants(self) -> Receive | Outward | None:
        """The question that is open, None when the dialogue is over."""
        return self._waiting

    @property
    def done(self) -> bool:
        """True when the dialogue has returned or raised."""
        return self._done

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Add received bytes: any part of a message, or several. What no question asks for yet is kept for the next
        one; so an owner that reads on while an `Offload` is open decides itself how much it lets a peer pile up."""
        self._input += data
        self._settle()

    def answer(self, value: object) -> None:
        """Answer the open `Offload` or `FindSecret`."""
        assert isinstance(self._waiting, Offload | FindSecret), "no question of the outside world is open"
        self._resume(value)
        self._settle()

    def fail(self, error: Exception) -> None:
        """Throw into the dialogue: what the open `Offload` or `FindSecret` raised, that the peer hung up, that time is
        up. The dialogue may still answer with something to send."""
        if not self._done:
            self._throw(error)
            self._settle()

    def take_output(self) -> bytes:
        """What is to be sent now; the runner forgets it."""
        data = bytes(self._output)
        self._output.clear()
        return data

    def take_input(self) -> bytes:
        """The bytes received but not consumed. After the end they belong to whoever reads this peer next, or are the
        proof that the peer spoke out of turn."""
        data = bytes(self._input)
        self._input.clear()
        return data

    def result(self) -> T:
        """The dialogue's value, or its error raised. Only when `done`."""
        if not self._done:
            raise RuntimeError("the dialogue is not over")
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]  # set whenever there is no error

    def close(self) -> None:
        """Drop the dialogue: nothing more is asked of it and its `finally` blocks run."""
        self._dialogue.close()
        self._done = True
        self._waiting = None
        self._error = None  # its traceback knows us: such a circle would wait for the cyclic collector

    def _settle(self) -> None:
        while isinstance(self._waiting, Receive):
            try:
                message = _cut_message(self._input, self._waiting)
            except ProtocolViolation as violation:
                self._throw(violation)
                continue
            if message is None:
                return
            self._resume(message)

    def _resume(self, value: object) -> None:
        self._advance(lambda: self._dialogue.send(value))

    def _throw(self, error: Exception) -> None:
        self._advance(lambda: self._dialogue.throw(error))

    def _advance(self, step: Callable[[], Question]) -> None:
        # Over unless a further question comes: an exception that is none of ours leaves through the owner, and must
        # not leave behind a runner that looks alive.
        self._waiting, self._done = None, True
        try:
            question = step()
            while isinstance(question, Send):
                self._output += question.data
                question = self._dialogue.send(None)
        except StopIteration as end:
            self._result = end.value
        except PgDoormanError as error:
            self._error = error
        else:
            self._waiting, self._done = question, False


def _cut_message(buffer: bytearray, question: Receive) -> Message | None:
    if not buffer:
        return None
    code = buffer[0]
    if question.types and code not in question.types:
        raise ProtocolViolation(f"unexpected message type {describe_type(code)}")
    if len(buffer) < HEADER_SIZE:
        return None
    length = int.from_bytes(buffer[1:HEADER_SIZE])
    if not 4 <= length <= question.limit:
        raise ProtocolViolation(f"invalid length {length} of message {describe_type(code)}")
    if len(buffer) < 1 + length:
        return None
    message = Message(code, bytes(buffer[HEADER_SIZE : 1 + length]))
    del buffer[: 1 + length]
    return message
