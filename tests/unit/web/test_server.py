"""The HTTP server over real sockets: askers who are slow, rude, many or gone."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.client import HTTPConnection

import pytest

from pgdoorman.web.messages import Request, Response, text
from pgdoorman.web.server import WebServer

Answer = Callable[[Request], Response]
Start = Callable[..., int]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a server with the given answers; gives its port."""
    servers: list[WebServer] = []

    def make(answer: Answer | None = None, *, patience: float = 20.0, threads: int = 2) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        server = WebServer([listener], answer or _echo, patience=patience, threads=threads)
        port: int = listener.getsockname()[1]
        servers.append(server)
        server.start()
        return port

    yield make
    for server in servers:
        server.stop()


def _echo(request: Request) -> Response:
    return text(HTTPStatus.OK, f"{request.method} {request.path}")


def _ask(port: int, path: str = "/", method: str = "GET", body: bytes | None = None) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _say(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as peer:
        peer.sendall(data)
        answer = b""
        while more := peer.recv(65536):
            answer += more
        return answer


def test_it_answers(start: Start) -> None:
    port = start()
    assert _ask(port, "/a?b") == (200, b"GET /a\n")
    assert _ask(port, "/a", "HEAD") == (200, b"")


def test_a_request_in_pieces(start: Start) -> None:
    port = start()
    with socket.create_connection(("127.0.0.1", port), timeout=20) as peer:
        for piece in (b"GET / HT", b"TP/1.1\r", b"\n\r", b"\n"):
            peer.sendall(piece)
            time.sleep(0.02)
        assert peer.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_body_that_nobody_reads_does_not_cost_the_answer(start: Start) -> None:
    assert _ask(start(), "/", "POST", b"x" * 50_000) == (200, b"POST /\n")


def test_what_is_no_http(start: Start) -> None:
    port = start()
    assert _say(port, b"hello\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert _ask(port)[0] == 200


def test_a_head_without_end(start: Start) -> None:
    port = start()
    answer = _say(port, b"GET / HTTP/1.1\r\n" + b"a: " + b"b" * 40_000)
    assert answer.startswith(b"HTTP/1.1 431 ")


def test_who_is_slow_is_sent_away_and_holds_up_nobody_for_long(start: Start) -> None:
    port = start(patience=0.5, threads=2)
    slow = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(4)]
    try:
        for peer in slow:
            peer.sendall(b"GET /")
        assert _ask(port)[0] == 200
        assert slow[0].recv(100).startswith(b"HTTP/1.1 408 ")
    finally:
        for peer in slow:
            peer.close()


def test_a_byte_now_and_then_does_not_prolong_it(start: Start) -> None:
    port = start(patience=0.5, threads=1)
    stop = threading.Event()

    def drip() -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as peer:
            try:
                while not stop.wait(0.05):
                    peer.sendall(b"x")
            except OSError:
                pass

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        time.sleep(0.1)
        assert _ask(port)[0] == 200
    finally:
        stop.set()
        thread.join()


def test_an_accident_costs_one_answer(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    def answer(request: Request) -> Response:
        if request.path == "/bad":
            raise ValueError("an accident")
        return _echo(request)

    port = start(answer, threads=1)
    assert _say(port, b"GET /bad HTTP/1.1\r\n\r\n") == b""
    assert _ask(port)[0] == 200
    assert "an accident" in caplog.text


def test_askers_who_leave_before_the_answer(start: Start) -> None:
    port = start()
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as peer:
            peer.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert _ask(port)[0] == 200


def test_several_at_a_time(start: Start) -> None:
    gate = threading.Barrier(2, timeout=20)

    def answer(request: Request) -> Response:
        gate.wait()
        return _echo(request)

    port = start(answer, threads=2)
    found: list[int] = []
    askers = [threading.Thread(target=lambda: found.append(_ask(port)[0])) for _ in range(2)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert found == [200, 200]


def test_stop_closes_everything() -> None:
    before = threading.active_count()
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    server = WebServer([listener], _echo)
    server.start()
    assert _ask(port)[0] == 200
    server.stop()
    assert threading.active_count() == before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_stop_of_a_server_that_was_never_started() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    WebServer([listener], _echo).stop()
    assert listener.fileno() == -1
