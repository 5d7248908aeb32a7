"""What holds for every test: the GIL is off, and generated examples are not judged by the clock."""

import os
import platform
import shlex
import sys
import threading
from typing import Any

import pytest
import pytest_timeout
from _pytest.mark.expression import Expression
from hypothesis import settings

from tests.support.schedule import Schedule, rank_of

# A busy machine must not turn a slow example into a failure. CI draws the same examples each time: a commit is not to
# fail for what another one broke; the search for new ones goes on at the developers' desks.
settings.register_profile("desk", deadline=None, print_blob=True)
settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "desk")


def pytest_configure(config: pytest.Config) -> None:
    if sys._is_gil_enabled():  # there is no public way to ask
        raise pytest.UsageError(
            "the tests are for an interpreter without the GIL: make test, or .venv/bin/python -X gil=0"
        )
    # Here, where it can be said plainly: workers that find it out each end on their own, with tests left to do.
    for option, expression in (("-k", config.option.keyword), ("-m", config.option.markexpr)):
        try:
            Expression.compile(expression)
        except SyntaxError as error:
            raise pytest.UsageError(f"{option} {expression!r}, column {error.offset}: {error.msg}") from None


def pytest_report_header() -> str:
    return f"{platform.python_implementation()} {platform.python_version()} without the GIL, {os.cpu_count()} cores"


# --- Several workers at a time: make test, or pytest -n 4


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config, specs: list[Any]) -> None:
    """Workers have a command line of their own: they, too, have to begin without the GIL."""
    for spec in specs:
        spec.python = shlex.join([sys.executable, "-X", "gil=0"])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Schedule:
    config.option.loadscopereorder = False  # the order is ours
    return Schedule(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if _is_worker(config):
        items.sort(key=lambda item: rank_of(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_timeout_set_timer(item: Any, settings: Any) -> bool | None:
    """A worker's standard output goes nowhere; the stacks of a test that hangs have to be seen nevertheless."""
    if not _is_worker(item.config):
        return None

    def end() -> None:
        item.config.get_terminal_writer()._file = sys.__stderr__
        pytest_timeout.timeout_timer(item, settings)

    timer = threading.Timer(settings.timeout, end)
    timer.name = "timeout"
    timer.daemon = True
    item.cancel_timeout = timer.cancel
    timer.start()
    return True
