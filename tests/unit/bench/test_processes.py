"""CPU time and memory out of /proc: fixed texts, and this process as the real thing."""

import os
import subprocess
import sys
import time

import pytest

from bench.macro.processes import (
    TICKS_PER_SECOND,
    ProcessGone,
    Stat,
    busy_seconds,
    family_of,
    parse_cpu_time,
    parse_stat,
    parse_status,
    usage,
)

STAT = "4242 (a ) (b) S 17 4242 4242 0 -1 4194560 900 11 0 0 {} {} {} {} 20 0 4 0 99 1000 50 18446744073709551615"


def test_stat_of_a_command_with_blanks_and_parentheses() -> None:
    tick = TICKS_PER_SECOND
    assert parse_stat(STAT.format(3 * tick, 5 * tick, 1 * tick, 2 * tick)) == Stat(17, 4.0, 7.0)


def test_status() -> None:
    text = "Name:\tx 3\nVmRSS:\t    5128 kB\nThreads:\t7\nvoluntary_ctxt_switches:\t12\nGroups:\t\n"
    assert parse_status(text) == {"VmRSS": 5128 * 1024, "Threads": 7, "voluntary_ctxt_switches": 12}


def test_cpu_time_counts_tasks_on_the_chosen_cpus_only() -> None:
    tick = TICKS_PER_SECOND
    lines = [f"cpu  {90 * tick} 0 0 0", f"cpu0 {tick} {2 * tick} {3 * tick} 999 9 9", f"cpu1 {5 * tick} 0 0 1"]
    text = "\n".join([*lines, "intr 8", "cpu10 7 7 7"])
    assert parse_cpu_time(text, frozenset({0})) == 6.0
    assert parse_cpu_time(text, frozenset({0, 1})) == 11.0


def test_usage_sees_what_a_child_burns() -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
    before = usage(os.getpid())
    busy = busy_seconds(frozenset(range(os.cpu_count() or 1)))
    with subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stdin
        child.stdout.readline()
        assert child.pid in family_of(os.getpid())
        during = usage(os.getpid())
        child.stdin.close()
    after = usage(os.getpid())
    slack = 3 / TICKS_PER_SECOND
    assert during.cpu - before.cpu >= 0.3 - slack
    assert during.resident > before.resident
    # The child has ended and been waited for; what it used has moved to its parent and is not lost.
    assert after.cpu >= during.cpu - slack
    assert busy_seconds(frozenset(range(os.cpu_count() or 1))) - busy >= 0.3 - slack


def test_switches_of_all_threads_are_counted() -> None:
    before = usage(os.getpid())
    for _ in range(20):
        time.sleep(0.001)
    assert usage(os.getpid()).voluntary - before.voluntary >= 20


def test_usage_of_a_process_that_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    with pytest.raises(ProcessGone):
        usage(child.pid)
