"""Where things stand in a TOML document: every key and item of a list has its line, whatever the layout."""

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgdoorman.config.document import Path, find
from pgdoorman.config.toml_format import index, parse
from pgdoorman.errors import ConfigError

LAYOUT = '''\
# a comment with a [header] and key = "value"
top = 1

[general]           # comment
"quoted key" = 'x'  # "
'a.b' = 2
a . "b\\u0063" . c = 3
text = """
first line
# not a comment
second = "line" \\""" end"""
closing = """two quotes at the end"""""
literal = \'\'\'
[not.a.header]\'\'\'
list = [
  1, # one
  [2,
   3],

  { x = 4, y = [ 5,
     6 ] },
]
empty = [ ]
when = 1979-05-27 07:32:00 # a date with a space
inline = { pool.size = 7, "z" = {} }

[[pools.shop.users]]
name = "a"
[[pools.shop.users]]
name = "b"
[pools.shop.users.extra]
deep = true
[pools.shop]
late = 8
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("top",), 2),
        (("general",), 4),
        (("general", "quoted key"), 5),
        (("general", "a.b"), 6),
        (("general", "a"), 7),
        (("general", "a", "bc", "c"), 7),
        (("general", "text"), 8),
        (("general", "closing"), 12),
        (("general", "literal"), 13),
        (("general", "list"), 15),
        (("general", "list", 0), 16),
        (("general", "list", 1), 17),
        (("general", "list", 1, 1), 18),
        (("general", "list", 2, "x"), 20),
        (("general", "list", 2, "y", 1), 21),
        (("general", "empty"), 23),
        (("general", "when"), 24),
        (("general", "inline", "pool", "size"), 25),
        (("general", "inline", "z"), 25),
        (("pools",), 27),
        (("pools", "shop", "users"), 27),
        (("pools", "shop", "users", 0), 27),
        (("pools", "shop", "users", 0, "name"), 28),
        (("pools", "shop", "users", 1), 29),
        (("pools", "shop", "users", 1, "name"), 30),
        (("pools", "shop", "users", 1, "extra"), 31),
        (("pools", "shop", "users", 1, "extra", "deep"), 32),
        (("pools", "shop"), 33),
        (("pools", "shop", "late"), 34),
    ],
)
def test_places(path: Path, line: int) -> None:
    assert index(LAYOUT)[path][0] == line
    assert find(parse(LAYOUT, "f"), path).line == line


def test_the_text_of_a_block_begins_on_the_next_line() -> None:
    root = parse(LAYOUT, "f")
    assert find(root, ("general", "text")).text_line == 9
    assert find(root, ("general", "literal")).text_line == 14
    assert find(root, ("general", "closing")).text_line == 12
    assert find(root, ("top",)).text_line == 2


def test_windows_line_ends() -> None:
    assert index(LAYOUT) == {
        path: (find(parse(LAYOUT.replace("\n", "\r\n"), "f"), path).line, places[1])
        for path, places in index(LAYOUT).items()
    }


class _Writer:
    """Writes random documents in which every key and every scalar is a word of its own."""

    def __init__(self, draw: Any) -> None:
        self._draw = draw
        self._count = 0
        self.lines: list[str] = []

    def word(self, letter: str) -> str:
        self._count += 1
        return f"{letter}{self._count}x"

    def pick(self, *choices: str) -> str:
        return str(self._draw(st.sampled_from(choices)))

    def key(self) -> str:
        quote = self.pick("", "'", '"')
        return quote + self.word("k") + quote

    def value(self, depth: int, many_lines: bool) -> str:
        kind = self.pick("text", "number", "list", "table") if depth else self.pick("text", "number")
        newline = self.pick("", "\n", " # ] } \" ' comment\n") if many_lines else ""
        match kind:
            case "text":
                block = many_lines and self._draw(st.booleans())
                quote = self.pick("'''", '"""') if block else self.pick("'", '"')
                inside = self.pick("", "\n", "\n[x]\n# y\n") if block else self.pick("", "#", " = [", "\\\\")
                return quote + self.word("v") + inside + quote
            case "number":
                return self.pick("1", "-2.5e3", "true", "1979-05-27 07:32:00Z", "0x1F")
            case "list":
                items = [self.value(depth - 1, many_lines) for _ in range(self._draw(st.integers(0, 3)))]
                return "[" + newline + f" ,{newline}".join(items) + newline + "]"
            case _:
                pairs = [f"{self.key()} = {self.value(depth - 1, False)}" for _ in range(self._draw(st.integers(0, 2)))]
                return "{ " + ", ".join(pairs) + " }"

    def pair(self) -> str:
        key = ".".join(self.key() for _ in range(self._draw(st.integers(1, 3))))
        end = self.pick("", " # comment", "\n", "\n\n# [comment]")
        return f"{key} {self.pick('=', ' =')}{self.pick('', ' ')}{self.value(3, True)}{end}\n"

    def document(self) -> str:
        text = "".join(self.pair() for _ in range(self._draw(st.integers(0, 3))))
        arrays: list[str] = []
        for _ in range(self._draw(st.integers(0, 5))):
            header = ".".join([*self._draw(st.sampled_from([[], arrays[-1:]])), self.key()])
            if self._draw(st.booleans()):
                arrays.append(header)
                text += f"[[ {header} ]] # comment\n" * self._draw(st.integers(1, 3))
            else:
                text += f"[{header}]\n"
            text += "".join(self.pair() for _ in range(self._draw(st.integers(0, 3))))
        return text


@st.composite
def documents(draw: Any) -> str:
    return _Writer(draw).document()


def _walk(value: Any, path: Path = ()) -> list[tuple[Path, Any]]:
    found: list[tuple[Path, Any]] = [(path, value)] if path else []
    if isinstance(value, dict):
        for name, item in value.items():
            found += _walk(item, (*path, name))
    elif isinstance(value, list):
        for position, item in enumerate(value):
            found += _walk(item, (*path, position))
    return found


@given(documents())
def test_every_key_of_any_document_is_found_on_its_line(text: str) -> None:
    places = index(text)
    lines = text.split("\n")
    for path, value in _walk(tomllib.loads(text)):
        line, text_line = places[path]
        if isinstance(path[-1], str):
            assert path[-1] in lines[line - 1]
        if isinstance(value, str):
            word = value[: value.index("x") + 1]
            assert word in lines[text_line - 1]
            assert isinstance(path[-1], str) or word in lines[line - 1]


@pytest.mark.parametrize(
    ("text", "line"),
    [("a = 1\nb = \n", 2), ("a = 1\n\na = 2", 3), ("[a]\n[a]\n", 2), ("a = 'x", 1), ("a = 1\nb = [1,\n2", 3), ("=", 1)],
)
def test_a_syntax_error_has_its_line(text: str, line: int) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "some.toml")
    assert (caught.value.file, caught.value.line) == ("some.toml", line)
    assert caught.value.message.startswith("TOML: ")
    assert "(at " not in caught.value.message


def test_lists_without_end_are_refused() -> None:
    with pytest.raises(ConfigError, match="nested too deeply"):
        parse("a = " + "[" * 100_000, "f")
