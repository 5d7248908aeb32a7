"""What is answered at which path.

/metrics    for Prometheus, in its text format; open to everyone who reaches the port
/livez      200 as long as the process can answer at all
/readyz     200 while new clients are taken, 503 while the house goes down or is handed over
"""

from collections.abc import Callable
from http import HTTPStatus

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from pgdoorman.control import Overview
from pgdoorman.web.messages import Request, Response, text
from pgdoorman.web.prometheus import HouseCollector

METHODS = ("GET", "HEAD")


class Routes:
    """Answers requests about one house. Called by several threads."""

    def __init__(self, house: Overview) -> None:
        self._house = house
        # Not the library's global registry: two houses in one process (as in tests) must not know each other.
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(HouseCollector(house))
        ProcessCollector(namespace="pg_doorman", registry=self._registry)
        self._routes: dict[str, Callable[[Request], Response]] = {
            "/metrics": self._metrics,
            "/livez": self._livez,
            "/readyz": self._readyz,
        }

    def answer(self, request: Request) -> Response:
        """The answer to one request."""
        route = self._routes.get(request.path)
        if route is None:
            return text(HTTPStatus.NOT_FOUND, f"not found; there are {', '.join(self._routes)}")
        if request.method not in METHODS:
            return text(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD", ("Allow", ", ".join(METHODS)))
        return route(request)

    def _metrics(self, request: Request) -> Response:
        # Not OpenMetrics, also if asked for: there a gauge and a counter cannot be named `x` and `x_total`, as
        # PgDoorman's are.
        return Response(HTTPStatus.OK, generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4)

    def _livez(self, request: Request) -> Response:
        return text(HTTPStatus.OK, "alive")

    def _readyz(self, request: Request) -> Response:
        state = self._house.state()
        if state.draining or state.upgrading:
            return text(HTTPStatus.SERVICE_UNAVAILABLE, "draining" if state.draining else "upgrading")
        return text(HTTPStatus.OK, "ready")
