"""The first packet and its surroundings: what PostgreSQL accepts, and nothing but clean errors for everything else."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pgdoorman.errors import ProtocolViolation
from pgdoorman.protocol import codes, startup
from pgdoorman.protocol.startup import (
    CancelRequest,
    GssEncRequest,
    Replication,
    SslRequest,
    StartupMessage,
    negotiate,
    parse_first_packet,
    parse_options,
)


def packet(code: int, body: bytes, size: int | None = None) -> bytes:
    return (8 + len(body) if size is None else size).to_bytes(4) + code.to_bytes(4) + body


def greeting(body: bytes, version: int = codes.PROTOCOL_3_0) -> StartupMessage:
    message = parse_first_packet(packet(version, body))
    assert isinstance(message, StartupMessage)
    return message


def message_of(*parameters: tuple[str, str], version: int = codes.PROTOCOL_3_0) -> StartupMessage:
    return StartupMessage(version, parameters)


# Sizes.


@pytest.mark.parametrize("size", [8, 9, 10_000])
def test_admitted_sizes(size: int) -> None:
    assert startup.first_packet_size(size.to_bytes(4)) == size


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\0\0\0",
        *(size.to_bytes(4) for size in (0, 3, 4, 7, 10_001, 0x7FFF_FFFF, 0x8000_0000, 0x8000_0001, 0xFFFF_FFFF)),
        b"GET ",
        b"\x16\x03\x01\x02",
    ],
)
def test_refused_sizes(header: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        startup.first_packet_size(header)


@pytest.mark.parametrize("size", [0, 7, 9, 0xFFFF_FFFF])
def test_a_packet_must_be_as_long_as_it_says(size: int) -> None:
    with pytest.raises(ProtocolViolation):
        parse_first_packet(packet(codes.SSL_REQUEST, b"", size))


# Requests.


def test_encryption_requests() -> None:
    assert parse_first_packet(packet(codes.SSL_REQUEST, b"")) == SslRequest()
    assert parse_first_packet(packet(codes.GSSENC_REQUEST, b"")) == GssEncRequest()
    assert startup.ssl_request() == packet(codes.SSL_REQUEST, b"")


@pytest.mark.parametrize("code", [codes.SSL_REQUEST, codes.GSSENC_REQUEST])
def test_an_encryption_request_carries_nothing(code: int) -> None:
    with pytest.raises(ProtocolViolation):
        parse_first_packet(packet(code, b"Q"))


@pytest.mark.parametrize("length", [4, 5, 32, 256])
def test_cancel_keys_of_every_length(length: int) -> None:
    secret = bytes(range(256))[:length]
    assert parse_first_packet(startup.cancel_request(-5, secret)) == CancelRequest(-5, secret)


@pytest.mark.parametrize("length", [0, 1, 3, 257])
def test_cancel_keys_of_impossible_length(length: int) -> None:
    with pytest.raises(ProtocolViolation):
        parse_first_packet(packet(codes.CANCEL_REQUEST, bytes(4 + length)))
    with pytest.raises(ProtocolViolation):
        startup.cancel_request(1, bytes(length))


@pytest.mark.parametrize("length", range(4))
def test_a_cancel_request_without_a_whole_process_id(length: int) -> None:
    with pytest.raises(ProtocolViolation):
        parse_first_packet(packet(codes.CANCEL_REQUEST, bytes(length)))


def test_a_cancel_secret_does_not_show() -> None:
    assert "swordfish" not in repr(CancelRequest(1, b"swordfish"))


# StartupMessage.


def test_parameters_in_order_with_repetitions() -> None:
    message = greeting(b"user\0alice\0user\0bob\0database\0shop\0application_name\0\0\0")
    assert message.parameters == (
        ("user", "alice"),
        ("user", "bob"),
        ("database", "shop"),
        ("application_name", ""),
    )
    assert (message.user, message.database) == ("bob", "shop")


def test_the_database_is_called_like_the_user_by_default() -> None:
    assert greeting(b"user\0alice\0\0").database == "alice"
    assert greeting(b"user\0alice\0database\0\0\0").database == "alice"


def test_no_parameters_at_all() -> None:
    assert greeting(b"\0").parameters == ()
    assert greeting(b"\0").user == ""


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"user",
        b"user\0alice",
        b"user\0alice\0",
        b"user\0\0",
        b"user\0alice\0\0\0",
        b"user\0alice\0\0x\0y\0\0",
        b"\0user\0alice\0\0",
        b"\0x\0user\0alice\0\0",
        b"user\0alice\0\0x",
        b"\0\0",
    ],
)
def test_malformed_parameter_lists(body: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="invalid startup packet layout"):
        greeting(body)


def test_only_application_name_may_be_in_another_encoding() -> None:
    assert greeting(b"application_name\0M\xfcller\0\0").parameters == (("application_name", "M\\xfcller"),)
    for body in (b"user\0M\xfcller\0\0", b"search_path\0\xff\0\0", b"\xff\0x\0\0"):
        with pytest.raises(ProtocolViolation, match="UTF-8"):
            greeting(body)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("", Replication.NONE),
        ("false", Replication.NONE),
        ("F", Replication.NONE),
        ("off", Replication.NONE),
        ("of", Replication.NONE),
        ("0", Replication.NONE),
        ("n", Replication.NONE),
        ("true", Replication.PHYSICAL),
        ("ON", Replication.PHYSICAL),
        ("1", Replication.PHYSICAL),
        ("ye", Replication.PHYSICAL),
        ("database", Replication.LOGICAL),
    ],
)
def test_replication(value: str, wanted: Replication) -> None:
    assert message_of(("replication", value)).replication is wanted


@pytest.mark.parametrize("value", ["o", "DATABASE", "10", "truely", "2"])
def test_replication_values_that_postgresql_does_not_know(value: str) -> None:
    with pytest.raises(ProtocolViolation):
        _ = message_of(("replication", value)).replication


@given(st.binary(max_size=200), st.sampled_from([0, 1, 196608, 196610, 0x0003_FFFF, 80877102, 80877103, 0xFFFF_FFFF]))
@example(b"options\0-c=\0\0", 196608)
@example(b"options\0-c =\0\0", 196608)
@example(b"options\0--=\0\0", 196608)
@example(b"options\0\\\0\0", 196608)
@example(b"options\0-c\0\0", 196608)
def test_no_first_packet_brings_anything_but_a_clean_error(body: bytes, code: int) -> None:
    try:
        message = parse_first_packet(packet(code, body))
        if isinstance(message, StartupMessage):
            message.settings()
            _ = message.replication
            negotiate(message)
    except ProtocolViolation:
        pass


@given(st.lists(st.tuples(st.text(min_size=1), st.text()), max_size=5))
def test_what_is_built_is_parsed_again(parameters: list[tuple[str, str]]) -> None:
    try:
        built = startup.startup_message(parameters, codes.PROTOCOL_3_2)
    except ProtocolViolation:
        assert any("\0" in name + value for name, value in parameters)
    else:
        assert startup.first_packet_size(built) == len(built)
        assert parse_first_packet(built) == StartupMessage(codes.PROTOCOL_3_2, tuple(parameters))


@pytest.mark.parametrize("parameters", [{"": "x"}, {"a\0b": "x"}, {"a": "x\0"}, {"a": "\ud800"}, {"a": "x" * 10_000}])
def test_what_cannot_be_sent_is_not_built(parameters: dict[str, str]) -> None:
    with pytest.raises(ProtocolViolation):
        startup.startup_message(parameters)


def test_a_packet_of_exactly_the_limit_is_built() -> None:
    overhead = len(startup.startup_message({"a": ""}))
    assert len(startup.startup_message({"a": "x" * (10_000 - overhead)})) == 10_000
    with pytest.raises(ProtocolViolation, match="10001"):
        startup.startup_message({"a": "x" * (10_001 - overhead)})


# Run-time parameters.


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", []),
        ("  \t", []),
        ("-c work_mem=64MB", [("work_mem", "64MB")]),
        ("-cwork_mem=64MB", [("work_mem", "64MB")]),
        ("--work_mem=64MB", [("work_mem", "64MB")]),
        ("--work-mem=64MB", [("work_mem", "64MB")]),
        ("-c a=1   -c b=2\t--c=3", [("a", "1"), ("b", "2"), ("c", "3")]),
        (r"-c search_path=a,\ b", [("search_path", "a, b")]),
        (r"-c x=a\\b", [("x", r"a\b")]),
        (r"-c w\ork_mem=1", [("work_mem", "1")]),
        ("-c x=a=b", [("x", "a=b")]),
        ("-c x=", [("x", "")]),
        (r"-c x=\ ", [("x", " ")]),
        ("-c my.setting=1", [("my.setting", "1")]),
        ("-c x=1\\", [("x", "1")]),
    ],
)
def test_options(text: str, wanted: list[tuple[str, str]]) -> None:
    assert list(parse_options(text)) == wanted


@pytest.mark.parametrize(
    "text",
    ["-c", "-c=", "-c =", "-c =x", "--=x", "--", "--x", "-c x", "-cx", "-e", "-x", "x=1", "\\", "-", "-c a=1 -c"],
)
def test_options_that_are_refused(text: str) -> None:
    with pytest.raises(ProtocolViolation):
        parse_options(text)


@pytest.mark.parametrize("text", ["-c=", "-c=x", "--=", "-c =x"])
def test_an_empty_name_is_said_to_be_one(text: str) -> None:
    with pytest.raises(ProtocolViolation, match='unrecognized configuration parameter ""'):
        parse_options(text)


@pytest.mark.parametrize("name", ["a b", "1a", "a;drop", "a'", 'a"', "a.", ".a", "a..b", "", "a\nb", "x" * 128, "a\n"])
def test_names_that_no_parameter_has(name: str) -> None:
    with pytest.raises(ProtocolViolation):
        message_of((name, "1")).settings()


def test_settings_leave_out_what_belongs_to_the_connection() -> None:
    message = message_of(
        ("user", "u"), ("database", "d"), ("replication", "0"), ("_pq_.x", "1"), ("options", ""), ("TimeZone", "UTC")
    )
    assert message.settings() == {"TimeZone": "UTC"}


def test_a_parameter_of_its_own_wins_over_options_whatever_the_order() -> None:
    message = message_of(("work_mem", "1"), ("options", "-c Work_Mem=2 -c a=3"), ("WORK_MEM", "4"))
    assert message.settings() == {"WORK_MEM": "4", "a": "3"}


@given(st.text(alphabet="-c=\\ ax.\t", max_size=60))
def test_options_always_end(text: str) -> None:
    try:
        assert all(name for name, _ in parse_options(text))
    except ProtocolViolation:
        pass


# Versions.


@pytest.mark.parametrize(
    ("asked", "spoken", "told"),
    [
        (0x0003_0000, 0x0003_0000, False),
        (0x0003_0001, 0x0003_0000, True),
        (0x0003_0002, 0x0003_0002, False),
        (0x0003_0003, 0x0003_0002, True),
        (0x0003_270F, 0x0003_0002, True),  # 3.9999, what libpq sends to see whether negotiation works
        (0x0003_FFFF, 0x0003_0002, True),
    ],
)
def test_versions(asked: int, spoken: int, told: bool) -> None:
    negotiation = negotiate(message_of(version=asked))
    assert negotiation.version == spoken
    assert bool(negotiation.reply) == told


def test_a_pooler_that_speaks_only_3_0_says_so() -> None:
    negotiation = negotiate(message_of(version=codes.PROTOCOL_3_2), newest=codes.PROTOCOL_3_0)
    assert negotiation == startup.Negotiation(codes.PROTOCOL_3_0, b"v\0\0\0\x0c\0\3\0\0\0\0\0\0")


def test_protocol_options_are_named_once_each() -> None:
    message = message_of(("_pq_.a", "1"), ("user", "u"), ("_pq_.b", "2"), ("_pq_.a", "3"))
    negotiation = negotiate(message)
    assert negotiation.version == codes.PROTOCOL_3_0
    assert negotiation.reply[:1] == b"v"
    assert startup.parse_negotiate_protocol_version(negotiation.reply[5:]) == (
        codes.PROTOCOL_3_0,
        ("_pq_.a", "_pq_.b"),
    )


@pytest.mark.parametrize("version", [0, 0x0002_0000, 0x0004_0000, 0x04D2_162E + 10, 0xFFFF_FFFF])
def test_other_major_versions_are_refused(version: int) -> None:
    with pytest.raises(ProtocolViolation, match="unsupported frontend protocol") as refused:
        negotiate(greeting(b"anything", version))
    assert refused.value.sqlstate == "0A000", "as PostgreSQL has it"


@pytest.mark.parametrize(
    "body",
    [b"", bytes(7), b"\0\3\0\0\0\0\0\1", b"\0\3\0\0\0\0\0\1a", b"\0\3\0\0\0\0\0\0a\0", b"\0\3\0\0\xff\xff\xff\xffa\0"],
)
def test_malformed_negotiations(body: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        startup.parse_negotiate_protocol_version(body)


# What a server says.


def test_parameter_status() -> None:
    assert startup.parse_parameter_status(b"TimeZone\0UTC\0") == ("TimeZone", "UTC")
    assert startup.parse_parameter_status(b"x\0\0") == ("x", "")
    assert startup.parse_parameter_status(b"x\0\xff\0") == ("x", "\\xff")


@pytest.mark.parametrize("body", [b"", b"x", b"x\0", b"x\0y", b"x\0y\0z", b"x\0y\0\0", b"\0y\0"])
def test_malformed_parameter_status(body: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        startup.parse_parameter_status(body)


@pytest.mark.parametrize(
    ("length", "version", "fits"),
    [
        (4, codes.PROTOCOL_3_0, True),
        (5, codes.PROTOCOL_3_0, False),
        (3, codes.PROTOCOL_3_2, False),
        (4, codes.PROTOCOL_3_2, True),
        (32, codes.PROTOCOL_3_2, True),
        (256, codes.PROTOCOL_3_2, True),
        (257, codes.PROTOCOL_3_2, False),
    ],
)
def test_backend_key_data(length: int, version: int, fits: bool) -> None:
    body = (123).to_bytes(4) + bytes(length)
    if fits:
        assert startup.parse_backend_key_data(body, version) == (123, bytes(length))
    else:
        with pytest.raises(ProtocolViolation):
            startup.parse_backend_key_data(body, version)


def test_error_fields() -> None:
    body = b"SFATAL\0VFATAL\0C28P01\0Mno \xfc\0M second\0\0trailing"
    assert startup.parse_error_fields(body) == {"S": "FATAL", "V": "FATAL", "C": "28P01", "M": "no \\xfc"}


@given(st.binary(max_size=100))
def test_error_fields_are_read_from_anything(body: bytes) -> None:
    startup.parse_error_fields(body)


# Anything at all.

_FIELDS = st.sampled_from(
    [b"user", b"database", b"options", b"replication", b"_pq_.x", b"application_name", b"DateStyle", b""]
)
_PAIRS = st.lists(st.tuples(_FIELDS, st.binary(max_size=12)), max_size=5)
_CODES = st.sampled_from(
    [
        codes.PROTOCOL_3_0,
        codes.PROTOCOL_3_2,
        codes.SSL_REQUEST,
        codes.GSSENC_REQUEST,
        codes.CANCEL_REQUEST,
        0x20000,
        0x3FFFF,
    ]
)
_PACKETS = st.one_of(
    st.binary(max_size=60),
    st.builds(packet, st.one_of(_CODES, st.integers(0, 2**32 - 1)), st.binary(max_size=40)),
    st.builds(
        lambda code, pairs: packet(code, b"".join(n + b"\0" + v + b"\0" for n, v in pairs) + b"\0"), _CODES, _PAIRS
    ),
)


@given(_PACKETS)
def test_any_first_packet_is_understood_or_refused(data: bytes) -> None:
    """And whatever is asked of one that was understood."""
    try:
        assert 8 <= startup.first_packet_size(data) <= startup.MAX_FIRST_PACKET
        first = parse_first_packet(data)
        if isinstance(first, StartupMessage):
            assert isinstance(first.user + first.database, str)
            negotiate(first)
            first.settings()
            assert first.replication in Replication
    except ProtocolViolation:
        return
    assert int.from_bytes(data[:4]) == len(data)
