"""What PostgreSQL says of a statement, and whether it says the same everywhere.

A client goes by what it was told when it parsed a statement: it sends parameters of those types and reads rows of those
columns. PostgreSQL keeps to that: it refuses a statement whose columns have changed since ("cached plan must not change
result type"). A backend that is to have a statement on the client's behalf must be compared with what was said first.
"""

from collections.abc import Hashable
from hashlib import blake2b

from pgdoorman.constants import bind_constants
from pgdoorman.prepared.backend_names import BackendNames
from pgdoorman.prepared.client_names import ClientNames
from pgdoorman.prepared.statement import Statement, StatementBook
from pgdoorman.protocol import codes


def columns_of(body: bytes, codec: str) -> bytes:
    """What tells columns apart, from the body of a RowDescription: names, types and type modifiers. That is what PostgreSQL
    compares; not the table, which may have been made anew. `codec` is the Python codec that names are in. (Collations are
    compared there too, and what a domain is called, but no RowDescription tells of them.)"""
    parts = []
    position = 2
    for _ in range(int.from_bytes(body[:2])):
        stop = body.find(0, position)
        if stop < 0:
            break
        name = body[position:stop]
        # table 4, column 2, type 4, size 2, modifier 4, format 2
        parts.append(name if name.isascii() else name.decode(codec, "replace").encode())
        parts.append(b"\0" + body[stop + 7 : stop + 11] + body[stop + 13 : stop + 17])
        position = stop + 19
    return blake2b(b"".join(parts), digest_size=16).digest()


class Describing:
    """A Describe, ours or the client's, that shows what a statement is; an effect of the exchange. `shows`: the types of the
    answers to ours that the client is to see. `valid_for`: as in Statement, if it is seen to be as it was."""

    __slots__ = ("_codec", "columns", "parameters", "shows", "statement", "valid_for")

    def __init__(self, statement: Statement, codec: str, shows: bytes = b"") -> None:
        self.statement = statement
        self.shows = shows
        self.valid_for: tuple[int, Hashable] | None = None
        self._codec = codec
        self.parameters: bytes | None = None
        self.columns = b""

    def heard(self, kind: int, body: bytes) -> None:
        """A part of the answer, without its header."""
        if kind == codes.PARAMETER_DESCRIPTION:
            self.parameters = body
        elif kind == codes.ROW_DESCRIPTION:
            self.columns = columns_of(body, self._codec)

    def happened(self) -> None:
        statement = self.statement
        if self.parameters is not None and statement.columns is None:
            statement.parameters = self.parameters
            statement.columns = self.columns
        if self.valid_for is not None:
            statement.valid_for = self.valid_for

    def failed(self) -> None:
        """It stays unknown."""

    def skipped(self) -> None:
        """It stays unknown."""

    def agrees_with(self, statement: Statement) -> bool:
        """Whether this is what was said when the statement was parsed first (or this is the first time)."""
        return statement.columns is None or (
            statement.columns == self.columns and statement.parameters == self.parameters
        )


class Verifying(Describing):
    """A Describe of ours behind a Parse of ours in front of a client's message: the backend has the statement if it is the same
    there. A message of `segment` may refer to it before that is known."""

    __slots__ = ("names",)

    def __init__(self, statement: Statement, codec: str, names: BackendNames, segment: int) -> None:
        super().__init__(statement, codec)
        self.names = names
        names.sent(statement, segment)

    def happened(self) -> None:
        if self.parameters is None:
            self.names.leave(self.statement)  # nobody has listened
        elif self.agrees_with(self.statement):
            super().happened()
            self.names.confirmed(self.statement)
        else:
            self.names.leave(self.statement)
            self.names.changed.add(self.statement)

    def failed(self) -> None:
        self.names.leave(self.statement)

    def skipped(self) -> None:
        self.names.refused(self.statement)


class Checking(Describing):
    """A Describe of ours behind a client's own Parse. What PostgreSQL says to that is true for this client; if others were told
    something else, they share the statement no longer."""

    __slots__ = ("_book", "_client", "_name", "names")

    def __init__(
        self,
        statement: Statement,
        codec: str,
        names: BackendNames,
        client: ClientNames,
        name: bytes,
        book: StatementBook,
    ) -> None:
        super().__init__(statement, codec)
        self.names = names
        self._client = client
        self._name = name
        self._book = book

    def happened(self) -> None:
        if self.parameters is None:
            self.names.leave(self.statement)
        elif self.agrees_with(self.statement):
            super().happened()
            if self.statement.elder is not None:
                self._compare_with(self.statement.elder)
        else:
            self.names.leave(self.statement)
            self._book.outdated(self.statement)
            own = Statement(self.statement.tail)
            own.parameters = self.parameters
            own.columns = self.columns
            self._client.replace(self._name, self.statement, own)

    def failed(self) -> None:
        self.names.leave(self.statement)

    def _compare_with(self, elder: Statement) -> None:
        """Was it in doubt with good reason? If not, the client shares it, and this one was needed once."""
        self.statement.elder = None
        if not self.agrees_with(elder):
            self._book.outdated(elder)
            return
        elder.valid_for = self.valid_for
        if self._client.is_free(elder, self._name):
            self._client.replace(self._name, self.statement, elder)
            self.names.leave(self.statement)


class Leaving:
    """A Parse of ours of something that is needed once; an effect of the exchange."""

    __slots__ = ("names", "statement")

    def __init__(self, statement: Statement, names: BackendNames) -> None:
        self.names = names
        self.statement = statement

    def happened(self) -> None:
        self.names.leave(self.statement)

    def failed(self) -> None:
        """Nothing was made."""

    def skipped(self) -> None:
        """Nothing was made."""


class Removing:
    """A Close of ours of what was left; an effect of the exchange."""

    __slots__ = ("names", "statement")

    def __init__(self, statement: Statement, names: BackendNames) -> None:
        self.names = names
        self.statement = statement

    def happened(self) -> None:
        self.names.left.discard(self.statement)

    def failed(self) -> None:
        """A Close does not fail."""

    def skipped(self) -> None:
        """It is still there."""


bind_constants(__name__)
