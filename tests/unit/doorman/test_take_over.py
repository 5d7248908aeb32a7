"""Clients that come from another process and that something is wrong with: none of them is counted for ever."""

import gc
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from pgdoorman.client.records import ClientRecord
from pgdoorman.config.load import load_text
from pgdoorman.doorman.house import Doorman
from pgdoorman.protocol import codes
from pgdoorman.transport.peer import Peer
from tests.support.doorman import pool, toml, user
from tests.support.process import wait_until

PATIENCE = 60.0

RECORD = ClientRecord("app", "alice", Peer("127.0.0.1", 5), codes.PROTOCOL_3_0, 77, b"1234", told={"a": "b"})


@pytest.fixture
def house() -> Iterator[Doorman]:
    general: dict[str, Any] = {
        "host": "127.0.0.1", "port": 0, "worker_threads": 1, "local_console": False,
        "admin_username": "admin", "admin_password": "admin",
    }  # fmt: skip
    doorman = Doorman(load_text(toml({"general": general, "pools": {"app": pool(("127.0.0.1", 1), user("alice"))}})))
    try:
        doorman.open()
        yield doorman
    finally:
        doorman.close()
        gc.enable()
        gc.unfreeze()


@pytest.fixture
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, client = socket.socketpair()
    client.settimeout(PATIENCE)
    yield ours, client
    ours.close()
    client.close()


def test_one_that_is_fit_is_served(house: Doorman, connection: tuple[socket.socket, socket.socket]) -> None:
    ours, client = connection
    house.desk.take_over(RECORD, ours)
    client.sendall(b"Q\0\0\0\x0abegin\0")
    assert client.recv(100) == b"C\0\0\0\x0aBEGIN\0Z\0\0\0\5T"
    assert not house.desk.is_empty
    client.sendall(b"X\0\0\0\4")
    wait_until(lambda: house.desk.is_empty and not house.desk.sessions, PATIENCE, "it has left")


def test_one_that_no_pool_is_for_is_told(house: Doorman, connection: tuple[socket.socket, socket.socket]) -> None:
    ours, client = connection
    house.desk.take_over(replace(RECORD, user="bob"), ours)
    assert b"C3D000\0" in client.recv(1000)
    assert client.recv(1) == b""
    assert house.desk.is_empty


def test_a_record_that_makes_no_sense(house: Doorman, connection: tuple[socket.socket, socket.socket]) -> None:
    broken: Any = ["no", "mapping"]
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever: who has read the record turns the client away
        house.desk.take_over(replace(RECORD, told=broken), connection[0])
    assert house.desk.is_empty
    assert not house.desk.sessions


def test_a_connection_that_cannot_be_watched(house: Doorman, connection: tuple[socket.socket, socket.socket]) -> None:
    ours, _ = connection
    ours.close()
    house.desk.take_over(RECORD, ours)
    wait_until(lambda: house.desk.is_empty and not house.desk.sessions, PATIENCE, "it is not counted any more")
