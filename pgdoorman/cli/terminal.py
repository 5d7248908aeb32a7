"""What a person reads on a terminal: tables, colours where they are wanted."""

import os
from collections.abc import Sequence
from typing import Any


def has_colours(descriptor: int) -> bool:
    """Whether a descriptor is a terminal that wants colours (https://no-color.org)."""
    return os.isatty(descriptor) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str | None]], right: Sequence[bool]) -> None:
    """Columns as wide as they have to be; what is in a column of `right` (numbers) stands to the right."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max([len(name), *(len(row[index]) for row in cells)]) for index, name in enumerate(columns)]

    def line(values: Sequence[str]) -> str:
        padded = (
            value.rjust(width) if numeric else value.ljust(width)
            for value, width, numeric in zip(values, widths, right, strict=True)
        )
        return "  ".join(padded).rstrip()

    head = line(columns)
    print(f"\x1b[1m{head}\x1b[0m" if has_colours(1) else head)
    for row in cells:
        print(line(row))


def _cell(value: str | None) -> str:
    return "" if value is None else "".join(char if char.isprintable() else "?" for char in value)


def as_number(value: str | None) -> Any:
    """A number as what it is, anything else as it came: the console sends text."""
    for kind in (int, float):
        try:
            return kind(value) if value is not None else None
        except ValueError:
            continue
    return value
