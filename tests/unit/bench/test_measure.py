"""Costs per transaction, out of progress lines and samples."""

import pytest

from bench.macro.measure import steady_costs
from bench.macro.pgbench import Progress
from bench.macro.processes import Usage


def test_costs_are_those_between_the_first_and_the_last_line() -> None:
    progress = [Progress(10.0, 1.0, 7.0), Progress(11.0, 2.0, 1000.0), Progress(12.5, 3.5, 2000.0)]
    samples = [
        Usage(10.01, 5.0, 5.0, 100, 10, 0, 1),
        Usage(11.01, 5.5, 6.0, 999, 99, 0, 1),
        Usage(12.51, 5.04, 5.08, 4100, 210, 0, 1),
    ]
    costs = steady_costs(progress, samples, 5)
    assert costs is not None
    # 1 s at 1000 and 1.5 s at 2000 make 4000 transactions.
    assert costs.user == pytest.approx(10.0)
    assert costs.system == pytest.approx(20.0)
    assert costs.cpu == pytest.approx(30.0)
    assert costs.voluntary == 1.0
    assert costs.involuntary == 0.05


def test_one_line_gives_no_costs() -> None:
    assert steady_costs([Progress(1.0, 1.0, 5.0)], [Usage(1.0, 0.0, 0.0, 0, 0, 0, 1)], 5) is None


def test_a_standstill_gives_no_costs() -> None:
    samples = [Usage(1.0, 0.0, 0.0, 0, 0, 0, 1), Usage(2.0, 0.0, 0.0, 0, 0, 0, 1)]
    assert steady_costs([Progress(1.0, 1.0, 5.0), Progress(2.0, 2.0, 0.0)], samples, 5) is None


def test_a_sample_that_came_late_is_left_out() -> None:
    progress = [Progress(1.0, 1.0, 9.0), Progress(2.0, 2.0, 1000.0), Progress(3.0, 3.0, 2000.0)]
    samples = [Usage(at, cpu, 0.0, 0, 0, 0, 1) for at, cpu in ((1.0, 0.0), (2.9, 9.0), (3.0, 0.04))]
    costs = steady_costs(progress, samples, 5)
    assert costs is not None
    assert costs.user == pytest.approx(10.0)  # two seconds at the rate of the line that ends them


def test_the_line_at_the_end_of_the_run_is_left_out() -> None:
    progress = [Progress(1.0, 1.0, 9.0), Progress(2.0, 2.0, 1000.0), Progress(3.0, 3.0, 500.0)]
    samples = [Usage(at, cpu, 0.0, 0, 0, 0, 1) for at, cpu in ((1.0, 0.0), (2.0, 0.03), (3.0, 9.0))]
    costs = steady_costs(progress, samples, 3)
    assert costs is not None
    assert costs.user == pytest.approx(30.0)
