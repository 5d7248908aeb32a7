"""How a listing is written: columns with their types, and for each how to get it out of a row."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pgdoorman.admin.plans import Asker
from pgdoorman.protocol.results import INT4, INT8, NUMERIC, TEXT, Column, Value


@dataclass(frozen=True, slots=True)
class Field[R]:
    """One column and how to get its value out of a row."""

    column: Column
    get: Callable[[R], Value]


def text[R](name: str, get: Callable[[R], Value]) -> Field[R]:
    """A column of type text."""
    return Field(Column(name, TEXT), get)


def int4[R](name: str, get: Callable[[R], Value]) -> Field[R]:
    """A column of type int4."""
    return Field(Column(name, INT4), get)


def int8[R](name: str, get: Callable[[R], Value]) -> Field[R]:
    """A column of type int8."""
    return Field(Column(name, INT8), get)


def numeric[R](name: str, get: Callable[[R], Value]) -> Field[R]:
    """A column of type numeric."""
    return Field(Column(name, NUMERIC), get)


class Listing(Protocol):
    """What one SHOW returns."""

    @property
    def columns(self) -> Sequence[Column]: ...

    def rows(self, asker: Asker) -> Sequence[Sequence[Value]]: ...


@dataclass(frozen=True, slots=True)
class Table[R]:
    """A listing that is one row for each thing that `fetch` finds."""

    fetch: Callable[[Asker], Iterable[R]]
    fields: tuple[Field[R], ...]

    @property
    def columns(self) -> Sequence[Column]:
        return [field.column for field in self.fields]

    def rows(self, asker: Asker) -> Sequence[Sequence[Value]]:
        getters = [field.get for field in self.fields]
        return [[get(row) for get in getters] for row in self.fetch(asker)]


def microseconds(seconds: float) -> int:
    """Seconds as both originals show durations."""
    return round(seconds * 1_000_000)


def whole(number: float) -> int:
    """The number without its fraction."""
    # Both originals print whole numbers here, and there are tools that cannot read anything else from these columns.
    return int(number)


def local_time(moment: float | None) -> str:
    """A point in Unix time as PgBouncer prints it; empty for None."""
    return "" if moment is None else time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(moment))


def yes(flag: bool) -> str:
    """`yes` or `no`."""
    return "yes" if flag else "no"


class OfPool(Protocol):
    """A row that belongs to one pool."""

    @property
    def database(self) -> str: ...
    @property
    def user(self) -> str: ...


def by_name(row: OfPool) -> tuple[bytes, bytes]:
    """The order of pools: by database, then user."""
    # Bytewise, as PgBouncer sorts them; a Python string with surrogates in it cannot be encoded strictly.
    return row.database.encode(errors="surrogatepass"), row.user.encode(errors="surrogatepass")


@dataclass(frozen=True, slots=True)
class Pair:
    """One line of a listing of names and numbers or texts."""

    name: str
    value: Value
