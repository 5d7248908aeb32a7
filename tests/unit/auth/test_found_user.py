"""What the row of a look-up means."""

import math

import pytest

from pgdoorman.auth.found_user import FoundUser, LookupRefused, read_user
from pgdoorman.auth.secrets import Md5Secret, NoSecret, PlainSecret, build_scram_secret, secret_text

PASSWORD = PlainSecret(b"pw")
ROLE = [("t", None)]


@pytest.mark.parametrize(
    ("columns", "row"),
    [
        (["passwd"], ["pw"]),
        (["anything"], ["pw"]),
        (["usename", "passwd"], ["x", "pw"]),
        (["passwd", "usename"], ["pw", "x"]),
        (["password", "passwd"], ["x", "pw"]),
        (["rolpassword", "a", "b"], ["pw", "x", "x"]),
        (["p_user", "p_password"], ["x", "pw"]),
        (["rolname", "case"], ["x", "pw"]),
        (["startup_parameters", "secret"], [None, "pw"]),
        (["a", "startup_parameters", "b"], ["x", "", "pw"]),
    ],
)
def test_password_column(columns: list[str], row: list[str | None]) -> None:
    assert read_user("u", columns, [row], ROLE) == FoundUser(PASSWORD)


def test_no_password_column() -> None:
    with pytest.raises(LookupRefused, match="none of its 3 columns"):
        read_user("u", ["a", "b", "c"], [["1", "2", "3"]], ROLE)


def test_number_of_rows() -> None:
    assert read_user("u", ["passwd"], [], ROLE) is None
    with pytest.raises(LookupRefused, match="expected 0 or 1 row, got 3"):
        read_user("u", ["passwd"], [["a"], ["b"], ["c"]], ROLE)


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (None, NoSecret()),
        ("", NoSecret()),
        ("md5" + "0" * 32, Md5Secret("0" * 32)),
        ("SCRAM-SHA-256$4096:x", NoSecret()),
        ("jwt-pkey-fpath:/etc/passwd", NoSecret()),
    ],
)
def test_secrets(text: str | None, secret: object) -> None:
    found = read_user("u", ["passwd"], [[text]], [])
    assert found is not None
    assert found.secret == secret


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ([], FoundUser(PASSWORD)),
        ([("t", None)], FoundUser(PASSWORD)),
        ([("t", "Infinity")], FoundUser(PASSWORD)),
        ([("t", "12.5")], FoundUser(PASSWORD, 12.5)),
        ([("t", "-0.5")], FoundUser(NoSecret())),
        ([("t", "-Infinity")], FoundUser(NoSecret())),
        ([("f", None)], None),
        ([("f", "100")], None),
    ],
)
def test_facts_of_the_role(facts: list[tuple[str | None, ...]], expected: FoundUser | None) -> None:
    assert read_user("u", ["passwd"], [["pw"]], facts) == expected
    assert math.isinf(FoundUser(PASSWORD).seconds_valid)


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        (None, ()),
        ("", ()),
        ("{}", ()),
        ('{"work_mem": "4MB", "b.c": ""}', (("work_mem", "4MB"), ("b.c", ""))),
        ('{"work_mem": 4}', ()),
        ("[1]", ()),
        ("no json", ()),
        ("[" * 100_000, ()),
    ],
)
def test_parameters(text: str | None, parameters: tuple[tuple[str, str], ...]) -> None:
    found = read_user("u", ["passwd", "startup_parameters"], [["pw", text]], ROLE)
    assert found == FoundUser(PASSWORD, parameters=parameters)


def test_secrets_do_not_show(caplog: pytest.LogCaptureFixture) -> None:
    found = read_user("u", ["passwd", "startup_parameters"], [["hidden", "hidden too"]], ROLE)
    read_user("u", ["passwd"], [["SCRAM-SHA-256$hidden"]], ROLE)
    assert "hidden" not in repr(found)
    assert "hidden" not in caplog.text


def test_secret_text_is_what_was_parsed() -> None:
    for secret in (PASSWORD, Md5Secret("ab" * 16), build_scram_secret(b"pw", 4096), NoSecret()):
        found = read_user("u", ["passwd"], [[secret_text(secret)]], [])
        assert found is not None
        assert found.secret == secret
