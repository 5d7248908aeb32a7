"""Stacks out of perf, and what they are counted as."""

from bench.macro.profile import Frame, Profile, parse_stacks, python_functions, system_call, text_of

SCRIPT = """\
   25539
\tffffffff82203249 _raw_spin_unlock_irqrestore ([kernel.kallsyms])
\tffffffff81e314b0 __x64_sys_sendto ([kernel.kallsyms])
\t          10aba4 __libc_send (/usr/lib/libc.so.6)
\t    7f15cfb743e5 py::Client.on_ready:/somewhere/client/serving.py (/tmp/perf-1.map)
\t    7f15cfb74445 py::Worker.run:/somewhere/runtime/worker.py (/tmp/perf-1.map)

   25538
\t           88756 _PyEval_EvalFrameDefault (/usr/bin/python3.13t)
\t    7f15cfb74445 py::Worker.run:/somewhere/runtime/worker.py (/tmp/perf-1.map)

   25538
\tffffffff82203249 asm_exc_page_fault ([kernel.kallsyms])
"""


def test_stacks() -> None:
    stacks = list(parse_stacks(SCRIPT.splitlines()))
    assert [len(stack) for stack in stacks] == [5, 2, 1]
    assert stacks[0][2] == Frame("__libc_send", "/usr/lib/libc.so.6")
    assert [system_call(stack) for stack in stacks] == ["sendto", None, "(other)"]
    assert python_functions(stacks[0]) == ["client/serving.py Client.on_ready", "runtime/worker.py Worker.run"]


def test_profile() -> None:
    profile = Profile()
    for stack in parse_stacks(SCRIPT.splitlines()):
        profile.add(stack)
    assert (profile.total, profile.kernel) == (3, 2)
    assert profile.c_functions == {"python3.13t _PyEval_EvalFrameDefault": 1}
    assert profile.python_user == {"runtime/worker.py Worker.run": 1}
    assert profile.call_sites["sendto in client/serving.py Client.on_ready"] == 1
    assert profile.python_inclusive["runtime/worker.py Worker.run"] == 2
    text = text_of(profile, 30.0, 5)
    assert "user 10.00 us, system 20.00 us" in text
    assert "    20.00  runtime/worker.py Worker.run" in text
