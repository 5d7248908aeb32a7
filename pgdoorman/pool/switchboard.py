"""One backend of a pool that listens (LISTEN, NOTIFY) for all of the pool's clients.

Clients that listen give their own backends back; the channels are kept here, and every notification goes to whoever
subscribed to its channel. The connection is opened for the first subscriber, outside the ledger: it is nobody's to
lease and does not count against `pool_size`. It belongs to one worker; the public methods may be called on any thread.

What a client gets comes by mail (`Subscription`), in the order in which the server said it, answers to its own requests
among it. Two of these need explaining:

- A client that has just listened on a backend of its own hears there until its channels are taken over. For no
  notification to be lost or heard twice, both connections listen for a while, and a marker, a notification of ours, shows
  where to change from one to the other: PostgreSQL gives all listeners the same order.
- CAUGHT_UP says that everything that was notified before the request has been mailed. A server tells a listener what is
  new before it says ReadyForQuery, so an empty query does it.
"""

import logging
import secrets
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any, Final, Protocol

from pgdoorman.backend.connection import Backend
from pgdoorman.errors import PgDoormanError, ProtocolViolation
from pgdoorman.prepared.rewrite import query_message
from pgdoorman.protocol import codes
from pgdoorman.protocol.framing import FrameReader, message
from pgdoorman.runtime.helpers import Helpers
from pgdoorman.runtime.poller import READ, WRITE
from pgdoorman.runtime.timers import Timer
from pgdoorman.runtime.worker import Worker
from pgdoorman.transport.sockets import DONT_WAIT

log = logging.getLogger(__name__)

PATIENCE: Final = 10.0  # seconds for an answer of the server
RETRY_DELAY: Final = 1.0  # seconds until a lost connection is opened again, if it cannot be at once
UNUSED_FOR: Final = 60.0  # seconds for which the connection is kept without subscribers


@dataclass(frozen=True, slots=True)
class Joined:
    """The answer to `subscribe`."""

    number: int
    ok: bool


class Word:
    """Mail that says only what its name says."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


CAUGHT_UP: Final = Word("CAUGHT_UP")
INTERRUPTED: Final = Word("INTERRUPTED")  # the connection was lost, and is there again: some may have been missed

type Mail = bytes | Joined | Word
"""A NotificationResponse as the server sent it (in UTF-8), or one of ours."""


class Subscriber(Protocol):
    """Who listens. Its worker does not change while it does."""

    worker: Worker

    def on_mail(self) -> Any:
        """There is mail to be taken; on the worker's thread."""


class Subscription:
    """The mailbox of one subscriber: written by the switchboard's worker, read by the subscriber's."""

    __slots__ = ("_lock", "_mail", "subscriber", "token")

    def __init__(self, subscriber: Subscriber) -> None:
        self.subscriber = subscriber
        self.token = secrets.token_hex(8)
        self._lock = Lock()
        self._mail: list[Mail] = []

    def put(self, mail: Mail) -> None:
        """Have something delivered, behind everything before it."""
        with self._lock:
            first = not self._mail
            self._mail.append(mail)
        if first:
            self.subscriber.worker.post(self.subscriber.on_mail)

    def take(self) -> list[Mail]:
        """All mail that has come so far."""
        with self._lock:
            mail, self._mail = self._mail, []
        return mail


