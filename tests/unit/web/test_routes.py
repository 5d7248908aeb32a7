"""What is answered at which path."""

from http import HTTPStatus

import pytest

from pgdoorman.control import HouseState
from pgdoorman.web.messages import Request, Response
from pgdoorman.web.routes import Routes
from tests.support.control import House


class Going(House):
    """A house in a given state."""

    def __init__(self, present: HouseState) -> None:
        super().__init__()
        self.present = present

    def state(self) -> HouseState:
        return self.present


def _get(path: str, state: HouseState | None = None, method: str = "GET") -> Response:
    return Routes(Going(state or HouseState())).answer(Request(method, path))


@pytest.mark.parametrize("path", ["/metrics", "/livez", "/readyz"])
def test_paths(path: str) -> None:
    assert _get(path).status is HTTPStatus.OK
    assert _get(path, method="HEAD").status is HTTPStatus.OK
    refused = _get(path, method="POST")
    assert refused.status is HTTPStatus.METHOD_NOT_ALLOWED
    assert refused.headers == (("Allow", "GET, HEAD"),)


@pytest.mark.parametrize("path", ["/", "/metrics/", "/api/pools", "/livez/x"])
def test_other_paths(path: str) -> None:
    response = _get(path)
    assert response.status is HTTPStatus.NOT_FOUND
    assert b"/metrics, /livez, /readyz" in response.body


@pytest.mark.parametrize(
    ("state", "alive", "ready"),
    [
        (HouseState(), 200, 200),
        (HouseState(paused=True), 200, 200),
        (HouseState(draining=True), 200, 503),
        (HouseState(upgrading=True), 200, 503),
    ],
)
def test_probes(state: HouseState, alive: int, ready: int) -> None:
    assert _get("/livez", state).status == alive
    assert _get("/readyz", state).status == ready
    assert _get("/metrics", state).status == 200


def test_metrics_are_in_the_text_format() -> None:
    response = _get("/metrics")
    assert response.content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert b'\npg_doorman_build_info{version="9.8.7"} 1.0\n' in response.body
    assert b"\npg_doorman_process_open_fds " in response.body
