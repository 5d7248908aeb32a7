"""A Patroni that answers what it is told to: `GET /cluster` on a port of its own."""

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any, Self


def member(name: str, host: str, port: int, role: str = "replica", **more: Any) -> dict[str, Any]:
    """One entry of the answer."""
    state = "running" if role == "leader" else "streaming"
    return {"name": name, "role": role, "state": state, "host": host, "port": port, "lag": "unknown", **more}


class FakePatroni:
    """`members` are told; `answer`, if it is set, writes the whole answer itself (bytes of HTTP, by `write`)."""

    def __init__(self, *members: dict[str, Any]) -> None:
        self.members = list(members)
        self.answer: Callable[[Callable[[bytes], object], Event], None] | None = None
        self.paths: list[str] = []
        self.over = Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.paths.append(self.path)
                if owner.answer is not None:
                    owner.answer(self.wfile.write, owner.over)
                    return
                body = json.dumps({"members": owner.members}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # who asks may leave before the end

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)
