"""What the benchmark reads out of pgbench."""

from pathlib import Path

import pytest

from bench.macro.families import FAMILIES
from bench.macro.options import Address
from bench.macro.pgbench import (
    Load,
    PgbenchFailed,
    Progress,
    Summary,
    command,
    parse_log,
    parse_progress,
    parse_summary,
)

CLOSING = """\
pgbench (17.10)
transaction type: script.sql
scaling factor: 1
query mode: simple
number of clients: 40
number of threads: 1
maximum number of tries: 1
duration: 3 s
number of transactions actually processed: 92355
number of failed transactions: {failed} (0.000%)
latency average = 1.298 ms
initial connection time = 31.025 ms
tps = 30790.870793 (without initial connection time)
"""


def test_summary() -> None:
    assert parse_summary(CLOSING.format(failed=0)) == Summary(30790.870793, 92355)


def test_failed_transactions_are_no_result() -> None:
    with pytest.raises(PgbenchFailed, match="3 transactions failed"):
        parse_summary(CLOSING.format(failed=3))


def test_summary_without_a_rate_is_no_result() -> None:
    with pytest.raises(PgbenchFailed, match="no result"):
        parse_summary("number of transactions actually processed: 0\n")


def test_progress() -> None:
    line = "progress: 2.0 s, 31234.5 tps, lat 1.280 ms stddev 0.520, 0 failed\n"
    assert parse_progress(line, 7.5) == Progress(7.5, 2.0, 31234.5)
    assert parse_progress('pgbench: error: client 3 aborted: "progress: 2.0 s, 1 tps"', 7.5) is None


def test_log_leaves_out_what_is_not_a_finished_transaction() -> None:
    lines = ["0 199 2241 0 1175850568 995598", "1 3 failed 0 1175850568 998079", "2 7 1500 0 1175850569 608", "3 8 77"]
    assert list(parse_log(lines)) == [2.241, 1.5]


@pytest.mark.parametrize(
    ("family", "wanted", "unwanted"),
    [
        ("simple", ["-M", "simple", "--sampling-rate=0.2"], ["-C"]),
        ("prepared", ["-M", "prepared"], ["-C"]),
        ("tls-reconnect", ["-C", "--sampling-rate=1.0"], []),
    ],
)
def test_command(family: str, wanted: list[str], unwanted: list[str]) -> None:
    line = command(Path("pgbench"), Address("::1", 6432), Load(FAMILIES[family], 7, 3), Path("s"), Path("l"))
    assert {"-j1", "-c7", "-T3", *wanted} <= set(line)
    assert not set(unwanted) & set(line)
    assert ("sslmode=require" in line[-1]) is family.startswith("tls")
