"""Requests as they come in, answers as they go out."""

import gzip
from http import HTTPStatus

import pytest

from pgdoorman.web.messages import BadRequest, Request, Response, parse_request, render, text


def test_a_request() -> None:
    request = parse_request(b"GET /metrics?x=1 HTTP/1.1\r\nHost: here\r\nAccept-Encoding: gzip\r\n\r\n")
    assert request == Request("GET", "/metrics", {"host": "here", "accept-encoding": "gzip"})
    assert parse_request(b"HEAD / HTTP/1.0\r\n\r\n") == Request("HEAD", "/")


@pytest.mark.parametrize(
    "head",
    [
        b"\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET  / HTTP/1.1\r\n\r\n",
        b"GET metrics HTTP/1.1\r\n\r\n",
        b"GET / HTTP/2.0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 1000 + b"\r\n",
    ],
)
def test_what_is_no_request(head: bytes) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_request(head)
    assert refused.value.status is HTTPStatus.BAD_REQUEST


def test_an_answer() -> None:
    answer = render(text(HTTPStatus.OK, "fine", ("X-It", "is")), Request("GET", "/"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.splitlines()[0] == b"HTTP/1.1 200 OK"
    assert set(head.splitlines()[1:]) == {
        b"Content-Type: text/plain; charset=utf-8",
        b"Content-Length: 5",
        b"Cache-Control: no-store",
        b"Connection: close",
        b"X-It: is",
    }
    assert body == b"fine\n"


def test_head_has_the_length_and_no_body() -> None:
    answer = render(text(HTTPStatus.OK, "fine"), Request("HEAD", "/"))
    assert b"Content-Length: 5\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


def test_what_is_long_is_packed_for_those_who_take_it() -> None:
    response = Response(HTTPStatus.OK, b"x" * 5000)
    packed = render(response, Request("GET", "/", {"accept-encoding": "deflate, gzip;q=1.0"}))
    head, _, body = packed.partition(b"\r\n\r\n")
    assert b"Content-Encoding: gzip" in head
    assert f"Content-Length: {len(body)}".encode() in head
    assert gzip.decompress(body) == response.body
    assert b"gzip" not in render(response, Request("GET", "/"))
    assert b"gzip" not in render(text(HTTPStatus.OK, "short"), Request("GET", "/", {"accept-encoding": "gzip"}))
