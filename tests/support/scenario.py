"""The same conversation with two servers, and the difference between their answers.

A scenario is a list of turns; in a turn one client sends its steps one after the other, each time reading everything
that is owed for it. At the end of its turn a client is idle (an open COPY is failed, a missing Sync is sent, a
transaction is rolled back) or gone (it sent Terminate), so that the next turn may be another client's even where all of
them share one backend.

The reference plays first and thereby fixes what is sent; the pooler is then given exactly the same bytes, in the same
order, except that the first step of a turn marked `early` is sent while the turn before it still holds the backend (if
it does: else the two would race for it, and the one that is not waited for might win and keep it).
"""

import contextlib
import difflib
import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from tests.support.wire import (
    HungUp,
    Normaliser,
    Reply,
    Request,
    ServerError,
    Silence,
    Wire,
    WireError,
    copy_fail,
    query,
    sync,
)

Step = tuple[Request, ...]
Connect = Callable[[int], Wire]

FENCE: Final = "select 'the end'"
SILENCE: Final = "(no answer"


@dataclass(frozen=True, slots=True)
class Turn:
    """What one client sends until it is idle again."""

    client: int
    steps: tuple[Step, ...]
    early: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """A step as it was played: what was sent, and the reference's answers as lines."""

    turn: int
    client: int
    requests: Step
    answers: tuple[str, ...]
    early: bool = False
    held: bool = False  # the client surely had a backend when it sent this


@dataclass(frozen=True, slots=True)
class Script:
    """What the reference said, to be compared with what the pooler says."""

    logins: tuple[tuple[str, ...], ...]
    events: tuple[Event, ...]
    notifications: tuple[tuple[str, ...], ...]


@dataclass(slots=True)
class _Client:
    wire: Wire
    normaliser: Normaliser = field(default_factory=Normaliser)
    notifications: list[str] = field(default_factory=list)
    gone: bool = False

    def lines(self, replies: Iterable[Reply]) -> list[str]:
        """Notifications are set aside: a server may send them at any time."""
        found: list[str] = []
        for reply in replies:
            line = self.normaliser.line(reply)
            (self.notifications if reply.kind == "A" else found).append(line)
        return _in_one_order(found)

    def settle(self, patience: float) -> list[str]:
        try:
            return self.lines(self.wire.settle(patience))
        except HungUp as error:
            self.gone = True
            return [*self.lines(error.replies), "(connection closed)"]
        except Silence as error:
            self.gone = True
            return [*self.lines(error.replies), f"{SILENCE} within {patience:g} s)"]

    def send(self, requests: Step) -> None:
        with contextlib.suppress(WireError):  # that the peer has gone shows at the next read
            self.wire.send(*requests)


def _in_one_order(lines: list[str]) -> list[str]:
    """Parameters that are reported together come in no order that means anything."""
    found: list[str] = []
    reported: list[str] = []
    for line in (*lines, ""):
        if line.startswith("ParameterStatus"):
            reported.append(line)
        else:
            found += (*sorted(reported), line)
            reported = []
    return found[:-1]


def _logins(clients: Sequence[_Client]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(sorted(f"{name}={value!r}" for name, value in one.wire.parameters.items())) for one in clients)


def _open(connect: Connect, count: int) -> list[_Client]:
    clients: list[_Client] = []
    try:
        for number in range(count):
            clients.append(_Client(connect(number)))  # noqa: PERF401 - those that are open must be closed if one fails
    except BaseException:
        _leave(clients)
        raise
    return clients


def _leave(clients: Iterable[_Client], leave: Callable[[Wire], object] = Wire.terminate) -> None:
    for client in clients:
        (Wire.terminate if client.gone else leave)(client.wire)


# --- The reference --------------------------------------------------------------------------------------------------


def record(
    turns: Sequence[Turn],
    connect: Connect,
    clients: int,
    patience: float = 10.0,
    leave: Callable[[Wire], object] = Wire.terminate,
) -> Script:
    """Plays the turns with the reference. In the end `leave` is done to every connection that can still be used. Raises
    WireError if the reference itself stays silent."""
    opened = _open(connect, clients)
    try:
        logins = _logins(opened)
        events: list[Event] = []
        for number, turn in enumerate(turns):
            _record_turn(number, turn, opened[turn.client], events, patience)
        for number, client in enumerate(opened):
            if not client.gone:
                _record_step(len(turns), number, client, (query(FENCE),), events, patience)
    except BaseException:
        _leave(opened)
        raise
    _leave(opened, leave)
    return Script(logins, tuple(events), tuple(tuple(sorted(one.notifications)) for one in opened))


