"""What PostgreSQL says of statements, compared."""

from pgdoorman.prepared.backend_names import BackendNames
from pgdoorman.prepared.client_names import ClientNames
from pgdoorman.prepared.description import Checking, Describing, Verifying, columns_of
from pgdoorman.prepared.statement import CERTAIN, Statement, StatementBook
from pgdoorman.protocol import codes

TAIL = b"select * from t\0\0\0"
NO_PARAMETERS = b"\0\0"


def rows(*columns: tuple[bytes, int, int], table: int = 1) -> bytes:
    """The body of a RowDescription of (name, type, modifier)."""
    body = len(columns).to_bytes(2)
    for number, (name, kind, modifier) in enumerate(columns):
        body += name + b"\0" + table.to_bytes(4) + number.to_bytes(2) + kind.to_bytes(4)
        body += b"\xff\xff" + modifier.to_bytes(4, signed=True) + b"\0\0"
    return body


def hear(describing: Describing, columns: bytes, parameters: bytes = NO_PARAMETERS) -> None:
    describing.heard(codes.PARAMETER_DESCRIPTION, parameters)
    describing.heard(codes.ROW_DESCRIPTION, columns)
    describing.happened()


def test_what_tells_columns_apart() -> None:
    same = columns_of(rows((b"a", 23, -1), (b"b", 25, -1)), "utf-8")
    assert columns_of(rows((b"a", 23, -1), (b"b", 25, -1), table=7), "utf-8") == same, "a table made anew is none"
    others = [
        rows((b"a", 23, -1)),
        rows((b"a", 20, -1), (b"b", 25, -1)),
        rows((b"a", 23, 4), (b"b", 25, -1)),
        rows((b"z", 23, -1), (b"b", 25, -1)),
        rows(),
    ]
    assert len({same, *(columns_of(other, "utf-8") for other in others)}) == 6
    assert columns_of(rows(("é".encode(), 23, -1)), "utf-8") == columns_of(rows((b"\xe9", 23, -1)), "latin-1")


def test_a_backend_has_what_is_the_same_there() -> None:
    statement = Statement(TAIL)
    first, other = BackendNames(), BackendNames()
    hear(Verifying(statement, "utf-8", first, 1), rows((b"a", 23, -1)))
    assert statement in first
    hear(Verifying(statement, "utf-8", other, 1), rows((b"a", 20, -1)))
    assert (statement in other, statement in other.changed) == (False, True)
    assert other.surplus(10) == [statement.name], "its name is taken until it is closed"
    assert not other.changed


def test_who_parses_it_anew_has_what_is_true_now() -> None:
    book, client, backend = StatementBook(10), ClientNames(), BackendNames()
    shared = book.find(TAIL, None)
    hear(Describing(shared, "utf-8"), rows((b"a", 23, -1)))
    client.names[b"s"] = shared
    backend.confirmed(shared)
    hear(Checking(shared, "utf-8", backend, client, b"s", book), rows((b"a", 20, -1)))
    assert client.names[b"s"] is not shared
    assert shared not in backend
    assert book.find(TAIL, None) is not shared


def test_a_doubt_that_was_for_nothing() -> None:
    book, client, backend = StatementBook(10), ClientNames(), BackendNames()
    shared = book.find(TAIL, None)
    hear(Describing(shared, "utf-8"), rows((b"a", 23, -1)))
    book.doubt(float("inf"))
    own = book.find(TAIL, None)
    assert own.elder is shared
    assert book.find(TAIL, None) is shared, "one asks, the others go on"
    client.names[b"s"] = own
    backend.confirmed(own)
    hear(Checking(own, "utf-8", backend, client, b"s", book), rows((b"a", 23, -1)))
    assert client.names[b"s"] is shared
    assert own not in backend
    assert CERTAIN > 0


def test_a_doubt_with_good_reason() -> None:
    book, client, backend = StatementBook(10), ClientNames(), BackendNames()
    shared = book.find(TAIL, None)
    hear(Describing(shared, "utf-8"), rows((b"a", 23, -1)), b"\0\1\0\0\0\x17")
    book.doubt(float("inf"))
    own = book.find(TAIL, None)
    client.names[b""] = own
    hear(Checking(own, "utf-8", backend, client, b"", book), rows((b"a", 23, -1)), b"\0\1\0\0\0\x14")
    assert client.names[b""] is own
    assert book.find(TAIL, None) not in (shared, own)
