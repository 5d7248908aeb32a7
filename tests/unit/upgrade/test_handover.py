"""The way by which clients go from one process to the next, with both ends in this one."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from pgdoorman.auth.secrets import ScramKeys
from pgdoorman.client.records import ClientRecord, StatementRecord
from pgdoorman.errors import HandoverError
from pgdoorman.transport.peer import Peer
from pgdoorman.upgrade.channel import Channel
from pgdoorman.upgrade.handover import Receiver, Sender
from pgdoorman.upgrade.successor import HANDOVER_FD, take_channel

PATIENCE = 60.0

RECORD = ClientRecord(
    database="app",
    user="älice",
    peer=Peer("unix", 0, is_unix=True, process_id=17, user_id=4),
    version=196610,
    process_id=123456,
    secret=bytes(range(32)),
    application_name="it's me",
    connected_at=1.5,
    heard_at=2.25,
    startup_settings={"search_path": "a, b"},
    settings={"search_path": "b", "my.own": "ß"},
    told={"server_version": "17.5"},
    statements=(
        StatementRecord(b"s", b"select $1\0\0\1\0\0\0\x17", b"\0\1\0\0\0\x17", b"pgdoorman_1", is_current=True),
        StatementRecord(b"", b"select '\xe4\xff'\0\0\0"),
    ),
    input=b"Q\0\0\0\x09sel",
    passing=7,
    skipping=True,
    begin=b"",
    ahead=("LOAD 'auto_explain'",),
    custom_names=("my.own",),
    queries=1,
    singles=2,
    transactions=3,
    errors=4,
    found_secret="SCRAM-SHA-256$4096:c2FsdA==$x:y",
    found_parameters=(("work_mem", "1MB"),),
    keys=ScramKeys(4096, b"salt", bytes(32), bytes(range(200, 232))),
    password=b"pa\xffss",
)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    yield one, other
    one.close()
    other.close()


def test_a_record_comes_back_as_it_was() -> None:
    assert ClientRecord.from_bytes(RECORD.to_bytes()) == RECORD
    least = ClientRecord("app", "alice", Peer("127.0.0.1", 5), 196608, 1, b"1234")
    assert ClientRecord.from_bytes(least.to_bytes()) == least


def test_a_record_of_another_version_is_understood() -> None:
    told = b'{"database": "d", "user": "u", "peer": {"address": "::1", "port": 9, "new": 1}, "version": 196608,'
    told += b' "process_id": 3, "secret": "abcd", "invented": [1, 2], "statements": [{"name": "s", "tail": "t"}]}'
    record = ClientRecord.from_bytes(told)
    assert (record.peer, record.statements) == (Peer("::1", 9), (StatementRecord(b"s", b"t"),))


@pytest.mark.parametrize("told", [b"", b"[]", b"{}", b"7", b'{"secret": 7}', b'{"peer": {"address": "x"}}', b"\xff"])
def test_what_is_no_record_is_refused_without_being_shown(told: bytes) -> None:
    with pytest.raises(HandoverError) as caught:
        ClientRecord.from_bytes(told)
    assert "secret" not in caught.value.message


def test_a_record_does_not_show_what_it_keeps() -> None:
    shown = repr(RECORD)
    assert "auto_explain" in shown
    for hidden in ("SCRAM", "xff", "xc8", "x1f", "select", "sel"):
        assert hidden not in shown, hidden


def test_payloads_and_sockets_come_in_order(ends: tuple[socket.socket, socket.socket]) -> None:
    old, new = Channel(ends[0]), Channel(ends[1])
    near, far = socket.socketpair()
    large = os.urandom(3_000_000)

    def send() -> None:
        old.wait_send(large, near)
        old.wait_send(b"")
        old.wait_send(b"x", far)

    sending = threading.Thread(target=send)
    sending.start()
    got = [parcel for parcel in (new.wait_receive() for _ in range(3)) if parcel is not None]
    sending.join(PATIENCE)
    assert [payload for payload, _ in got] == [large, b"", b"x"]
    first, second, third = (attached for _, attached in got)
    assert first is not None
    assert second is None
    assert third is not None
    assert not os.get_inheritable(first.fileno())
    first.sendall(b"hello")
    near.close()
    assert third.recv(5) == b"hello"
    old.close()
    assert new.wait_receive() is None
    for sock in (first, third, far):
        sock.close()
    new.close()


def test_the_middle_of_a_word_is_no_end(ends: tuple[socket.socket, socket.socket]) -> None:
    ends[0].sendall(b"\0\0\0\x09abc")
    ends[0].close()
    with pytest.raises(HandoverError):
        Channel(ends[1]).wait_receive()


@pytest.mark.parametrize(
    "word", [b'\0\0\0\x0f{"format": 9999}'[:4] + b'{"format":9999}', b"\0\0\0\2[]", b"\0\0\0\1x", b""]
)
def test_without_the_right_hello_nobody_is_sent(ends: tuple[socket.socket, socket.socket], word: bytes) -> None:
    ends[0].sendall(word)
    if word:
        ends[0].shutdown(socket.SHUT_WR)
    with pytest.raises(HandoverError):
        Channel(ends[1]).wait_hello(0.05 if not word else PATIENCE)


def _pair_of_threads(
    ends: tuple[socket.socket, socket.socket], take: Callable[[ClientRecord, Any], Any], broken: Callable[[], Any]
) -> tuple[Sender, Receiver]:
    receiver = Receiver(Channel(ends[1]), take)
    receiver.start()
    channel = Channel(ends[0])
    channel.wait_hello(PATIENCE)
    sender = Sender(channel, broken)
    sender.start()
    return sender, receiver


def test_clients_are_sent_and_taken(ends: tuple[socket.socket, socket.socket]) -> None:
    taken: list[tuple[ClientRecord, socket.socket]] = []
    sender, receiver = _pair_of_threads(ends, lambda record, sock: taken.append((record, sock)), lambda: None)
    pairs = [socket.socketpair() for _ in range(20)]
    for ours, _ in pairs:
        sender.pass_on(RECORD.to_bytes, ours)
    garbled, its_client = socket.socketpair()
    sender.pass_on(lambda: b"no record", garbled)
    sender.close(PATIENCE)
    receiver.join(PATIENCE)
    assert sender.is_idle
    assert (sender.sent, receiver.taken) == (21, 20)
    for (record, sock), (ours, client) in zip(taken, pairs, strict=True):
        assert record == RECORD
        assert ours.fileno() == -1, "it is the other's now"
        client.settimeout(PATIENCE)
        client.sendall(b"x")
        sock.settimeout(PATIENCE)
        assert sock.recv(1) == b"x"
        sock.close()
        client.close()
    its_client.settimeout(PATIENCE)
    assert b"C57P01\0" in its_client.recv(1000)
    its_client.close()


def test_one_that_cannot_be_told_or_taken_does_not_keep_the_others(ends: tuple[socket.socket, socket.socket]) -> None:
    taken: list[socket.socket] = []

    def take(record: ClientRecord, sock: socket.socket) -> None:
        if record.user == "odd":
            raise ValueError("its secret")
        taken.append(sock)

    def unspeakable() -> bytes:
        raise TypeError("its secret")

    sender, receiver = _pair_of_threads(ends, take, lambda: None)
    pairs = [socket.socketpair() for _ in range(3)]
    records = (unspeakable, replace(RECORD, user="odd").to_bytes, RECORD.to_bytes)
    for record, (ours, _) in zip(records, pairs, strict=True):
        sender.pass_on(record, ours)
    sender.close(PATIENCE)
    receiver.join(PATIENCE)
    assert sender.is_idle
    assert (sender.sent, receiver.taken, len(taken)) == (2, 1, 1)
    for _, client in pairs[:2]:
        client.settimeout(PATIENCE)
        assert b"C57P01\0" in client.recv(1000)
        assert client.recv(1) == b""
    for sock in (*taken, *(client for _, client in pairs)):
        sock.close()


def test_without_the_other_side_clients_are_told(ends: tuple[socket.socket, socket.socket]) -> None:
    happened = threading.Event()
    sender, receiver = _pair_of_threads(ends, lambda record, sock: None, happened.set)
    receiver.close()
    receiver.join(PATIENCE)
    pairs = [socket.socketpair() for _ in range(3)]
    for ours, _ in pairs:
        sender.pass_on(RECORD.to_bytes, ours)
    assert happened.wait(PATIENCE)
    sender.close(PATIENCE)
    late = socket.socketpair()
    sender.pass_on(RECORD.to_bytes, late[0])
    for _, client in (*pairs, late):
        client.settimeout(PATIENCE)
        assert b"C57P01\0" in client.recv(1000)
        assert client.recv(1) == b""
        client.close()


def test_the_channel_is_found_once(ends: tuple[socket.socket, socket.socket]) -> None:
    descriptor = os.dup(ends[0].fileno())
    os.set_inheritable(descriptor, True)
    environment = {HANDOVER_FD: str(descriptor)}
    channel = take_channel(environment)
    assert channel is not None
    assert not os.get_inheritable(channel.fileno())
    channel.close()
    assert environment == {}
    assert take_channel(environment) is None
    assert take_channel({HANDOVER_FD: str(descriptor)}) is None, "not open any more"
    assert take_channel({HANDOVER_FD: "x"}) is None
