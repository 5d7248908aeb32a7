"""Sessions on several workers with too few backends: they wait, move, leave, are cancelled and dismissed, and every answer
belongs to its question."""

import random
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import Barrier, Event, Thread
from time import monotonic, sleep
from typing import Any, Final

import pytest

from pgdoorman.backend.connection import next_number
from pgdoorman.client.budget import Budget
from pgdoorman.client.cancel_keys import CancelKeys
from pgdoorman.client.services import Services
from pgdoorman.client.session import Session
from pgdoorman.errors import ShuttingDown
from pgdoorman.protocol.results import ready_for_query
from pgdoorman.transport.peer import Peer
from tests.support.postgres import Postgres
from tests.support.wire import HungUp, Outstanding, Wire, bind, describe_statement, execute, parse, query, sync
from tests.unit.pool.hall import Hall, settings_for

PATIENCE: Final = 20.0


class House:
    """A hall with sessions in it."""

    def __init__(self, hall: Hall) -> None:
        self.hall = hall
        self.ended: list[Session] = []
        self.services = Services(hall.helpers, CancelKeys(), Budget(1 << 24), self.ended.append, lambda *_: hall.pool)
        self.told = hall.lease().reported
        hall.give_back(hall.leases[0])

    def welcome(self, index: int) -> tuple[Session, Wire]:
        """A client that is logged in, at this worker."""
        ours, theirs = socket.socketpair()
        session = Session(
            next_number(), ours, Peer("unix", 0, is_unix=True), self.hall.pool, self.services, told=self.told
        )
        worker = self.hall.workers[index]
        assert worker.post(partial(session.begin_serving, worker, ready_for_query()))
        theirs.settimeout(PATIENCE)
        wire = Wire(theirs, PATIENCE)
        wire.receive_bytes(len(ready_for_query()))
        return session, wire


def numbers(wire: Wire, *requests: Any) -> list[str]:
    """The first column of every row that came, and what failed."""
    found = []
    for reply in wire.ask(*requests):
        if reply.kind == "D":
            found.append((reply.columns()[0] or b"").decode())
        elif reply.kind == "E":
            found.append(f"{reply.fields()['C']} {reply.fields()['M']}")
    return found


def simple(wire: Wire, token: int, draw: random.Random) -> None:
    assert numbers(wire, query(f"select {token}")) == [str(token)]


def pipelined(wire: Wire, token: int, draw: random.Random) -> None:
    count = draw.randint(2, 5)
    sent = [query(f"select {token + number}") for number in range(count)]
    assert numbers(wire, *sent) == [str(token + number) for number in range(count)]


def block(wire: Wire, token: int, draw: random.Random) -> None:
    assert numbers(wire, query("begin")) == []
    assert numbers(wire, query(f"select {token}")) == [str(token)]
    assert numbers(wire, query(draw.choice(["commit", "rollback"]))) == []


def extended(wire: Wire, token: int, draw: random.Random) -> None:
    asked = [parse("", "select $1::int"), bind("", "", [str(token)]), execute(), sync()]
    assert numbers(wire, *asked) == [str(token)]


def named(wire: Wire, token: int, draw: random.Random) -> None:
    name = f"s{token % 3}"
    if numbers(wire, bind("", name, [str(token)]), execute(), sync()) == [str(token)]:
        return
    wire.ask(parse(name, "select double($1) / 2"), describe_statement(name), sync())
    assert numbers(wire, bind("", name, [str(token)]), execute(), sync()) == [str(token)]


def failing(wire: Wire, token: int, draw: random.Random) -> None:
    (error,) = numbers(wire, query(f"select {token} / 0"))
    assert error.startswith("22012")
    assert numbers(wire, parse("", "nonsense"), bind(), sync(), query(f"select {token}"))[1:] == [str(token)]


def with_settings(wire: Wire, token: int, draw: random.Random) -> None:
    kilobytes = 65 + token % 400 * 2  # odd, or it would be shown in other units
    wire.run(f"set work_mem = {kilobytes}")
    assert numbers(wire, query("show work_mem")) == [f"{kilobytes}kB"]


def large(wire: Wire, token: int, draw: random.Random) -> None:
    (found,) = numbers(wire, query(f"select {token} || repeat('x', 100000)"))
    assert found.startswith(f"{token}x")


