"""Any message order gets the answers that PostgreSQL itself gives.

Fixed orders first (tests/integration/orders.py), then random ones from a seed. `PGDOORMAN_ORACLE_BATCHES=100000` makes
a long run, `PGDOORMAN_ORACLE_SEED` another one (`python -m tests.support.oracle` a very long one); a failure prints the
seed, the smallest conversation found that still fails, and both answer streams as a diff.
"""

import os
from collections.abc import Iterator
from typing import Final

import pytest

from tests.integration.conftest import StartDoorman
from tests.integration.orders import EVERY_ORDER, Order
from tests.support.conversations import TURNS_A_SCENARIO
from tests.support.oracle import PARTS, SETTINGS, Part, Stands, make_twins
from tests.support.postgres import Postgres
from tests.support.scenario import as_code
from tests.support.wire import copy_data, copy_done, copy_fail, function_call, query, sync

BATCHES: Final = int(os.environ.get("PGDOORMAN_ORACLE_BATCHES", "10000"))
SEED: Final = int(os.environ.get("PGDOORMAN_ORACLE_SEED", "20260"))

BATCHES_A_TEST: Final = 1000


@pytest.fixture(scope="module")
def stands(postgres: Postgres, start_module_doorman: StartDoorman) -> Iterator[Stands]:
    opened = Stands(postgres, make_twins(postgres), start_module_doorman)
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
def test_fixed_order(stands: Stands, order: Order, setting: str) -> None:
    """Each rule of the protocol, and each order that has broken a pooler before."""
    if order.name in UNCERTAIN_IN_PIECES and SETTINGS[setting].split:
        pytest.skip("what PostgreSQL says last may be lost")
    if not _fair(setting, order):
        pytest.skip("state that cannot move needs a backend for each client")
    doorman, oracle = stands.oracle(setting)
    difference = oracle.try_scenario(order.turns, order.startups)
    if difference is not None:
        oracle.end_pooled_backends()
        tail = doorman.log_tail()
        pytest.fail(f"\n{difference.report()}\n\nend of the pooler's log ({setting}):\n{tail}", pytrace=False)
    doorman.check_alive()


def _runs() -> Iterator[object]:
    """(part, first scenario, scenarios), each short enough to be one test; the setting ends its name."""
    for part in PARTS:
        scenarios = max(1, round(BATCHES * part.share / TURNS_A_SCENARIO))
        runs = max(1, round(BATCHES * part.share / BATCHES_A_TEST))
        bounds = [scenarios * number // runs for number in range(runs + 1)]
        for number in range(runs):
            first, end = bounds[number], bounds[number + 1]
            yield pytest.param(part, first, end - first, id=f"{part.profile}-{number}-{part.setting}")


@pytest.mark.timeout(120 + BATCHES_A_TEST)
@pytest.mark.parametrize(("part", "first", "scenarios"), tuple(_runs()))
def test_random_orders(stands: Stands, part: Part, first: int, scenarios: int) -> None:
    """Random batches of three clients get the answers that PostgreSQL gives."""
    doorman, oracle = stands.oracle(part.setting)
    finding = oracle.hunt(SEED, part.profile, first, scenarios)
    if finding is not None:
        oracle.end_pooled_backends()
        pytest.fail(f"{finding.report(part.setting)}\n\nend of the pooler's log:\n{doorman.log_tail()}", pytrace=False)
    doorman.check_alive()


BAD_COPY: Final = (query("copy c0.t from stdin"), copy_data("bad\n"), sync(), copy_fail(), sync())
SYNCS_IN_A_COPY: Final = {
    "a copy that fails": (*BAD_COPY, query("rollback"), query("select 1")),
    "a block's copy": (
        query("begin"),
        *BAD_COPY,
        function_call(1397, [b"\0\0\0\1"]),
        query("rollback"),
        query("select 1"),
    ),
    "two copies": (query("copy c0.t from stdin; copy c0.t from stdin"), copy_done(), sync(), copy_fail(), sync()),
}


@pytest.mark.parametrize("case", SYNCS_IN_A_COPY)
def test_syncs_among_the_data_of_a_copy(stands: Stands, postgres: Postgres, case: str) -> None:
    """Whether the server ignores or answers them is seen when the next thing is answered."""
    doorman, _ = stands.oracle("one")
    (database,) = doorman.pools
    heard = []
    for connect in (postgres.connect, doorman.connect):
        with connect(database, "alice") as wire:
            wire.send_bytes(b"".join(request.data for request in SYNCS_IN_A_COPY[case]))
            wire.send(query("select 'the end'"))
            replies = wire.receive_until("D")
            while b"the end" not in replies[-1].body:
                replies += wire.receive_until("D")
            heard.append([repr(reply) for reply in (*replies, *wire.receive_until("Z"))])
    assert heard[0] == heard[1]


def test_orders_are_distinct() -> None:
    names = [order.name for order in EVERY_ORDER]
    assert len(set(names)) == len(names)
    assert all(as_code(order.turns) for order in EVERY_ORDER)
