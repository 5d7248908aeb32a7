"""What a statement will do: known before it is done, since Describe asks for the columns first."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pgdoorman.admin.flavour import Flavour
from pgdoorman.control import Completion, Control, Overview
from pgdoorman.protocol import results
from pgdoorman.protocol.results import Column, Value


@dataclass(frozen=True, slots=True)
class Asker:
    """Who gave the command, and what that user may touch: a stats user has no `control`."""

    overview: Overview
    control: Control | None
    flavour: Flavour
    user: str
    database: str
    process_id: int = 0

    @property
    def admin(self) -> bool:
        """Whether the user may change anything."""
        return self.control is not None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one statement has come to. A tag of "" is the empty query, a `close` ends the session without a word."""

    tag: str
    rows: Sequence[Sequence[Value]] = ()
    notices: bytes = b""
    close: bool = False


@dataclass(frozen=True, slots=True)
class Waiting:
    """The statement goes on; `conclude` turns what `completion` ends with into the outcome.

    `undo` is called if the user cancels; what it undoes is what a PAUSE has already done.
    """

    completion: Completion[Any]
    conclude: Callable[[Any], Outcome]
    undo: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """One statement, understood. `columns` is None if it returns no rows, which is not the same as an empty result."""

    run: Callable[[Asker], Outcome | Waiting]
    columns: Sequence[Column] | None = None
    verb: str = ""
    target: str = ""
    takes_parameters: bool = False
    """Whether Parse and Bind may bring some; they are ignored."""


def answer(tag: str, *, notices: bytes = b"") -> Plan:
    """A plan that does nothing but say that it is done."""
    return Plan(lambda _asker: Outcome(tag, notices=notices), verb=tag)


def ignored() -> Plan:
    """What a SET of something that has no meaning here comes to."""
    return answer("SET", notices=results.notice_response("SET ignored"))
