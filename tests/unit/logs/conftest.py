"""A file that lines are written to."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def file(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """Its path and a descriptor to append by."""
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    yield path, descriptor
    os.close(descriptor)
