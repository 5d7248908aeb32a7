"""What holds for every test: the GIL is off, and generated examples are not judged by the clock."""

import os
import platform
import sys

import pytest
from hypothesis import settings

# A busy machine must not turn a slow example into a failure. CI draws the same examples each time: a commit is not to
# fail for what another one broke; the search for new ones goes on at the developers' desks.
settings.register_profile("desk", deadline=None, print_blob=True)
settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "desk")


def pytest_configure() -> None:
    if sys._is_gil_enabled():  # there is no public way to ask
        raise pytest.UsageError(
            "the tests are for an interpreter without the GIL: make test, or .venv/bin/python -X gil=0"
        )


def pytest_report_header() -> str:
    return f"{platform.python_implementation()} {platform.python_version()} without the GIL, {os.cpu_count()} cores"