def _record_turn(number: int, turn: Turn, client: _Client, events: list[Event], patience: float) -> None:
    early = turn.early and bool(events) and events[-1].client != turn.client and _holds_to_the_end(events[-1])
    for step in turn.steps:
        if client.gone:
            return
        _record_step(number, turn.client, client, step, events, patience, early)
        early = False
    while not client.gone and (ending := _ending(client.wire)):
        _record_step(number, turn.client, client, ending, events, patience)


def _holds_to_the_end(event: Event) -> bool:
    """Whether the client keeps its backend until the last answer: one that is idle in between may lose it to another,
    and that one need not give it back before the rest."""
    return event.held and "ReadyForQuery I" not in event.answers[:-1]


def _record_step(
    turn: int, number: int, client: _Client, step: Step, events: list[Event], patience: float, early: bool = False
) -> None:
    held = _holds(number, client.wire, events)
    client.send(step)
    answers = client.settle(patience)
    if answers and answers[-1].startswith(SILENCE):
        listing = "\n    ".join(answers)
        raise Silence(f"the reference does not answer {step}; so far:\n    {listing}\n    {client.wire.outstanding}")
    events.append(Event(turn, number, step, tuple(answers), early, held))
    if any(one.kind == "X" for one in step):
        client.gone = True


def _holds(number: int, wire: Wire, events: Sequence[Event]) -> bool:
    """Whether the client surely has a backend: it is inside a batch or a block, and has got something in it that a
    pooler cannot have made up (BEGIN alone need not take a backend)."""
    if not events or events[-1].client != number or (wire.outstanding.is_empty and wire.outstanding.status == "I"):
        return False
    return any(line.startswith(("DataRow", "ParseComplete", "ErrorResponse")) for line in events[-1].answers[-6:])


def _ending(wire: Wire) -> Step:
    """What must still be sent until the client is idle; nothing if it is."""
    if wire.outstanding.copying:
        return (copy_fail("end of turn"), sync())
    if not wire.outstanding.is_empty:
        return (sync(),)
    if wire.outstanding.status != "I":
        return (query("rollback"),)
    return ()


# --- The pooler -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Difference:
    """The first place where the pooler's answers differ from the reference's."""

    what: str
    script: Script
    answers: tuple[tuple[str, ...], ...]  # the pooler's, event by event, up to and with the place
    state: str = ""  # of the pooler at that moment, its clients still there

    @property
    def is_silence(self) -> bool:
        return bool(self.answers) and bool(self.answers[-1]) and self.answers[-1][-1].startswith(SILENCE)

    def report(self) -> str:
        """What was sent, and both answer streams as a diff."""
        lines = [f"FIRST DIFFERENCE: {self.what}", ""]
        for event, got in zip(self.script.events, self.answers, strict=False):
            lines += _sent_lines(event)
            lines += _diff_lines(event.answers, got)
        if self.state:
            lines += ["", "the pooler at that moment:", self.state]
        return "\n".join(lines)


def _sent_lines(event: Event) -> list[str]:
    early = " (sent while the turn before still held the backend)" if event.early else ""
    lines = [f"turn {event.turn}, client {event.client}{early}:"]
    for kind, group in itertools.groupby(event.requests, lambda one: one.kind):
        labels = [one.label for one in group]
        lines += [f"    > {label}" for label in (labels if kind != "d" or len(labels) < 6 else labels[:2])]
        if kind == "d" and len(labels) >= 6:
            lines += [f"    > ... {len(labels) - 3} more copy_data", f"    > {labels[-1]}"]
    return lines


def _diff_lines(reference: Sequence[str], pooled: Sequence[str]) -> list[str]:
    if tuple(reference) == tuple(pooled):
        return [f"    < {line}" for line in reference]
    marks = {"  ": "    <     both       | ", "- ": "    < PostgreSQL only | ", "+ ": "    <    pooler only  | "}
    return [marks[line[:2]] + line[2:] for line in difflib.ndiff(reference, pooled) if line[:2] in marks]


def compare(
    script: Script, connect: Connect, patience: float = 5.0, witness: Callable[[], str] = str
) -> Difference | None:
    """Plays the script through the pooler; None if every answer is the same. `witness` is asked for the pooler's state
    where an answer does not come."""
    try:
        opened = _open(connect, len(script.logins))
    except (ServerError, WireError, OSError) as error:
        return Difference(f"a client could not log in: {error}", script, ())
    try:
        difference = _compare(script, opened, patience)
        return replace(difference, state=witness()) if difference is not None and difference.is_silence else difference
    finally:
        _leave(opened)


