"""Dialogues as scripts: what must be said, what is then received, and a diff when the two fall out of step.

    result = run_script(
        authenticate(attempt),
        finds(secret, user="alice"),
        sends(wire.cleartext()),
        receives("p", b"pencil\\0"),
    )

`Pair` runs two dialogues against each other over a pretended wire, whole or byte by byte: our client against our
server. Both drive the dialogue as a program does, so what a script shows is what a socket would carry.
"""

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pgdoorman.errors import PgDoormanError
from pgdoorman.protocol.dialogue import (
    Dialogue,
    FindSecret,
    Message,
    Offload,
    Question,
    Receive,
    Runner,
    Send,
    describe_type,
)


@dataclass(frozen=True, slots=True)
class Step:
    """One expectation: how it reads in a diff, whether a question meets it, and the answer."""

    line: str
    meets: Callable[[Question], bool]
    answer: Callable[[Question], Any]


def sends(data: bytes) -> Step:
    """The dialogue sends exactly these bytes."""
    return Step(f"send    {data!r}", lambda asked: asked == Send(data), lambda _: None)


def sends_into(sink: list[bytes]) -> Step:
    """The dialogue sends something, which is put into `sink` for later steps."""

    def keep(asked: Question) -> None:
        assert isinstance(asked, Send)
        sink.append(asked.data)

    return Step("send    (anything)", lambda asked: isinstance(asked, Send), keep)


def receives(kind: str, body: bytes | Callable[[], bytes] = b"") -> Step:
    """The dialogue waits for a message of this type, and gets it. `body` may be made up only when it is asked for."""
    code = ord(kind)

    def meets(asked: Question) -> bool:
        return isinstance(asked, Receive) and (not asked.types or code in asked.types)

    return Step(f"receive {kind!r}", meets, lambda _: Message(code, body if isinstance(body, bytes) else body()))


def finds(secret: object, *, user: str = "", stale: bool = False) -> Step:
    """The dialogue asks for a user's secret, and is given this one."""

    def meets(asked: Question) -> bool:
        return isinstance(asked, FindSecret) and asked.stale == stale and user in ("", asked.user)

    return Step(f"find    secret of {user or 'anyone'}{' again' if stale else ''}", meets, lambda _: secret)


def works(result: object = ...) -> Step:
    """The dialogue offloads work, which is done, or taken to have given `result`."""

    def do(asked: Question) -> object:
        assert isinstance(asked, Offload)
        return asked.work() if result is ... else result

    return Step("offload", lambda asked: isinstance(asked, Offload), do)


def run_script[T](dialogue: Dialogue[T], *steps: Step) -> T:
    """Run a dialogue through these steps and return what it returns; its exceptions come out as they are. It must ask
    neither less nor more nor anything else: otherwise an AssertionError shows the script and what happened as a diff.
    """
    happened: list[str] = []
    answer: Any = None
    failure: PgDoormanError | None = None
    for number in range(len(steps) + 1):
        try:
            asked = dialogue.throw(failure) if failure else dialogue.send(answer)
        except StopIteration as end:
            if number < len(steps):
                raise AssertionError(_diff(steps, [*happened, "returns"])) from None
            result: T = end.value
            return result
        if number == len(steps) or not steps[number].meets(asked):
            dialogue.close()
            raise AssertionError(_diff(steps, [*happened, _line(asked)]))
        happened.append(steps[number].line)
        answer, failure = _answer(steps[number], asked)
    raise AssertionError("unreachable")


def _answer(step: Step, asked: Question) -> tuple[Any, PgDoormanError | None]:
    try:
        return step.answer(asked), None
    except PgDoormanError as error:
        return None, error


def _line(asked: Question) -> str:
    match asked:
        case Send(data):
            return f"send    {data!r}"
        case Receive(types):
            return f"receive any of {[describe_type(code) for code in types]}"
        case FindSecret(user, _, stale):
            return f"find    secret of {user}{' again' if stale else ''}"
    return "offload"


def _diff(steps: Iterable[Step], happened: list[str]) -> str:
    expected = [step.line for step in steps]
    return "the dialogue left its script:\n" + "\n".join(
        difflib.unified_diff(expected, happened, "script", "happened", lineterm="", n=100)
    )


@dataclass(frozen=True, slots=True)
class Outcome[T]:
    """How a dialogue ended: with a value, with an error, or not at all (both None: it waits for the other side)."""

    value: T | None = None
    error: PgDoormanError | None = None

    def get(self) -> T:
        """The value. Raises the error."""
        if self.error is not None:
            raise self.error
        assert self.value is not None, "the dialogue still waits"
        return self.value


class Pair[L, R]:
    """Two dialogues that talk to each other. `find` answers FindSecret; `offloads` counts the work offloaded by each;
    with `byte_by_byte` every message arrives in pieces."""

    def __init__(
        self,
        left: Dialogue[L],
        right: Dialogue[R],
        *,
        find: Callable[[FindSecret], object] = lambda _: None,
        byte_by_byte: bool = False,
    ) -> None:
        self.left = Runner(left)
        self.right = Runner(right)
        self.offloads = [0, 0]
        self.heard: tuple[list[bytes], list[bytes]] = ([], [])
        self._find = find
        self._piece = 1 if byte_by_byte else 1 << 20

    def run(self) -> tuple[Outcome[L], Outcome[R]]:
        """Let them talk until both are done or both wait."""
        moved = True
        while moved:
            moved = False
            for side, runner, other in ((0, self.left, self.right), (1, self.right, self.left)):
                self._serve(side, runner)
                data = runner.take_output()
                if data:
                    moved = True
                    self.heard[1 - side].append(data)
                    self._deliver(1 - side, other, data)
        return _outcome(self.left), _outcome(self.right)

    def _deliver(self, side: int, runner: Runner[Any], data: bytes) -> None:
        for start in range(0, len(data), self._piece):
            self._serve(side, runner)
            runner.feed(data[start : start + self._piece])
        self._serve(side, runner)

    def _serve(self, side: int, runner: Runner[Any]) -> None:
        while isinstance(runner.wants, Offload | FindSecret):
            asked = runner.wants
            if isinstance(asked, FindSecret):
                runner.answer(self._find(asked))
            else:
                self.offloads[side] += 1
                self._work(runner, asked)

    def _work(self, runner: Runner[Any], asked: Offload[Any]) -> None:
        try:
            result = asked.work()
        except PgDoormanError as error:
            runner.fail(error)
        else:
            runner.answer(result)


def _outcome[T](runner: Runner[T]) -> Outcome[T]:
    if not runner.done:
        return Outcome()
    try:
        return Outcome(runner.result())
    except PgDoormanError as error:
        return Outcome(error=error)


def drive[T](dialogue: Dialogue[T], data: bytes, find: Callable[[FindSecret], object] = lambda _: None) -> Outcome[T]:
    """Run a dialogue against a peer that says `data` and then hangs up, whatever it is told."""
    pair: Pair[T, None] = Pair(dialogue, _say(data), find=find)
    return pair.run()[0]


def _say(data: bytes) -> Dialogue[None]:
    yield Send(data)
