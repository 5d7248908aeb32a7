"""Text to statements. What is not a statement of the console is `InvalidCommand`, and nothing else is ever raised.

    script      statement ';' ...                       comments as in SQL; an empty script is no statement at all
    statement   SHOW name [argument]
                SELECT item, ...                        `SELECT pools` is `SHOW pools`, as in PgBouncer
                SET [SESSION | LOCAL] key (= | TO) value
                RESET key
                VERB [argument ...]

A name or an argument is a bare word, "quoted" or 'quoted'. A bare word may contain whatever is not blank, quote, comma,
semicolon, parenthesis or equals sign: database names with a dash need no quotes (PgDoorman), those with a blank do
(PgBouncer). Words that are part of the language are matched without regard to case.
"""

import enum
import re
from dataclasses import dataclass
from typing import Final

from pgdoorman.admin.flavour import InvalidCommand


class Kind(enum.Enum):
    """What a token looks like."""

    WORD = "word"
    NAME = "name"  # "..."
    STRING = "string"  # '...'
    SIGN = "sign"  # one of = , ( )


@dataclass(frozen=True, slots=True)
class Token:
    """One word or sign; `text` without its quotes, `start` and `end` in the source."""

    kind: Kind
    text: str
    start: int
    end: int

    def is_word(self, *words: str) -> bool:
        """Whether it is one of these words of the language (given in capitals)."""
        return self.kind is Kind.WORD and self.text.upper() in words

    def is_sign(self, sign: str) -> bool:
        """Whether it is this sign."""
        return self.kind is Kind.SIGN and self.text == sign


@dataclass(frozen=True, slots=True)
class Show:
    """SHOW; the name in capitals."""

    source: str
    name: str
    argument: str | None = None


@dataclass(frozen=True, slots=True)
class Select:
    """SELECT with its tokens: what they mean is the business of `courtesies`."""

    source: str
    tokens: tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class Set:
    """SET; the key in small letters. A value of None is DEFAULT."""

    source: str
    key: str
    value: str | None


@dataclass(frozen=True, slots=True)
class Reset:
    """RESET; the key in small letters."""

    source: str
    key: str


@dataclass(frozen=True, slots=True)
class Order:
    """Any other verb, in capitals, with its arguments as they were typed."""

    source: str
    verb: str
    arguments: tuple[str, ...] = ()


type Statement = Show | Select | Set | Reset | Order

_BLANK: Final = re.compile(r"[ \t\r\n\f\v]+|--[^\r\n]*")
_TOKEN: Final = re.compile(
    r"""(?P<string>[eE]?'(?:[^']|'')*')
      | (?P<name>"(?:[^"]|"")*")
      | (?P<sign>[=,()])
      | (?P<end>;)
      | (?P<word>(?:(?!--|/\*)[^ \t\r\n\f\v;=,()'"])+)""",
    re.VERBOSE,
)
_COMMENT_EDGE: Final = re.compile(r"/\*|\*/")


def parse(text: str) -> list[Statement]:
    """All statements of a script. Raises `InvalidCommand` if any of them is none, before any is carried out."""
    statements = []
    for tokens in _split(text):
        source = text[tokens[0].start : tokens[-1].end]
        statements.append(_statement(source, tokens, text))
    return statements


def _split(text: str) -> list[list[Token]]:
    statements: list[list[Token]] = [[]]
    position = 0
    while position < len(text):
        if blank := _BLANK.match(text, position):
            position = blank.end()
        elif text.startswith("/*", position):
            position = _comment_end(text, position)
        else:
            match = _TOKEN.match(text, position)
            if match is None:  # an opened quote that is never closed
                raise InvalidCommand(text)
            position = match.end()
            if match.lastgroup == "end":
                statements.append([])
            else:
                statements[-1].append(_token(match))
    return [tokens for tokens in statements if tokens]


def _comment_end(text: str, position: int) -> int:
    depth = 0
    while edge := _COMMENT_EDGE.search(text, position):  # they nest
        depth += 1 if edge.group() == "/*" else -1
        position = edge.end()
        if depth == 0:
            return position
    raise InvalidCommand(text)


def _token(match: re.Match[str]) -> Token:
    raw = match.group()
    start, end = match.span()
    match match.lastgroup:
        case "string":
            body = raw[raw.index("'") + 1 : -1].replace("''", "'")
            # E'' is only ever sent for a text with a backslash in it, and then doubled (psql's completion).
            return Token(Kind.STRING, body.replace("\\\\", "\\") if raw[0] in "eE" else body, start, end)
        case "name":
            return Token(Kind.NAME, raw[1:-1].replace('""', '"'), start, end)
        case "sign":
            return Token(Kind.SIGN, raw, start, end)
        case _:
            return Token(Kind.WORD, raw, start, end)