class Switchboard:
    """The listening backend of one pool, and who listens to what."""

    def __init__(self, worker: Worker, helpers: Helpers, wait_opened: Callable[[], Backend], name: str) -> None:
        self._worker = worker
        self._helpers = helpers
        self._wait_opened = wait_opened  # blocking; raises PgDoormanError
        self._name = name
        self.marker = f"pgdoorman_{secrets.token_hex(8)}"
        # By channel: its subscribers, each with whether its mail is withheld until its marker comes.
        self._lines: dict[str, dict[Subscription, bool]] = {}
        self._by_token: dict[str, Subscription] = {}
        self._backend: Backend | None = None
        self._listening = False  # the backend listens to everything that it should
        self._opening = False
        self._interrupted = False
        self._closed = False
        self._reader = FrameReader()
        self._failed = False  # the present query was refused
        self._asked: deque[Callable[[bool], Any]] = deque()
        self._waiting: list[tuple[str, Callable[[bool], Any]]] = []  # until the connection is there
        self._catching: list[Subscription] = []
        self._deadline: Timer | None = None

    def __repr__(self) -> str:
        return f"<Switchboard of {self._name}>"

    # What subscribers ask.

    def subscribe(
        self, subscription: Subscription, channels: Collection[str], number: int, *, withheld: bool = True
    ) -> None:
        """Listen to these as well. Mail: Joined(number, ok). If `withheld`, notifications on them are withheld until the
        subscriber's token has been notified on the channel `marker`."""
        if not self._worker.post(partial(self._subscribe, subscription, frozenset(channels), number, withheld)):
            subscription.put(Joined(number, ok=False))

    def unsubscribe(self, subscription: Subscription, channels: Collection[str] | None = None) -> None:
        """Listen to these no longer; None for all."""
        self._worker.post(partial(self._unsubscribe, subscription, channels))

    def catch_up(self, subscription: Subscription) -> None:
        """Mail: CAUGHT_UP, behind everything that was notified before this call."""
        if not self._worker.post(partial(self._catch_up, subscription)):
            subscription.put(CAUGHT_UP)

    # What the pool asks.

    def reconnect(self) -> None:
        """Replace the connection: the server is to be another."""
        self._worker.post(partial(self._lost, "it is to be replaced"))

    def close(self) -> None:
        """The pool is at its end."""
        self._worker.post(self._close)

    @property
    def backends(self) -> list[Backend]:
        """The connection, if there is one."""
        backend = self._backend
        return [] if backend is None else [backend]

    # On our worker's thread.

    def _subscribe(self, subscription: Subscription, channels: frozenset[str], number: int, withheld: bool) -> None:
        self._by_token[subscription.token] = subscription
        for channel in channels:
            self._lines.setdefault(channel, {})[subscription] = withheld

        def answered(ok: bool) -> None:
            if not ok:
                self._forget(subscription, channels)
            subscription.put(Joined(number, ok=ok))

        self._ask(_listen(channels), answered)

    def _unsubscribe(self, subscription: Subscription, channels: Collection[str] | None) -> None:
        unheard = self._forget(subscription, channels)
        if unheard and self._listening:
            self._ask("; ".join(f"UNLISTEN {quoted(channel)}" for channel in unheard), _nothing)
        if not self._lines:
            self._worker.after(UNUSED_FOR, self._close_if_unused)

    def _forget(self, subscription: Subscription, channels: Collection[str] | None) -> list[str]:
        """Returns the channels that nobody listens to any more."""
        unheard = []
        for channel in list(self._lines) if channels is None else channels:
            line = self._lines.get(channel, {})
            line.pop(subscription, None)
            if not line and self._lines.pop(channel, None) is not None:
                unheard.append(channel)
        if not any(subscription in line for line in self._lines.values()):
            self._by_token.pop(subscription.token, None)
        return unheard

    def _catch_up(self, subscription: Subscription) -> None:
        if not self._listening:
            subscription.put(CAUGHT_UP)  # nobody can know what is missed meanwhile
            return
        self._catching.append(subscription)
        if len(self._catching) == 1:
            self._ask_caught_up()

    def _ask_caught_up(self) -> None:
        # Who asks while this is under way has to wait for the next: its notification may have been too late for this one.
        present = list(self._catching)

        def answered(ok: bool) -> None:
            for subscription in present:
                subscription.put(CAUGHT_UP)
            del self._catching[: len(present)]
            if self._catching and ok:
                self._ask_caught_up()
            elif self._catching:
                for subscription in self._catching:
                    subscription.put(CAUGHT_UP)
                self._catching.clear()

        self._ask(";", answered)

    def _close_if_unused(self) -> None:
        if not self._lines:
            self._hang_up()

    def _close(self) -> None:
        self._closed = True
        self._hang_up()

    # The connection.

    def _ask(self, sql: str, done: Callable[[bool], Any]) -> None:
        """Send a simple query, or open the connection first. `done` is told whether it succeeded."""
        if self._closed:
            done(False)
            return
        if not self._listening:
            self._waiting.append((sql, done))
            self._open()
            return
        self._push(sql, done)

    def _push(self, sql: str, done: Callable[[bool], Any]) -> None:
        assert self._backend is not None
        self._asked.append(done)
        if self._deadline is None:
            self._deadline = self._worker.after(PATIENCE, self._out_of_time)
        self._backend.push(query_message(sql.encode("utf-8", "surrogateescape")))

    def _out_of_time(self) -> None:
        self._deadline = None
        self._lost("the server does not answer")

    def _open(self) -> None:
        if self._opening or self._backend is not None or self._closed:
            return
        self._opening = True
        if not self._helpers.submit(self._wait_open):
            self._opening = False
            self._fail_all()

    def _wait_open(self) -> None:
        """On a helper's thread."""
        try:
            backend = self._wait_opened()
        except PgDoormanError as error:
            self._worker.post(partial(self._not_opened, str(error)))
            return
        except Exception as error:
            self._worker.post(partial(self._not_opened, str(error)))
            raise
        if not self._worker.post(partial(self._opened, backend)):
            backend.close()

    def _not_opened(self, reason: str) -> None:
        self._opening = False
        log.warning("[%s] cannot open the connection that listens for clients: %s", self._name, reason)
        self._fail_all()
        self._open_again_later()

    def _open_again_later(self) -> None:
        if self._lines and not self._closed:
            self._worker.after(RETRY_DELAY, self._open_if_wanted)

    def _open_if_wanted(self) -> None:
        if self._lines:
            self._open()

    def _opened(self, backend: Backend) -> None:
        self._opening = False
        if self._closed:
            backend.close()
            return
        self._backend = backend
        self._reader = FrameReader()
        self._failed = False
        backend.holder = self
        backend.move_to(self._worker)
        self._push(_listen({self.marker, *self._lines}), self._began)

    def _began(self, ok: bool) -> None:
        if not ok:
            # A server that lets nobody listen (a standby).
            self._hang_up()
            self._open_again_later()
            return
        self._listening = True
        if self._interrupted:
            self._interrupted = False
            log.info("[%s] listening again", self._name)
            for subscription in list(self._by_token.values()):
                self._release(subscription)
                subscription.put(INTERRUPTED)
        waiting, self._waiting = self._waiting, []
        for sql, done in waiting:
            self._push(sql, done)

    def _lost(self, reason: str) -> None:
        backend = self._backend
        if backend is None:
            return
        if self._lines:
            self._interrupted = True
            log.warning("[%s] the connection that listens for clients is given up: %s", self._name, reason)
        self._hang_up()
        self._open_if_wanted()

    def _hang_up(self) -> None:
        backend, self._backend = self._backend, None
        self._listening = False
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if backend is not None:
            backend.close()
        self._fail_all()

    def _fail_all(self) -> None:
        asked, waiting = list(self._asked), self._waiting
        self._asked.clear()
        self._waiting = []
        for done in (*asked, *(done for _, done in waiting)):
            done(False)

    # What the server says.

    def on_backend_readable(self, backend: Backend) -> None:
        self.on_backend_event(backend, READ)

    def on_backend_event(self, backend: Backend, events: int) -> None:
        if backend is not self._backend:
            return
        if events & WRITE and backend.out:
            backend.flush()
        try:
            # Once: a server that notifies faster than we read must not keep the worker from everybody else.
            data = backend.recv(65536, DONT_WAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lost("the server closed it")
            return
        backend.bytes_in += len(data)
        if self._deadline is not None:
            # It lives: PostgreSQL answers nothing as long as notifications keep coming in.
            self._deadline.cancel()
            self._deadline = self._worker.after(PATIENCE, self._out_of_time)
        self._reader.feed(data)
        try:
            while backend is self._backend and (found := self._reader.next()) is not None:
                self._hear(*found)
        except ProtocolViolation as violation:
            self._lost(f"the server broke the protocol: {violation}")

    def on_backend_crash(self, backend: Backend, error: Exception) -> None:
        self._lost("internal error")

    def on_notification(self, backend: Backend, message: bytes) -> None:
        """Nobody else speaks on this connection."""

    def _hear(self, kind: int, body: bytes) -> None:
        if kind == codes.NOTIFICATION_RESPONSE:
            self._notified(body)
        elif kind == codes.ERROR_RESPONSE:
            self._failed = True
        elif kind == codes.READY_FOR_QUERY:
            if not self._asked:
                raise ProtocolViolation("ReadyForQuery that nobody asked for")
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None
            ok, self._failed = not self._failed, False
            self._asked.popleft()(ok)
            if self._asked and self._deadline is None:
                self._deadline = self._worker.after(PATIENCE, self._out_of_time)

    def _notified(self, body: bytes) -> None:
        channel = channel_of(body)
        if channel == self.marker:
            payload = body.split(b"\0")[-2].decode("ascii", "replace")
            marked = self._by_token.get(payload)
            if marked is not None:
                self._release(marked)
            return
        line = self._lines.get(channel)
        if not line:
            return
        frame = message(codes.NOTIFICATION_RESPONSE, body)
        for subscription, withheld in line.items():
            if not withheld:
                subscription.put(frame)

    def _release(self, subscription: Subscription) -> None:
        for line in self._lines.values():
            if subscription in line:
                line[subscription] = False


def quoted(channel: str) -> str:
    """A channel's name as an identifier."""
    return '"' + channel.replace('"', '""') + '"'


def channel_of(body: bytes) -> str:
    """The channel of a NotificationResponse: its body is a process id, the channel, the payload."""
    end = body.find(0, 4)
    return body[4 : end if end >= 0 else len(body)].decode("utf-8", "surrogateescape")


def _listen(channels: Iterable[str]) -> str:
    return "; ".join(f"LISTEN {quoted(channel)}" for channel in channels)


def _nothing(ok: bool) -> None:
    """Nobody waits for this answer."""
