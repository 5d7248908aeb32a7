"""Who asks for a reload hears how it ended, however it ended."""

from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from pgdoorman.control import Refused, ReloadOutcome
from pgdoorman.doorman.operator import Operator
from pgdoorman.errors import ConfigError
from pgdoorman.runtime.helpers import Helpers


class FakeHouse:
    """As much of a house as a reload needs."""

    def __init__(self, reload: Callable[[], ReloadOutcome]) -> None:
        self.reloader = Helpers(1, "reload")
        self.reload = reload


@pytest.fixture
def ask() -> Iterator[Callable[[Callable[[], ReloadOutcome]], Any]]:
    """Asks an operator's house, which reloads in the given way, and waits for the answer."""
    houses: list[FakeHouse] = []

    def make(reload: Callable[[], ReloadOutcome]) -> Any:
        houses.append(FakeHouse(reload))
        return Operator(cast(Any, houses[-1])).reload().wait_result(20.0)

    yield make
    for house in houses:
        house.reloader.close(20.0)


Ask = Callable[[Callable[[], ReloadOutcome]], Any]


def _fail(error: Exception) -> Callable[[], ReloadOutcome]:
    def reload() -> ReloadOutcome:
        raise error

    return reload


def test_well(ask: Ask) -> None:
    assert ask(lambda: ReloadOutcome(changed=("x",))).changed == ("x",)


def test_with_a_bad_file(ask: Ask) -> None:
    with pytest.raises(ConfigError, match="is wrong"):
        ask(_fail(ConfigError("is wrong", file="a.toml", line=1)))


def test_by_accident(ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Refused, match="failed in the middle"):
        ask(_fail(ValueError("an accident")))


def test_while_the_house_goes_down() -> None:
    house = FakeHouse(ReloadOutcome)
    house.reloader.close()
    with pytest.raises(Refused, match="shutting down"):
        Operator(cast(Any, house)).reload().wait_result(20.0)
