"""Who else has the data: the members of a cluster as Patroni's REST API tells them (`GET /cluster`). Blocking; for helper
threads.

An API that hangs, drips or never ends costs its time limit and one thread of its own, and is not asked again before that
thread has ended. No answer larger than a megabyte is read. Proxies in the environment are not used and redirections are
not followed.
"""

import json
import logging
import socket
import ssl
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from time import monotonic
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

from pgdoorman.errors import BackendUnavailable
from pgdoorman.transport.connect import Address

log = logging.getLogger(__name__)

LARGEST_ANSWER: Final = 1 << 20
"""Bytes."""

FRESH: Final = 1.0
"""Seconds for which an answer, or that there was none, is good for whoever else asks."""

MOST_MEMBERS: Final = 100
"""Candidates that are looked at; a cluster has a handful."""

_SYNC: Final = "sync_standby"
_LEADERS: Final = ("leader", "master", "standby_leader")
_ALIVE: Final = ("running", "streaming")
_UNWANTED: Final = ("noloadbalance", "nofailover", "archive")


class ClusterUnknown(BackendUnavailable):
    """No API has told the members in time."""

    sqlstate: ClassVar[str] = "08006"


@dataclass(frozen=True, slots=True)
class Member:
    """One PostgreSQL that may serve instead of another."""

    name: str
    address: Address
    role: str

    def __str__(self) -> str:
        return f"{self.name or 'a member'} ({self.role or 'no role'}) at {self.address}"


def read_members(body: bytes) -> tuple[Member, ...]:
    """Those of an answer that may take over: they run, and no tag forbids it. How far they lag behind is not asked.

    Raises ValueError for what is no such answer; members that make no sense are passed over.
    """
    try:
        told = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is no JSON: {type(error).__name__}") from None
    members = told.get("members") if isinstance(told, dict) else None
    if not isinstance(members, list):
        raise ValueError("it has no list of members")  # noqa: TRY004 - it is the text that is wrong
    found = (_candidate(member) for member in members)
    return tuple(member for member in found if member is not None)[:MOST_MEMBERS]


def _candidate(member: Any) -> Member | None:
    if not isinstance(member, dict) or member.get("state") not in _ALIVE:
        return None
    tags = member.get("tags")
    if isinstance(tags, dict) and any(_is_true(tags.get(tag)) for tag in _UNWANTED):
        return None
    host, port = member.get("host"), member.get("port")
    if isinstance(port, str) and port.isascii() and port.isdigit() and len(port) < 6:
        port = int(port)
    if not isinstance(host, str) or type(port) is not int or not 0 < port < 65536:
        return None
    # A path would be a socket of this machine: nothing that another one can name.
    if not host.isprintable() or host.startswith(("/", "@")) or not 0 < len(host) < 256:
        return None
    name, role = member.get("name"), member.get("role")
    return Member(_word(name), Address(host, port), _word(role))


def _word(value: object) -> str:
    return value[:100] if isinstance(value, str) and value.isprintable() else ""


def _is_true(value: object) -> bool:
    return value is True or (isinstance(value, str) and value.strip().lower() in ("true", "yes", "on", "1"))


def waves(members: Iterable[Member]) -> tuple[list[Member], list[Member], list[Member]]:
    """Synchronous standbys; then the other replicas; then who leads."""
    every = list(members)
    sync = [member for member in every if member.role == _SYNC]
    leaders = [member for member in every if member.role in _LEADERS]
    return sync, [member for member in every if member not in sync and member not in leaders], leaders


