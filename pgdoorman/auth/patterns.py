"""PostgreSQL's regular expressions, as far as names in rule files need them, on top of Python's.

The two differ where a name could slip through: Python's `$` also matches before a final newline, its `.` not at a
newline, and it would quietly take `[[:alpha:]]` for something else. So what can be translated is, and what cannot is
refused when the file is read.

Python's engine backtracks, and the names that it is given come from clients that have proved nothing; names that
PostgreSQL could not have (more than 63 bytes) therefore never match.
"""

import re
import warnings
from typing import Final

MAX_NAME: Final = 63

_CLASSES: Final = {
    "alpha": "A-Za-z",
    "digit": "0-9",
    "alnum": "A-Za-z0-9",
    "upper": "A-Z",
    "lower": "a-z",
    "space": r" \t\n\v\f\r",
    "blank": r" \t",
    "punct": r"!-/:-@\[-`{-~",
    "xdigit": "0-9A-Fa-f",
    "word": "A-Za-z0-9_",
    "cntrl": r"\x00-\x1f\x7f",
    "graph": "!-~",
    "print": " -~",
}

_ESCAPES: Final = {"m": r"\b(?=\w)", "M": r"\b(?<=\w)", "y": r"\b", "Y": r"\B", "Z": r"\Z", "A": r"\A"}

_PIECE: Final = re.compile(r"\\(?P<escape>.)|\[:(?P<cls>\w+):\]|(?P<other>.)", re.DOTALL)


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Compile one of PostgreSQL's advanced regular expressions. Raises ValueError for what is invalid and for what has
    no counterpart (collating elements, equivalence classes, the *** prefixes, lookbehind)."""
    if pattern.startswith("***"):
        raise ValueError("the *** prefixes are not supported")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)
            return re.compile(_translate(pattern), re.DOTALL | re.ASCII)
    except (re.error, OverflowError, RecursionError, FutureWarning) as error:
        raise ValueError(str(error)) from None


def search(pattern: re.Pattern[str], name: str) -> re.Match[str] | None:
    """Look for the pattern anywhere in a name. A name that no role or database can have never matches."""
    if len(name.encode(errors="replace")) > MAX_NAME:
        return None
    return pattern.search(name)


def _translate(pattern: str) -> str:
    output: list[str] = []
    position = 0
    while position < len(pattern):
        if pattern[position] == "[":
            piece, position = _bracket(pattern, position)
        elif pattern[position] == "\\":
            piece, position = _escape(pattern, position)
        elif pattern[position] == "$":
            piece, position = r"\Z", position + 1
        else:
            piece, position = pattern[position], position + 1
        output.append(piece)
    return "".join(output)


def _escape(pattern: str, position: int) -> tuple[str, int]:
    following = pattern[position + 1 : position + 2]
    if not following:
        raise ValueError("a backslash at the end")
    return _ESCAPES.get(following, "\\" + following), position + 2


def _bracket(pattern: str, start: int) -> tuple[str, int]:
    """A bracket expression and where it ends. A ']' that comes first is a member."""
    position = start + 1
    output = "["
    if pattern.startswith("^", position):
        output, position = "[^", position + 1
    if pattern.startswith("]", position):
        output, position = output + r"\]", position + 1
    while position < len(pattern):
        if pattern[position] == "]":
            return output + "]", position + 1
        piece, position = _bracket_member(pattern, position)
        output += piece
    raise ValueError("brackets [] not balanced")


def _bracket_member(pattern: str, position: int) -> tuple[str, int]:
    match = _PIECE.match(pattern, position)
    if match is None:
        raise ValueError("a backslash at the end")
    if match["cls"]:
        if match["cls"] not in _CLASSES:
            raise ValueError("invalid character class")
        return _CLASSES[match["cls"]], match.end()
    if match["escape"]:
        return "\\" + match["escape"], match.end()
    if pattern.startswith(("[.", "[="), position):
        raise ValueError("collating elements are not supported")
    # An opening bracket inside brackets is an ordinary character, of which Python warns.
    return (r"\[" if match["other"] == "[" else match["other"]), match.end()
