"""SASLprep (RFC 4013, a profile of RFC 3454) as PostgreSQL applies it to passwords.

PostgreSQL departs from the RFC in three ways, and a password that it accepted must be accepted here: pure ASCII is
taken as it is, control characters included; what is not UTF-8 or contains prohibited characters is used unprepared
instead of being refused; and the prohibition and bidi rules are applied to the text before normalisation.
"""

import stringprep
import unicodedata
from collections.abc import Callable
from typing import Final

_PROHIBITED: Final[tuple[Callable[[str], bool], ...]] = (
    stringprep.in_table_a1,  # unassigned in Unicode 3.2
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


def saslprep(password: bytes) -> bytes:
    """The password as SCRAM uses it; the same bytes where SASLprep does not apply. Never raises."""
    if password.isascii():
        return password
    try:
        text = password.decode()
    except UnicodeDecodeError:
        return password
    mapped = "".join(map(_map_character, text))
    if not mapped or _is_prohibited(mapped):
        return password
    return unicodedata.normalize("NFKC", mapped).encode()


def _map_character(character: str) -> str:
    # U+200B is in both tables; PostgreSQL asks for spaces first.
    if stringprep.in_table_c12(character):
        return " "
    return "" if stringprep.in_table_b1(character) else character


def _is_prohibited(text: str) -> bool:
    return any(in_table(character) for character in text for in_table in _PROHIBITED) or _breaks_bidi_rule(text)


def _breaks_bidi_rule(text: str) -> bool:
    """RFC 3454, section 6: right-to-left text has no left-to-right letter and begins and ends right-to-left."""
    if not any(map(stringprep.in_table_d1, text)):
        return False
    if any(map(stringprep.in_table_d2, text)):
        return True
    return not (stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1]))
