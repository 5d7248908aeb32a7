"""What was needed once is given back: by the pooler, and by its allocator."""

import contextlib
import random
import threading
import time
from pathlib import Path
from typing import Final

import pytest

from pgdoorman.cli.gil import NO_ARENAS
from tests.integration.conftest import StartDoorman
from tests.integration.watch import Watch
from tests.support.doorman import Doorman, pool, user
from tests.support.postgres import Postgres
from tests.support.process import wait_until
from tests.support.wire import (
    WireError,
    bind,
    close_statement,
    execute,
    flush,
    parse,
    query,
    sync,
)

MB: Final = 1_000_000
PATIENCE: Final = 60.0  # an otherwise idle machine takes three seconds


def _must_come_down(doorman: Doorman, limit: float, story: str) -> None:
    seen: list[int] = []

    def is_low() -> bool:
        seen.append(doorman.resident_bytes() // MB)
        return seen[-1] <= limit

    try:
        wait_until(is_low, PATIENCE, "memory comes back", pause=0.25)
    except AssertionError:
        pytest.fail(
            f"{story}: {seen[-1]} MB are resident, {limit:.0f} are allowed; by the quarter second: {seen[-40:]}"
        )


@pytest.mark.timeout(180)
def test_large_messages_are_given_back(start_doorman: StartDoorman, postgres: Postgres) -> None:
    """Clients, one after the other, with 40 MB each: prepared and closed, asked for plainly, and as a value."""
    watch = Watch(start_doorman(pools={"app": pool(postgres, user("alice", pool_size=2))}))
    doorman = watch.doorman
    text = "select 1 /*" + "z" * 40 * MB + "*/"
    for number in range(3):
        with doorman.connect(patience=60) as wire:
            wire.ask(parse("large", text), sync())
            wire.ask(close_statement("large"), sync())
        watch.must_serve(within=8.0)
        _must_come_down(
            doorman, watch.base.resident / MB + 60, f"client {number}"
        )  # the last text, until its turn comes
    with doorman.connect(patience=60) as wire:
        wire.run(text)
        assert wire.ask(parse("", "select length($1)"), bind("", "", ["z" * 40 * MB]), execute(), sync())
    watch.must_serve(within=8.0)
    _must_come_down(doorman, watch.base.resident / MB + 30, "all of it")


_FLOODS: Final = (
    (parse("", "select repeat('y', 500)").data + bind().data + execute().data + sync().data) * 300,
    (parse("", "select repeat('y', 500)").data + bind().data + execute().data + flush().data) * 300,
    query("begin;" + "select 1;" * 20_000).data * 5,
    (parse("", "select 1").data + sync().data) * 2000,
    query("select 1 /*" + "z" * 8 * MB + "*/").data,
)


@pytest.mark.timeout(240)
def test_floods_do_not_pile_up(start_doorman: StartDoorman, postgres: Postgres) -> None:
    """Clients that send and send, read nothing and vanish: what they leave behind after the last is no more than after the
    first dozen."""
    watch = Watch(
        start_doorman(pools={"app": pool(postgres, user("alice", pool_size=4))}, general={"worker_threads": 4})
    )
    doorman = watch.doorman

    def send_and_vanish(number: int) -> None:
        chance = random.Random(number)
        for _ in range(3):
            with contextlib.suppress(OSError, WireError):
                wire = doorman.connect(patience=60)
                wire.sock.settimeout(0.3)
                end = time.monotonic() + 0.6
                with contextlib.suppress(OSError):
                    while time.monotonic() < end:
                        wire.sock.send(chance.choice(_FLOODS))
                wire.reset()

    def storm(seed: int) -> None:
        threads = [threading.Thread(target=send_and_vanish, args=(seed + number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(100)

    storm(0)
    watch.must_serve(within=8.0).must_be_clean()
    time.sleep(3.0)  # what will be given back is
    warm = doorman.resident_bytes() / MB
    for seed in (10, 20, 30):
        storm(seed)
    watch.must_serve(within=8.0).must_be_clean().must_rest()
    _must_come_down(doorman, max(warm, watch.base.resident / MB + 80) + 40, f"{warm:.0f} MB after the first")


@pytest.mark.parametrize(("given", "wanted"), [(None, "0"), ("1024", "1024")])
def test_the_program_starts_itself_with_the_allocators_setting(
    start_doorman: StartDoorman, postgres: Postgres, given: str | None, wanted: str
) -> None:
    """The harness makes it for the others; an owner's own value stays."""
    doorman = start_doorman(pools={"app": pool(postgres, user("alice"))}, environment={NO_ARENAS: given})
    variables = Path(f"/proc/{doorman.process.process_id}/environ").read_bytes().split(b"\0")
    assert f"{NO_ARENAS}={wanted}".encode() in variables
