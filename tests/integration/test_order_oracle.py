"""Any message order gets the answers that PostgreSQL itself gives.

Fixed orders first (tests/integration/orders.py), then random ones from a seed. `PGDOORMAN_ORACLE_BATCHES=1000000` makes
a long run, `PGDOORMAN_ORACLE_SEED` another one; a failure prints the seed, the smallest conversation found that still
fails, and both answer streams as a diff.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import pytest

from tests.integration.conftest import StartDoorman
from tests.integration.orders import EVERY_ORDER, Order
from tests.support.doorman import Doorman, pool, user
from tests.support.oracle import CLIENTS, POOLED, TURNS_A_SCENARIO, Oracle, prepare
from tests.support.postgres import Postgres
from tests.support.scenario import as_code
from tests.support.splitter import Splitter
from tests.support.wire import Wire

BATCHES: Final = int(os.environ.get("PGDOORMAN_ORACLE_BATCHES", "600"))
SEED: Final = int(os.environ.get("PGDOORMAN_ORACLE_SEED", "20260"))

PIECES: Final = (1, 1, 2, 3, 5, 40)

TINY_CACHES: Final = {
    "prepared_statements_cache_size": 2,
    "server_prepared_statements_cache_size": 2,
    "client_anonymous_prepared_cache_size": 2,
}


@dataclass(frozen=True, slots=True)
class Setting:
    """A way to run the pooler that must not show in any answer."""

    pool_mode: str
    backends: int
    tiny: bool
    split: bool = False  # every message is cut into pieces of a few bytes, on both sides


# Transaction pools of one or four backends, with caches so small that every use evicts, and a session pool.
SETTINGS: Final = {
    "one-tiny": Setting("transaction", 1, True),
    "four-tiny": Setting("transaction", 4, True),
    "one": Setting("transaction", 1, False),
    "session": Setting("session", CLIENTS + 1, False),
    "split": Setting("transaction", 4, True, split=True),
}


@pytest.fixture(scope="module")
def twins(postgres: Postgres) -> Postgres:
    """The server with the twin databases."""
    prepare(lambda database: postgres.connect(database, "alice"))
    return postgres


class Poolers:
    """One pooler per setting, started when first needed, started anew if it has died."""

    def __init__(self, server: Postgres, start: StartDoorman) -> None:
        self._server = server
        self._start = start
        self._running: dict[str, tuple[Doorman, Oracle]] = {}
        self._splitters = contextlib.ExitStack()

    def oracle(self, name: str) -> tuple[Doorman, Oracle]:
        if name not in self._running or not self._running[name][0].is_running:
            self._running[name] = self._open(SETTINGS[name])
        return self._running[name]

    def close(self) -> None:
        for _, oracle in self._running.values():
            oracle.close()
        self._splitters.close()

    def _open(self, setting: Setting) -> tuple[Doorman, Oracle]:
        server = self._server
        behind = (server.host, server.port)
        if setting.split:
            splitter = self._splitters.enter_context(Splitter(*behind, sizes=PIECES))
            behind = (splitter.host, splitter.port)
        doorman = self._start(
            # The application_name of the clients, so that what RESET ALL goes back to is the same on both sides.
            pools={
                POOLED: pool(
                    behind,
                    user("alice", pool_size=setting.backends),
                    pool_mode=setting.pool_mode,
                    application_name="same",
                )
            },
            general={"query_wait_timeout": "8s", **(TINY_CACHES if setting.tiny else {})},
        )

        def direct(database: str, parameters: Mapping[str, str]) -> Wire:
            return server.connect(database, "alice", parameters=parameters)

        front = doorman.port
        if setting.split:
            front = self._splitters.enter_context(Splitter(doorman.host, front, sizes=PIECES, seed=2)).port

        def pooled(parameters: Mapping[str, str]) -> Wire:
            if not setting.split:
                return doorman.connect(POOLED, "alice", parameters=parameters)
            return Wire.connect(doorman.host, front, user="alice", database=POOLED, parameters=parameters)

        return doorman, Oracle(direct, pooled, witness=doorman.state)


@pytest.fixture(scope="module")
def poolers(twins: Postgres, start_module_doorman: StartDoorman) -> Iterator[Poolers]:
    opened = Poolers(twins, start_module_doorman)
    yield opened
    opened.close()


def _fair(setting: str, order: Order) -> bool:
    return SETTINGS[setting].backends > order.clients or not order.pins


# PostgreSQL closes the connection while there is more to read, and the reset may overtake its last words. In one piece it has
# read all there is.
UNCERTAIN_IN_PIECES: Final = (
    "an extended message while a copy waits for data",
    "a query while a copy waits for data",
    "a message in a copy whose name is not certain yet",
    "a name that is no text while a copy waits for data",
)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("order", EVERY_ORDER, ids=str)
def test_fixed_order(poolers: Poolers, order: Order, setting: str) -> None:
    """Each rule of the protocol, and each order that has broken a pooler before."""
    if order.name in UNCERTAIN_IN_PIECES and SETTINGS[setting].split:
        pytest.skip("what PostgreSQL says last may be lost")
    if not _fair(setting, order):
        pytest.skip("state that cannot move needs a backend for each client")
    doorman, oracle = poolers.oracle(setting)
    difference = oracle.try_scenario(order.turns, order.startups)
    if difference is not None:
        oracle.end_pooled_backends()
        tail = doorman.log_tail()
        pytest.fail(f"\n{difference.report()}\n\nend of the pooler's log ({setting}):\n{tail}", pytrace=False)
    doorman.check_alive()


@pytest.mark.timeout(120 + BATCHES * 2)
@pytest.mark.parametrize(
    ("setting", "profile", "share"),
    [
        ("one-tiny", "protocol", 0.3),
        ("one-tiny", "movable", 0.3),
        ("four-tiny", "pinning", 0.2),
        ("session", "pinning", 0.1),
        ("split", "protocol", 0.1),
    ],
)
def test_random_orders(poolers: Poolers, setting: str, profile: str, share: float) -> None:
    """Random batches of three clients get the answers that PostgreSQL gives."""
    doorman, oracle = poolers.oracle(setting)
    scenarios = max(1, round(BATCHES * share / TURNS_A_SCENARIO))
    finding = oracle.hunt(SEED, profile, 0, scenarios)
    if finding is not None:
        oracle.end_pooled_backends()
        tail = doorman.log_tail()
        pytest.fail(f"{finding.report()}\n\nend of the pooler's log ({setting}):\n{tail}", pytrace=False)
    doorman.check_alive()


def test_orders_are_distinct() -> None:
    names = [order.name for order in EVERY_ORDER]
    assert len(set(names)) == len(names)
    assert all(as_code(order.turns) for order in EVERY_ORDER)