DEEDS: Final[list[Callable[[Wire, int, random.Random], None]]] = [
    simple, simple, simple, simple, pipelined, block, extended, extended, named, named, failing, with_settings, large,
]  # fmt: skip


def work(house: House, client: int, seed: int, until: float) -> int:
    """One client's life, and its next ones. Returns how much it did."""
    draw = random.Random(seed * 1000 + client)
    done = 0
    while monotonic() < until:
        _session, wire = house.welcome(draw.randrange(len(house.hall.workers)))
        with wire.sock:
            for _ in range(draw.randint(1, 40)):
                if monotonic() > until:
                    break
                done += 1
                draw.choice(DEEDS)(wire, client * 1_000_000 + done, draw)
                if draw.random() < 0.1:
                    sleep(draw.random() / 1000)
            # Some leave in the middle of things, some while they wait.
            if draw.random() < 0.5:
                wire.send(
                    draw.choice(
                        [
                            query("select pg_sleep(0.001)"),
                            query("begin"),
                            parse("", "select 1"),
                            query("set work_mem = 77"),
                        ]
                    )
                )
            if draw.random() < 0.3:
                sleep(draw.random() / 2000)
    return done


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(("backends", "clients"), [(1, 6), (3, 12)])
def test_every_answer_belongs_to_its_question(postgres: Postgres, backends: int, clients: int, seed: int) -> None:
    settings = settings_for(postgres, pool_size=backends, pool__query_wait_timeout="15s")
    with Hall(settings, workers=3) as hall:
        house = House(hall)
        barrier = Barrier(clients)
        errors: list[BaseException] = []
        done: list[int] = []
        until = monotonic() + 1.5

        def run(client: int) -> None:
            barrier.wait(PATIENCE)
            try:
                done.append(work(house, client, seed, until))
            except BaseException as error:  # noqa: BLE001 - shown below
                errors.append(error)

        threads = [Thread(target=run, args=(client,), daemon=True) for client in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert not errors, f"seed {seed}: {errors[0]!r}"
        assert not any(thread.is_alive() for thread in threads), f"seed {seed}: somebody was forgotten: {hall.counts}"
        assert sum(done) > clients
        hall.wait_for(lambda counts: counts.leased == counts.examined == counts.waiting == 0)
        assert hall.counts.total <= backends


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_dismissing_cancelling_and_expelling_among_those_who_wait(postgres: Postgres, seed: int) -> None:
    """From other threads, at any moment, wherever the session happens to be at home by then."""
    with Hall(settings_for(postgres, pool_size=1), workers=3) as hall:
        house = House(hall)
        until = monotonic() + 1.2
        errors: list[BaseException] = []
        sessions: list[Session | None] = [None] * 8

        def live(client: int) -> None:
            draw = random.Random(seed * 100 + client)
            try:
                while monotonic() < until:
                    session, wire = house.welcome(draw.randrange(3))
                    sessions[client] = session
                    with wire.sock, suppress(HungUp):
                        while monotonic() < until:
                            token = draw.randrange(10**6)
                            wire.outstanding = Outstanding()
                            answer = numbers(wire, query(f"select {token}"))
                            assert answer in ([str(token)], ["57014 canceling statement due to user request"])
            except BaseException as error:  # noqa: BLE001 - shown below
                errors.append(error)

        def disturb() -> None:
            draw = random.Random(seed)
            while monotonic() < until:
                session = sessions[draw.randrange(8)]
                if session is None:
                    continue
                match draw.randrange(8):
                    case 0:
                        session.worker.post(partial(session.dismiss, ShuttingDown("go away")))
                    case 1:
                        session.worker.post(partial(session.expel, ShuttingDown("go away")))
                    case _:
                        delivered = Event()
                        session.worker.post(partial(session.cancel, delivered.set))
                sleep(draw.random() / 1000)

        threads = [Thread(target=live, args=(client,), daemon=True) for client in range(8)]
        threads.append(Thread(target=disturb, daemon=True))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert not errors, f"seed {seed}: {errors[0]!r}"
        assert not any(thread.is_alive() for thread in threads), f"seed {seed}: {hall.counts}"
        hall.wait_for(lambda counts: counts.leased == counts.examined == counts.waiting == 0)
    assert len(house.ended) == len(set(house.ended)), "ended twice"
