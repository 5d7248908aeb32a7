"""Somebody who signs."""

import pytest

from tests.support.certificates import Authority


@pytest.fixture(scope="package")
def authority() -> Authority:
    return Authority()
