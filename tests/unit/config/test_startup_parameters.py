"""Parameters of a StartupMessage: names, spellings, room."""

import struct

import pytest

from pgdoorman.config.keys import Section
from pgdoorman.config.startup_parameters import canonical_name, encoded_length, message_length, refuse_parameter
from tests.unit.config.sample import configuration, errors_of


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("datestyle", "DateStyle"),
        ("TIMEZONE", "TimeZone"),
        ("intervalstyle", "IntervalStyle"),
        ("Client_Encoding", "client_encoding"),
        ("Application_Name", "application_name"),
        ("Standard_Conforming_Strings", "standard_conforming_strings"),
        ("My.Setting", "my.setting"),
    ],
)
def test_spelling(name: str, canonical: str) -> None:
    assert canonical_name(name) == canonical


@pytest.mark.parametrize("name", ["work_mem", "_x", "my.setting", "a1", "application_name", "search_path"])
def test_allowed(name: str) -> None:
    assert refuse_parameter(name, "x", []) == ""


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("", "x", "is not the name"),
        ("1a", "x", "is not the name"),
        ("a b", "x", "is not the name"),
        ("a-b", "x", "is not the name"),
        ("ä", "x", "is not the name"),
        ("a\0", "x", "is not the name"),
        ("a\n", "x", "is not the name"),
        ("user", "x", "reserved"),
        ("Database", "x", "reserved"),
        ("REPLICATION", "x", "reserved"),
        ("options", "x", "reserved"),
        ("role", "x", "reserved"),
        ("session_authorization", "x", "reserved"),
        ("_pq_.x", "x", "reserved"),
        ("_PQ_.x", "x", "reserved"),
        ("a", 1, "must be a text"),
        ("a", True, "must be a text"),
        ("a", "x\0y", "zero byte"),
        ("Known", "x", "given twice"),
    ],
)
def test_refused(name: str, value: object, words: str) -> None:
    assert words in refuse_parameter(name, value, ["known"])


def test_each_wrong_parameter_is_told() -> None:
    text = configuration(Section.POOL, startup_parameters={"user": "x", "a": "1", "A": "2", "b": 3})
    assert len(errors_of(text)) == 3


def test_length_of_the_message() -> None:
    parameters = (("a", "xyz"), ("search_path", "ü"))
    body = b"user\0bob\0database\0shop\0a\0xyz\0search_path\0" + "ü".encode() + b"\0\0"
    message = struct.pack("!ii", len(body) + 8, 196_608) + body
    assert message_length("bob", "shop", parameters) == len(message)
    assert encoded_length(parameters) == len(b"a\0xyz\0search_path\0xx\0")
