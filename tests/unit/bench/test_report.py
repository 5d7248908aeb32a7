"""The benchmark's tables."""

import json

from bench.macro.figures import Latency
from bench.macro.measure import LoadResult, PerTransaction
from bench.macro.report import Results, as_json, load_table, ratio_lines, step_table, summary, table


def run(tps: float, cpu: float, p99: float = 2.0, foreign: float = 0.0) -> LoadResult:
    own = PerTransaction(cpu / 4, cpu * 3 / 4, 0.5, 0.01)
    return LoadResult(tps, 1000, Latency(100, 1.0, 1.5, p99, 9.0), own, 20_000_000, 3, foreign)


def test_table_is_markdown_with_aligned_columns() -> None:
    assert table(("a", "bb"), [["long", "1"]]).splitlines() == ["| a    | bb |", "| ---- | -: |", "| long |  1 |"]


def test_ratios_are_of_the_first_to_each_other() -> None:
    measured = {"ours": {0: run(100, 20), 1: run(50, 30)}, "theirs": {0: run(200, 10), 1: run(100, 15)}, "broken": {}}
    assert ratio_lines(measured) == ["ours to theirs: tps x0.50, CPU x2.00, p50 x1.00, p99 x1.00"]


def test_disturbed_runs_are_marked() -> None:
    text = load_table({"quiet": {0: run(100, 20, foreign=0.01)}, "busy": {0: run(100, 20, foreign=0.3)}})
    quiet, busy = text.splitlines()[2:]
    assert "1 % |" in quiet
    assert "30 % ! |" in busy


def test_steps_are_shares_of_the_peak_and_tails() -> None:
    text = step_table({1.0: {"ours": {0: run(200, 20)}}, 10.0: {"ours": {0: run(150, 20, p99=3.0)}}})
    cells = [cell.strip() for cell in text.splitlines()[-1].split("|")]
    assert cells[1:9] == ["ours", "10", "150", "75 %", "1.00", "3.00", "3.00", "20.0"]


def test_summary_has_a_column_for_each_target_and_a_dash_for_what_failed() -> None:
    results = Results(targets={"ours": "1", "theirs": "2"})
    results.loads["simple", 40] = {"ours": {0: run(12345, 20)}, "theirs": {}}
    last = summary(results).splitlines()[-1].split("|")
    assert [cell.strip() for cell in last] == ["", "40, simple", "12,345 / 20.0", "-", ""]


def test_json_holds_every_round() -> None:
    results = Results(targets={"ours": "1"})
    results.loads["simple", 40] = {"ours": {0: run(1, 2), 1: run(3, 4)}}
    loads = json.loads(as_json(results, frozenset({0}), "17"))["loads"]
    assert [(one["round"], one["tps"], one["latency"]["p99"]) for one in loads] == [(0, 1, 2.0), (1, 3, 2.0)]