class Request:
    """One GET to one API, on the thread that calls `fetch`. `give_up` ends it from another."""

    def __init__(self, url: str, timeout: float) -> None:
        parts = urlsplit(url)
        self._secure = parts.scheme.lower() == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._secure else 80)
        self._path = parts.path.rstrip("/").removesuffix("/cluster").rstrip("/") + "/cluster"
        self._timeout = timeout
        self._lock = Lock()
        self._sock: Any = None
        self._over = False

    def __str__(self) -> str:
        return f"{self._host}:{self._port}"

    def fetch(self) -> tuple[Member, ...]:
        """Raises OSError, HTTPException or ValueError."""
        deadline = monotonic() + self._timeout
        kind = HTTPSConnection if self._secure else HTTPConnection
        connection = kind(self._host, self._port)
        try:
            sock: Any = socket.create_connection((self._host, self._port), self._timeout)
            self._keep(sock)
            if self._secure:
                context = ssl.create_default_context()
                sock = context.wrap_socket(sock, server_hostname=self._host, do_handshake_on_connect=False)
                self._keep(sock)
                sock.do_handshake()
            connection.sock = sock
            connection.request("GET", self._path, headers={"Accept": "application/json", "Connection": "close"})
            with connection.getresponse() as response:
                if response.status != 200:
                    raise ValueError(f"status {response.status}")
                body = bytearray()
                while data := response.read1(65536):
                    body += data
                    if len(body) > LARGEST_ANSWER:
                        raise ValueError(f"more than {LARGEST_ANSWER} bytes")
                    if monotonic() > deadline:
                        raise TimeoutError("timed out")
            return read_members(bytes(body))
        finally:
            connection.close()
            self._close()

    def _keep(self, sock: Any) -> None:
        with self._lock:
            self._sock = sock
            if self._over:
                raise TimeoutError("timed out")

    def _close(self) -> None:
        with self._lock:
            sock, self._sock = self._sock, None
            if sock is not None:
                sock.close()

    def give_up(self) -> None:
        """Whatever it waits for ends now. From any thread; no harm if it has ended."""
        with self._lock:
            self._over = True
            if self._sock is not None:
                # Closed by `fetch`: its number must not be somebody else's while that may still read. And past the method
                # of TLS sockets, which takes from the reader's hands what it reads with.
                with suppress(OSError):
                    socket.socket.shutdown(self._sock, socket.SHUT_RDWR)


class Clusters:
    """Asks for clusters, for all pools: who asks while another does, or a moment later, gets the same answer."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._answers: dict[tuple[str, ...], _Answer] = {}
        self._busy: set[str] = set()  # the addresses whose thread has not ended yet

    def find(self, urls: Sequence[str], timeout: float) -> tuple[Member, ...]:
        """The candidates among the members, by the first API that answers within `timeout` seconds. Raises
        ClusterUnknown."""
        key = tuple(urls)
        with self._lock:
            now = self._clock()
            self._answers = {known: answer for known, answer in self._answers.items() if now < answer.good_until}
            answer = self._answers.get(key)
            is_mine = answer is None
            if answer is None:
                answer = self._answers[key] = _Answer()
        if is_mine:
            try:
                answer.future.set_result(self._wait_first(key, timeout))
            except ClusterUnknown as error:
                answer.future.set_exception(error)
            finally:
                answer.good_until = self._clock() + FRESH
        try:
            return answer.future.result(timeout + FRESH)
        except FutureTimeout:
            raise ClusterUnknown("Patroni did not answer in time") from None

    def _wait_first(self, urls: tuple[str, ...], timeout: float) -> tuple[Member, ...]:
        deadline = monotonic() + timeout
        answers: SimpleQueue[tuple[Request, tuple[Member, ...] | Exception]] = SimpleQueue()
        requests: list[Request] = []
        failures = []
        for url in dict.fromkeys(urls):
            try:
                request = Request(url, timeout)
                with self._lock:
                    if url in self._busy:
                        raise TimeoutError("an earlier request has not ended")
                    self._busy.add(url)
                requests.append(request)
                self._start(url, request, answers)
            except (OSError, ValueError) as error:
                failures.append(_told(str(urlsplit(url).hostname), error))
        waiting = list(requests)
        try:
            while waiting:
                request, answer = answers.get(timeout=max(0.0, deadline - monotonic()))
                waiting.remove(request)
                if not isinstance(answer, Exception):
                    return answer
                failures.append(_told(str(request), answer))
        except Empty:
            failures += [f"{request}: timed out" for request in waiting]
        finally:
            for request in requests:
                request.give_up()
        raise ClusterUnknown(f"no Patroni API has answered: {'; '.join(failures)}")

    def _start(self, url: str, request: Request, answers: SimpleQueue[Any]) -> None:
        def run() -> None:
            try:
                answers.put((request, request.fetch()))
            except (OSError, HTTPException, ValueError) as error:
                answers.put((request, error))
            except Exception as error:
                log.exception("asking Patroni at %s failed", request)
                answers.put((request, error))
            finally:
                with self._lock:
                    self._busy.discard(url)

        try:
            Thread(target=run, name="patroni", daemon=True).start()
        except RuntimeError as error:  # the system allows no more of them
            with self._lock:
                self._busy.discard(url)
            answers.put((request, error))


class _Answer:
    """One question, and until when its answer counts."""

    def __init__(self) -> None:
        self.future: Future[tuple[Member, ...]] = Future()
        self.good_until = float("inf")


def _told(who: str, error: Exception) -> str:
    return f"{who}: {str(error)[:200] or type(error).__name__}"
