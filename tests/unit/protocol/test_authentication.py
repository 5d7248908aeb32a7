"""Authentication messages: each is parsed as it was built, and everything else is a clean error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgdoorman.errors import ProtocolViolation
from pgdoorman.protocol import authentication as wire


@pytest.mark.parametrize(
    ("built", "parsed"),
    [
        (wire.ok(), wire.Ok()),
        (wire.cleartext(), wire.Cleartext()),
        (wire.md5(b"salt"), wire.Md5(b"salt")),
        (wire.sasl(["A", "B"]), wire.Sasl(("A", "B"))),
        (wire.sasl_continue(b""), wire.SaslContinue(b"")),
        (wire.sasl_continue(b"x\0"), wire.SaslContinue(b"x\0")),
        (wire.sasl_final(b"v="), wire.SaslFinal(b"v=")),
    ],
)
def test_requests(built: bytes, parsed: wire.Request) -> None:
    assert built[:1] == b"R"
    assert int.from_bytes(built[1:5]) == len(built) - 1
    assert wire.parse_request(built[5:]) == parsed


@pytest.mark.parametrize(
    ("code", "name"), [(2, "Kerberos V5"), (7, "GSSAPI"), (9, "SSPI"), (13, "authentication request 13")]
)
def test_requests_that_we_cannot_answer(code: int, name: str) -> None:
    request = wire.parse_request(code.to_bytes(4))
    assert isinstance(request, wire.Unsupported)
    assert request.name == name


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0\0\0",
        b"\0\0\0\0x",
        b"\0\0\0\3x",
        b"\0\0\0\5sal",
        b"\0\0\0\5salty",
        b"\0\0\0\x0a",
        b"\0\0\0\x0a\0",
        b"\0\0\0\x0a\0\0",
        b"\0\0\0\x0aSCRAM-SHA-256",
        b"\0\0\0\x0aSCRAM-SHA-256\0",
        b"\0\0\0\x0aA\0\0B\0\0",
        b"\0\0\0\x0a" + b"A\0" * 100 + b"\0",
    ],
)
def test_malformed_requests(body: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        wire.parse_request(body)


def test_many_mechanisms_but_not_too_many() -> None:
    assert wire.parse_request(wire.sasl(["M"] * 32)[5:]) == wire.Sasl(("M",) * 32)
    with pytest.raises(ProtocolViolation):
        wire.parse_request(wire.sasl(["M"] * 33)[5:])


@pytest.mark.parametrize("length", [0, 1, 1023, 1024, 1025, 65_535])
def test_passwords_of_every_length(length: int) -> None:
    message = wire.password_message(b"x" * length)
    assert int.from_bytes(message[1:5]) == len(message) - 1
    assert wire.parse_password_message(message[5:]) == b"x" * length


@pytest.mark.parametrize("password", [b"a\0b", b"\0", b"x" * 65_536])
def test_passwords_that_cannot_be_sent(password: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        wire.password_message(password)


@pytest.mark.parametrize("body", [b"", b"x", b"a\0b", b"a\0\0", b"\0\0"])
def test_malformed_passwords(body: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        wire.parse_password_message(body)


@pytest.mark.parametrize("data", [b"", b"n,,n=,r=abc"])
def test_initial_response(data: bytes) -> None:
    assert wire.parse_sasl_initial_response(wire.sasl_initial_response("M", data)[5:]) == ("M", data)


def test_initial_response_without_data() -> None:
    assert wire.parse_sasl_initial_response(b"M\0\xff\xff\xff\xff") == ("M", None)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"M",
        b"M\0",
        b"M\0\0\0\0",
        b"\0\0\0\0\0",
        b"M\0\0\0\0\1",
        b"M\0\0\0\0\1ab",
        b"M\0\xff\xff\xff\xffx",
        b"M\0\x7f\xff\xff\xffx",
        b"M\0\x80\0\0\0",
    ],
)
def test_malformed_initial_responses(body: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        wire.parse_sasl_initial_response(body)


@given(st.binary(max_size=64))
def test_parsers_raise_nothing_but_violations(body: bytes) -> None:
    for parse in (wire.parse_request, wire.parse_password_message, wire.parse_sasl_initial_response):
        try:
            parse(body)
        except ProtocolViolation:
            pass
