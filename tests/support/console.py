"""A console under test: messages in, replies out as `wire.Reply`, so that a test reads like a conversation."""

from collections.abc import Sequence

from pgdoorman.admin.console import Console, ConsoleReply
from pgdoorman.admin.flavour import Flavour
from tests.support import wire
from tests.support.control import House

ADMIN_ID = 99


class Desk:
    """One console session and the house that it stands in."""

    def __init__(self, flavour: Flavour = Flavour.PGDOORMAN, *, admin: bool = True, house: House | None = None) -> None:
        self.house = house or House()
        self.console = Console(self.house, flavour=flavour, user="operator", admin=admin, process_id=ADMIN_ID)
        self.closed = False
        self.last = ConsoleReply()

    def ask(self, *requests: wire.Request) -> list[wire.Reply]:
        """Feed messages as the client room does: none while a reply is pending."""
        data = b""
        for request in requests:
            assert self.last.pending is None, "fed while pending"
            data += self._take(self.console.receive(request.data[0], request.data[5:]))
        return replies(data)

    def settle(self) -> list[wire.Reply]:
        """Go on after a pending reply."""
        return replies(self._take(self.console.settle()))

    def query(self, text: str) -> list[wire.Reply]:
        """One simple query."""
        return self.ask(wire.query(text))

    def table(self, text: str) -> list[dict[str, str | None]]:
        """The rows of one SHOW, by column."""
        answer = self.query(text)
        assert [reply.kind for reply in answer] == ["T", *["D"] * (len(answer) - 3), "C", "Z"], answer
        names = answer[0].column_names()
        return [dict(zip(names, texts(reply), strict=True)) for reply in answer if reply.kind == "D"]

    def _take(self, reply: ConsoleReply) -> bytes:
        self.last = reply
        self.closed |= reply.close
        return reply.data


def replies(data: bytes) -> list[wire.Reply]:
    """The messages in some bytes; fails if they are not whole."""
    found = []
    while data:
        length = int.from_bytes(data[1:5]) + 1
        assert len(data) >= length, f"cut short: {data!r}"
        found.append(wire.Reply(chr(data[0]), data[5:length]))
        data = data[length:]
    return found


def texts(row: wire.Reply) -> list[str | None]:
    """The values of a DataRow as text."""
    return [None if value is None else value.decode() for value in row.columns()]


def kinds(answer: Sequence[wire.Reply]) -> str:
    """The type letters of an answer."""
    return "".join(reply.kind for reply in answer)


def error(answer: Sequence[wire.Reply]) -> dict[str, str]:
    """The fields of the one error in an answer."""
    (found,) = [reply for reply in answer if reply.kind == "E"]
    return found.fields()
