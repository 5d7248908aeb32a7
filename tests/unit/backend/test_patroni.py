"""Asking Patroni: who may take over, the first good answer, and answers that would hurt."""

import json
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Thread
from time import monotonic
from typing import Any

import pytest

from pgdoorman.backend.patroni import LARGEST_ANSWER, Clusters, ClusterUnknown, Member, read_members, waves
from pgdoorman.transport.connect import Address
from tests.support.patroni import FakePatroni, member
from tests.support.process import free_port

PATIENCE = 20.0


def _read(*members: Any) -> list[str]:
    return [found.name for found in read_members(json.dumps({"members": members}).encode())]


@pytest.mark.parametrize(
    ("more", "is_wanted"),
    [
        ({}, True),
        ({"state": "running"}, True),
        ({"state": "stopped"}, False),
        ({"state": "starting"}, False),
        ({"state": None}, False),
        ({"lag": 10**12}, True),
        ({"tags": {}}, True),
        ({"tags": {"nostream": True}}, True),
        ({"tags": {"noloadbalance": True}}, False),
        ({"tags": {"nofailover": "true"}}, False),
        ({"tags": {"archive": "True"}}, False),
        ({"tags": {"noloadbalance": False, "nofailover": "false", "archive": None}}, True),
        ({"tags": "noloadbalance"}, True),
        ({"port": "5432"}, True),
        ({"port": 0}, False),
        ({"port": 65536}, False),
        ({"port": True}, False),
        ({"port": "x"}, False),
        ({"host": ""}, False),
        ({"host": "/tmp"}, False),
        ({"host": "@abstract"}, False),
        ({"host": "a\nb"}, False),
        ({"host": 7}, False),
    ],
)
def test_who_may_take_over(more: dict[str, Any], is_wanted: bool) -> None:
    assert _read({**member("it", "10.0.0.1", 5432), **more}) == (["it"] if is_wanted else [])


def test_members_that_make_no_sense_are_passed_over() -> None:
    assert _read(None, 1, "x", [], {}, member("it", "10.0.0.1", 5432)) == ["it"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"members": 1}', b"[" * 100_000, b"\xff"])
def test_what_is_no_answer(body: bytes) -> None:
    with pytest.raises(ValueError, match="it "):
        read_members(body)


def test_waves() -> None:
    roles = ("leader", "replica", "sync_standby", "quorum_standby", "standby_leader", "sync_standby")
    members = [Member(str(place), Address("h", place), role) for place, role in enumerate(roles)]
    assert [[found.name for found in wave] for wave in waves(members)] == [["2", "5"], ["1", "3"], ["0", "4"]]


@pytest.mark.parametrize("ending", ["", "/", "/cluster", "/cluster/"])
def test_the_path(ending: str) -> None:
    with FakePatroni(member("it", "10.0.0.1", 5432)) as patroni:
        assert Clusters().find((patroni.url + ending,), PATIENCE) == (
            Member("it", Address("10.0.0.1", 5432), "replica"),
        )
        assert patroni.paths == ["/cluster"]


def _hang(write: Callable[[bytes], object], over: Event) -> None:
    over.wait(60)


def _drip(write: Callable[[bytes], object], over: Event) -> None:
    write(b"HTTP/1.0 200 OK\r\n\r\n")
    while not over.wait(0.05):
        with suppress(OSError):
            write(b" ")


def _flood(write: Callable[[bytes], object], over: Event) -> None:
    write(b"HTTP/1.0 200 OK\r\n\r\n")
    for _ in range(100 * LARGEST_ANSWER // 65536):
        write(b" " * 65536)


def _fail(write: Callable[[bytes], object], over: Event) -> None:
    write(b"HTTP/1.0 503 No\r\nContent-Length: 14\r\n\r\n" + b'{"members":[]}')


def _say(text: bytes) -> Callable[[Callable[[bytes], object], Event], None]:
    def answer(write: Callable[[bytes], object], over: Event) -> None:
        write(text)

    return answer


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (_hang, "timed out"),
        (_drip, "timed out"),
        (_flood, "more than 1048576 bytes"),
        (_fail, "status 503"),
        (_say(b"HTTP/1.0 200 OK\r\n\r\n<html>"), "it is no JSON"),
        (_say(b"SSH-2.0-x\r\n"), "SSH"),
        (_say(b""), "closed"),
    ],
)
def test_bad_answers(answer: Any, complaint: str) -> None:
    with FakePatroni() as patroni:
        patroni.answer = answer
        began = monotonic()
        with pytest.raises(ClusterUnknown, match=complaint):
            Clusters().find((patroni.url,), 1.0 if answer in (_hang, _drip) else PATIENCE)
        assert monotonic() - began < PATIENCE / 2


def test_the_first_good_answer_wins() -> None:
    with FakePatroni() as slow, FakePatroni() as bad, FakePatroni(member("it", "10.0.0.1", 5432)) as good:
        slow.answer, bad.answer = _hang, _fail
        urls = (f"http://127.0.0.1:{free_port()}", slow.url, bad.url, good.url)
        began = monotonic()
        assert [found.name for found in Clusters().find(urls, 2 * PATIENCE)] == ["it"]
        assert monotonic() - began < PATIENCE


def test_who_asks_meanwhile_or_a_moment_later_gets_the_same_answer() -> None:
    now = 0.0
    clusters = Clusters(lambda: now)
    go_on = Event()
    with FakePatroni() as patroni:

        def answer(write: Callable[[bytes], object], over: Event) -> None:
            go_on.wait(PATIENCE)
            write(b'HTTP/1.0 200 OK\r\n\r\n{"members": []}')

        patroni.answer = answer
        found: list[object] = []
        askers = [Thread(target=lambda: found.append(clusters.find((patroni.url,), PATIENCE))) for _ in range(5)]
        for asker in askers:
            asker.start()
        go_on.set()
        for asker in askers:
            asker.join(PATIENCE)
        assert found == [()] * 5
        now = 0.9
        clusters.find((patroni.url,), PATIENCE)
        assert len(patroni.paths) == 1
        now = 1.1
        clusters.find((patroni.url,), PATIENCE)
        assert len(patroni.paths) == 2


def test_that_nobody_answers_is_known_for_a_moment_too() -> None:
    now = 0.0
    clusters = Clusters(lambda: now)
    with FakePatroni(member("it", "10.0.0.1", 5432)) as patroni:
        patroni.answer = _fail
        for _ in range(2):
            with pytest.raises(ClusterUnknown):
                clusters.find((patroni.url,), PATIENCE)
        assert len(patroni.paths) == 1
        patroni.answer, now = None, 1.1
        assert len(clusters.find((patroni.url,), PATIENCE)) == 1
