"""Who runs what when several workers run the tests: the names in tests.support.schedule are those of tests that exist."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.schedule import ALONE, LONGEST_FIRST, PARTS, rank_of, unit_of

ROOT = Path(__file__).parents[2]
ORACLE = "tests/integration/test_order_oracle.py"


def test_the_files_exist() -> None:
    names = [*LONGEST_FIRST, *PARTS, *(name.partition("::")[0] for name in ALONE)]
    assert not [name for name in names if not (ROOT / name).exists()]
    assert len(set(LONGEST_FIRST)) == len(LONGEST_FIRST)


def test_a_file_is_one_unit() -> None:
    assert unit_of("tests/unit/test_a.py::test_one[x]") == unit_of("tests/unit/test_a.py::test_two")
    assert unit_of("tests/unit/test_a.py::test_one") != unit_of("tests/unit/test_b.py::test_one")


def test_the_order_oracle_is_cut_by_what_it_starts() -> None:
    fixed = f"{ORACLE}::test_fixed_order[a name - of one kind-"
    drawn = f"{ORACLE}::test_random_orders["
    assert unit_of(f"{fixed}one]") == unit_of(f"{ORACLE}::test_fixed_order[another-one]")
    assert unit_of(f"{drawn}protocol-0-one-tiny]") == unit_of(f"{drawn}protocol-12-one-tiny]")
    names = [f"{fixed}one]", f"{fixed}one-tiny]", f"{drawn}protocol-0-one-tiny]", f"{drawn}movable-0-one-tiny]"]
    assert len({unit_of(name) for name in (*names, f"{ORACLE}::test_orders_are_distinct")}) == len(names) + 1


def test_long_ones_first_and_those_that_are_alone_last() -> None:
    others = [f"{LONGEST_FIRST[0]}::test", f"{LONGEST_FIRST[-1]}::test", "tests/unit/test_a.py::test"]
    ranks = [rank_of(name) for name in (*others, f"{ALONE[0]}test_c.py::test")]
    assert ranks == sorted(set(ranks))
    assert unit_of(f"{ALONE[0]}test_c.py::test") == unit_of(f"{ALONE[0]}test_d.py::test")


@pytest.mark.parametrize("option", ["-k", "-m"])
def test_an_expression_that_is_none_is_told_in_one_line(option: str) -> None:
    """By the one who hands out the work: a worker that ends with tests left to do looks like a crash."""
    command = [sys.executable, "-X", "gil=0", "-m", "pytest", "-q", "-n", "2", option, "and (", __file__]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: {option} 'and ('" in ended.stderr
    assert "INTERNALERROR" not in ended.stdout + ended.stderr
