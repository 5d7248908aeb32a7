"""The form that pg_hba.conf and pg_ident.conf share: lines of fields of tokens, and the files that these include.

As PostgreSQL reads them (manual, "The pg_hba.conf File"): fields are separated by blanks and tokens within a field by
commas; '#' begins a comment; double quotes keep blanks, commas and '#' together and take the meaning out of keywords; a
backslash at the end continues a line; `@file` stands for the tokens in a file; include, include_if_exists and
include_dir stand for the lines of other files. Paths are relative to the file that mentions them.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pgdoorman.errors import ConfigError

MAX_DEPTH: Final = 10
"""How deep files may include files, as in PostgreSQL."""

MAX_FILE: Final = 16 << 20
"""Bytes of one file."""

type ReadFile = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Token:
    """A word. `quoted` is true when it began with a quote, and then it is no keyword."""

    text: str
    quoted: bool = False

    def is_keyword(self, word: str) -> bool:
        """Whether this is the keyword `word` and not something called like it."""
        return not self.quoted and self.text == word


type Field = tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class RuleLine:
    """One logical line. `number` is 1-based, of its first physical line; `text` is the line as written."""

    file: str
    number: int
    text: str
    fields: tuple[Field, ...]

    def error(self, message: str) -> ConfigError:
        """An error that names this line."""
        return ConfigError(message, file=self.file, line=self.number)


@dataclass(frozen=True, slots=True)
class RuleText:
    """The lines of a file and of all that it includes, and what could not be read; both in the order of the files."""

    lines: tuple[RuleLine, ...]
    errors: tuple[ConfigError, ...]


def read_file(path: str) -> str:
    """The text of a file. Raises OSError, also for one that is larger than 16 MiB or not UTF-8."""
    with Path(path).open("rb") as stream:
        data = stream.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise OSError("the file is too large")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise OSError("the file is not UTF-8") from None


def read_rules(text: str, file: str, read: ReadFile = read_file, first_line: int = 1) -> RuleText:
    """Cut a text into lines of tokens, following what it includes. `file` names it in errors, and its directory is
    where relative paths begin; the text stands there from `first_line` on. Never raises: an error takes the place of
    its line, and reading goes on."""
    reader = _Reader(read)
    reader.read(text, file, depth=0, first_line=first_line)
    return RuleText(tuple(reader.lines), tuple(reader.errors))


class _Reader:
    def __init__(self, read: ReadFile) -> None:
        self._read_file = read
        self.lines: list[RuleLine] = []
        self.errors: list[ConfigError] = []

    def read(self, text: str, file: str, depth: int, first_line: int = 1) -> None:
        for number, line in _logical_lines(text, first_line):
            try:
                fields = self._fields(line, file, number, depth)
                rule = RuleLine(file, number, line.strip(), fields)
                if fields and not self._include(rule, depth):
                    self.lines.append(rule)
            except ConfigError as error:
                self.errors.append(error)

    def _fields(self, line: str, file: str, number: int, depth: int) -> tuple[Field, ...]:
        fields: list[Field] = []
        for words in split_fields(line):
            field: list[Token] = []
            for token in words:
                if token.text.startswith("@") and len(token.text) > 1 and not token.quoted:
                    field += self._tokens_of(RuleLine(file, number, line, ()), token.text[1:], depth)
                else:
                    field.append(token)
            if field:
                fields.append(tuple(field))
        return tuple(fields)

    def _tokens_of(self, line: RuleLine, name: str, depth: int) -> list[Token]:
        path, text = self._open(line, name, depth)
        tokens: list[Token] = []
        for number, inner in _logical_lines(text):
            for field in self._fields(inner, path, number, depth + 1):
                tokens += field
        return tokens

    def _include(self, line: RuleLine, depth: int) -> bool:
        """Follow an include directive; False if the line is none. Like PostgreSQL we take a line for a directive only
        if it has exactly two fields, so that "include" may be anything else elsewhere."""
        if len(line.fields) != 2 or len(line.fields[0]) != 1:
            return False
        word = line.fields[0][0].text
        if word not in ("include", "include_if_exists", "include_dir"):
            return False
        if len(line.fields[1]) != 1:
            raise line.error(f'multiple values specified for "{word}"')
        target = line.fields[1][0].text
        if word == "include_dir":
            for path in _files_in(line, target):
                self._read_included(line, path, depth)
        elif word == "include" or Path(_resolve(line.file, target)).exists():
            self._read_included(line, target, depth)
        return True

    def _read_included(self, line: RuleLine, name: str, depth: int) -> None:
        path, text = self._open(line, name, depth)
        self.read(text, path, depth + 1)

    def _open(self, line: RuleLine, name: str, depth: int) -> tuple[str, str]:
        path = _resolve(line.file, name)
        if depth >= MAX_DEPTH:
            raise line.error(f'could not open file "{path}": maximum nesting depth exceeded')
        try:
            return path, self._read_file(path)
        except OSError as error:
            raise line.error(f'could not open file "{path}": {error.strerror or error}') from None


def _resolve(including: str, name: str) -> str:
    return os.path.join(os.path.dirname(including), name)


def _files_in(line: RuleLine, name: str) -> list[str]:
    directory = _resolve(line.file, name)
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        raise line.error(f'could not open directory "{directory}": {error.strerror}') from None
    return [os.path.join(name, entry) for entry in names if entry.endswith(".conf") and not entry.startswith(".")]


def _logical_lines(text: str, first_line: int = 1) -> Iterator[tuple[int, str]]:
    """Lines with the number of their first physical line; a backslash at the end joins the next one."""
    start, pending = first_line, ""
    for number, line in enumerate(text.split("\n"), first_line):
        pending += line.removesuffix("\r")
        if pending.endswith("\\"):
            pending = pending[:-1]
            continue
        yield start, pending
        start, pending = number + 1, ""
    if pending:
        yield start, pending


_BLANKS: Final = " \t\r"


def split_fields(line: str) -> list[list[Token]]:
    """The fields of a line, each a list of tokens. A comma after a token, with or without blanks behind it, continues
    the field."""
    fields: list[list[Token]] = []
    position, continues = 0, False
    while True:
        token, position, comma = _next_token(line, position)
        if token is None:
            return fields
        if continues:
            fields[-1].append(token)
        else:
            fields.append([token])
        continues = comma


def _next_token(line: str, position: int) -> tuple[Token | None, int, bool]:
    """The next token, where it ends, and whether a comma ended it. None at the end of the line or at a comment."""
    while position < len(line) and line[position] in _BLANKS + ",":
        position += 1
    letters: list[str] = []
    in_quote = was_quote = saw_quote = initial_quote = comma = False
    while position < len(line):
        letter = line[position]
        if not in_quote and letter in _BLANKS:
            break
        if not in_quote and letter == "#":
            position = len(line)
            break
        position += 1
        if not in_quote and letter == ",":
            comma = True
            break
        # A doubled quote inside quotes is one quote: the second one is kept, and opens what the first one closed.
        if letter != '"' or was_quote:
            letters.append(letter)
        was_quote = in_quote and letter == '"' and not was_quote
        if letter == '"':
            in_quote, saw_quote = not in_quote, True
            initial_quote = initial_quote or not letters
    if not letters and not saw_quote:
        return None, position, comma
    return Token("".join(letters), initial_quote), position, comma