def _statement(source: str, tokens: list[Token], text: str) -> Statement:
    first, rest = tokens[0], tokens[1:]
    if first.kind is not Kind.WORD:
        raise InvalidCommand(source)
    verb = first.text.upper()
    match verb:
        case "SHOW":
            return _show(source, rest)
        case "SELECT":
            return Select(source, tuple(rest))
        case "SET":
            return _set(source, rest, text)
        case "RESET":
            return _reset(source, rest)
        case _:
            if any(token.kind is Kind.SIGN for token in rest) and verb not in _FREE_FORM:
                raise InvalidCommand(source)
            return Order(source, verb, tuple(token.text for token in rest))


# Statements that drivers send and that may have a list behind them (BEGIN ISOLATION LEVEL ..., READ ONLY).
_FREE_FORM: Final = frozenset({"BEGIN", "START"})

# Settings whose SQL name is more than one word.
_SPACED_KEYS: Final = {
    ("TIME", "ZONE"): "timezone",
    ("TRANSACTION", "ISOLATION", "LEVEL"): "transaction_isolation",
    ("SESSION", "AUTHORIZATION"): "session_authorization",
}


def _spaced_key(tokens: list[Token]) -> tuple[str, int]:
    for words, key in _SPACED_KEYS.items():
        head = tokens[: len(words)]
        if len(head) == len(words) and all(token.is_word(word) for token, word in zip(head, words, strict=True)):
            return key, len(words)
    return "", 0


def _show(source: str, tokens: list[Token]) -> Show:
    if not tokens:
        raise InvalidCommand(
            source,
            message="Unsupported SHOW query against the admin database",
            hint="Use SHOW HELP to see what can be shown.",
        )
    key, length = _spaced_key(tokens)
    if key and length == len(tokens):
        return Show(source, key.upper())
    if len(tokens) > 2 or any(token.kind is Kind.SIGN for token in tokens):
        raise InvalidCommand(source)
    return Show(source, tokens[0].text.upper(), tokens[1].text if len(tokens) == 2 else None)


def _set(source: str, tokens: list[Token], text: str) -> Statement:
    if tokens and tokens[0].is_word("TRANSACTION", "CONSTRAINTS"):
        return Order(source, "SET " + tokens[0].text.upper())
    if len(tokens) > 1 and tokens[0].is_word("SESSION") and tokens[1].is_word("CHARACTERISTICS"):
        return Order(source, "SET SESSION")
    scoped = len(tokens) > 1 and tokens[0].is_word("SESSION", "LOCAL") and not _is_assignment(tokens[1])
    if scoped and not tokens[1].is_word("AUTHORIZATION"):
        tokens = tokens[1:]
    key, value = _assignment(source, tokens)
    if not value:
        raise InvalidCommand(source)
    if len(value) == 1:
        return Set(source, key, None if value[0].is_word("DEFAULT") else value[0].text)
    # More than one token: a list (DateStyle) or a filter (info,pool=debug). It is taken as it was typed.
    return Set(source, key, text[value[0].start : value[-1].end])


def _assignment(source: str, tokens: list[Token]) -> tuple[str, list[Token]]:
    """The key and the tokens of the value."""
    if len(tokens) > 1 and _is_assignment(tokens[1]) and tokens[0].kind in (Kind.WORD, Kind.NAME):
        return tokens[0].text.lower(), tokens[2:]
    key, length = _spaced_key(tokens)
    if not key and tokens and tokens[0].is_word("NAMES", "ROLE"):
        key, length = ("client_encoding" if tokens[0].is_word("NAMES") else "role"), 1
    if not key:
        raise InvalidCommand(source)
    return key, tokens[length:]


def _is_assignment(token: Token) -> bool:
    return token.is_sign("=") or token.is_word("TO")


def _reset(source: str, tokens: list[Token]) -> Reset:
    key, length = _spaced_key(tokens)
    if key and length == len(tokens):
        return Reset(source, key)
    if len(tokens) != 1 or tokens[0].kind not in (Kind.WORD, Kind.NAME):
        raise InvalidCommand(
            source,
            message="Unsupported RESET query against the admin database",
            hint="Use RESET key or RESET INTERNER.",
        )
    return Reset(source, tokens[0].text.lower())