def _compare(script: Script, opened: list[_Client], patience: float) -> Difference | None:
    for number, (wanted, got) in enumerate(zip(script.logins, _logins(opened), strict=True)):
        if wanted != got:
            diff = "\n".join(_diff_lines(wanted, got))
            return Difference(f"client {number} was told other parameters at login:\n{diff}", script, ())
    played: list[tuple[str, ...]] = []
    sent = 0
    for position, event in enumerate(script.events):
        sent = _send_ahead(script, opened, position, sent)
        client = opened[event.client]
        got = tuple(client.settle(patience))
        client.gone = client.gone or any(one.kind == "X" for one in event.requests)
        played.append(got)
        if got != event.answers:
            what = f"turn {event.turn}, client {event.client}"
            return Difference(what, script, tuple(played))
        if leak := next((line for line in got if "doorman" in line.lower()), None):
            return Difference(f"a name of the pooler's own shows: {leak}", script, tuple(played))
    return _compare_notifications(script, opened, tuple(played), patience)


def _send_ahead(script: Script, opened: list[_Client], position: int, sent: int) -> int:
    """Sends the event at `position`, and an early one right behind it; returns how many have been sent."""
    events = script.events
    ahead = position + 1
    following = events[ahead] if ahead < len(events) else None
    if sent <= position:
        opened[events[position].client].send(events[position].requests)
        sent = position + 1
    elif following is not None and following.early:
        return sent  # this one was early itself: one at a time
    if following is not None and following.early and following.client != events[position].client and sent == ahead:
        opened[following.client].send(following.requests)
        sent += 1
    return sent


def _compare_notifications(
    script: Script, opened: list[_Client], played: tuple[tuple[str, ...], ...], patience: float
) -> Difference | None:
    deadline = time.monotonic() + patience
    for number, (wanted, client) in enumerate(zip(script.notifications, opened, strict=True)):
        if client.gone:
            continue  # what a server still says behind Terminate is its own affair
        surplus = client.lines(client.wire.poll(0.0))
        while len(client.notifications) < len(wanted) and time.monotonic() < deadline:
            surplus += client.lines(client.wire.poll(0.05))
        if surplus:
            return Difference(f"client {number} got more than it asked for: {surplus}", script, played)
        if tuple(sorted(client.notifications)) != wanted:
            diff = "\n".join(_diff_lines(wanted, sorted(client.notifications)))
            return Difference(f"client {number} got other notifications (order set aside):\n{diff}", script, played)
    return None


# --- Making a failing scenario small --------------------------------------------------------------------------------

Fails = Callable[[Sequence[Turn]], Difference | None]


def minimise(turns: Sequence[Turn], fails: Fails, found: Difference, seconds: float) -> tuple[list[Turn], Difference]:
    """Drops turns, steps and messages as long as it still fails (in whatever way) and time is left."""
    best, why = list(turns), found
    deadline = time.monotonic() + seconds
    shrunk = True
    while shrunk and time.monotonic() < deadline:
        shrunk = False
        for candidate in _smaller(best):
            if time.monotonic() > deadline:
                break
            difference = fails(candidate)
            if difference is not None:
                best, why, shrunk = candidate, difference, True
                break
    return best, why


def _smaller(turns: Sequence[Turn]) -> Iterable[list[Turn]]:
    """Everything that is one cut away, big cuts first."""
    size = len(turns) // 2
    while size >= 1:
        for at in range(0, len(turns), size):
            rest = [*turns[:at], *turns[at + size :]]
            if rest:
                yield rest
        size //= 2
    for number, turn in enumerate(turns):
        for smaller in _smaller_turns(turn):
            yield [*turns[:number], smaller, *turns[number + 1 :]]


def _smaller_turns(turn: Turn) -> Iterable[Turn]:
    if turn.early:
        yield replace(turn, early=False)
    if len(turn.steps) > 1:
        for number in range(len(turn.steps)):
            yield replace(turn, steps=(*turn.steps[:number], *turn.steps[number + 1 :]))
    for number, step in enumerate(turn.steps):
        for at in range(len(step) if len(step) > 1 else 0):
            shorter = (*step[:at], *step[at + 1 :])
            yield replace(turn, steps=(*turn.steps[:number], shorter, *turn.steps[number + 1 :]))


def as_code(turns: Sequence[Turn]) -> str:
    """The turns as Python, to be pasted into a test."""
    lines = []
    for turn in turns:
        lines.append(f"Turn({turn.client}, (")
        lines += [f"    ({', '.join(one.label for one in step)},)," for step in turn.steps]
        lines.append(f"){', early=True' if turn.early else ''}),")
    return "\n".join(lines)
