"""HTTP/1.1 as far as it takes to answer a scrape or a probe (RFC 9112): one request without a body, one answer, close."""

import gzip
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPException, parse_headers
from io import BytesIO

LONGEST_HEAD = 32 * 1024
END_OF_HEAD = b"\r\n\r\n"
_WORTH_PACKING = 1024  # bytes; below that gzip saves nothing


class BadRequest(Exception):
    """What came is no request that we answer; `status` says why."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `path` is without the query, header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Response:
    """One answer; `status` is an HTTP status code."""

    status: HTTPStatus
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


def text(status: HTTPStatus, line: str, *headers: tuple[str, str]) -> Response:
    """An answer of one line."""
    return Response(status, f"{line}\n".encode(), headers=headers)


def parse_request(head: bytes) -> Request:
    """The request whose head this is, up to and with the empty line. Raises BadRequest."""
    line, _, rest = head.partition(b"\r\n")
    words = line.decode("latin-1").split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1.") or not words[1].startswith("/"):
        raise BadRequest(HTTPStatus.BAD_REQUEST)
    try:
        headers = parse_headers(BytesIO(rest))
    except (HTTPException, ValueError):
        raise BadRequest(HTTPStatus.BAD_REQUEST) from None
    return Request(
        method=words[0],
        path=words[1].partition("?")[0],
        headers={name.lower(): str(value) for name, value in headers.items()},
    )


def render(response: Response, request: Request | None) -> bytes:
    """The answer as it goes out; `request` None if that could not be read. Without a body for HEAD, packed if the asker
    takes gzip."""
    body, headers = response.body, list(response.headers)
    accepted = request.headers.get("accept-encoding", "") if request is not None else ""
    if "gzip" in accepted and len(body) >= _WORTH_PACKING:
        body = gzip.compress(body, compresslevel=1)
        headers.append(("Content-Encoding", "gzip"))
    head = [
        f"HTTP/1.1 {response.status.value} {response.status.phrase}",
        f"Content-Type: {response.content_type}",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "Connection: close",
        *(f"{name}: {value}" for name, value in headers),
    ]
    if request is not None and request.method == "HEAD":
        body = b""
    return "\r\n".join(head).encode("latin-1") + END_OF_HEAD + body
