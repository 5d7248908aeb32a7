"""The two threads of a hand-over: one in the old process that sends clients, one in the new process that takes them.

A client that is on its way belongs to nobody: what it says meanwhile waits in the kernel. Sending is not a worker's
business, since it blocks when the other side is slow.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, Final

from pgdoorman.client.closing import turn_away
from pgdoorman.client.records import ClientRecord
from pgdoorman.errors import HandoverError, ShuttingDown
from pgdoorman.transport.sockets import close_quietly
from pgdoorman.upgrade.channel import Channel

log = logging.getLogger(__name__)

LOST: Final = ShuttingDown("terminating connection due to administrator command")


class Sender(Thread):
    """The old process's: sends what workers pass on. `broken` is called once, on this thread, if the successor is gone."""

    def __init__(self, channel: Channel, broken: Callable[[], Any]) -> None:
        super().__init__(name="hand-over", daemon=True)
        self.sent = 0
        self._channel = channel
        self._broken = broken
        self._queue: SimpleQueue[tuple[Callable[[], bytes], Any] | None] = SimpleQueue()
        self._lock = Lock()
        self._under_way = 0
        self._closed = False

    def pass_on(self, record: Callable[[], bytes], sock: Any) -> None:
        """Send a client: what makes its record, and its socket, which is ours from now on. From any thread; never blocks."""
        with self._lock:
            closed = self._closed
            if not closed:
                self._under_way += 1
                self._queue.put((record, sock))
        if closed:
            turn_away(sock, LOST)

    @property
    def is_idle(self) -> bool:
        """Whether everything is sent."""
        return not self._under_way

    def run(self) -> None:
        works = True
        while (parcel := self._queue.get()) is not None:
            record, sock = parcel
            if works:
                try:
                    self._channel.wait_send(record(), sock)
                    self.sent += 1
                    close_quietly(sock)
                except (TypeError, ValueError, AttributeError) as error:  # the others go all the same
                    log.error("a client cannot be handed over: %s", type(error).__name__)
                    turn_away(sock, LOST)
                except OSError as error:
                    works = False
                    log.warning("clients can no longer be handed over: %s", error.strerror or error)
                    turn_away(sock, LOST)
                    self._broken()
            else:
                turn_away(sock, LOST)
            with self._lock:
                self._under_way -= 1

    def close(self, patience: float) -> None:
        """No more; what is on its way may take up to `patience` seconds. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        if self.is_alive():
            self.join(patience)
        self._channel.close()


class Receiver(Thread):
    """The new process's: has each client that comes taken in by `take`, on this thread, until the predecessor is gone."""

    def __init__(self, channel: Channel, take: Callable[[ClientRecord, Any], Any]) -> None:
        super().__init__(name="take-over", daemon=True)
        self.taken = 0
        self._channel = channel
        self._take = take

    def start(self) -> None:
        """Say that clients may come. Quiet if the predecessor is gone."""
        with suppress(OSError):
            self._channel.wait_say_hello()
        super().start()

    def run(self) -> None:
        try:
            while (parcel := self._channel.wait_receive()) is not None:
                self._receive(*parcel)
        except OSError as error:
            log.warning("no more clients can be taken over: %s", error.strerror or error)
        except HandoverError as error:
            log.warning("no more clients can be taken over: %s", error.message)
        finally:
            self._channel.close()
            if self.taken:
                log.info("%d clients were taken over", self.taken)

    def _receive(self, data: bytes, sock: Any) -> None:
        if sock is None:
            log.error(
                "a client was lost on its way here: its descriptor did not come; is the limit on open files reached?"
            )
            return
        try:
            self._take(ClientRecord.from_bytes(data), sock)
        except HandoverError as error:
            log.error("a client cannot be taken over: %s", error.message)
            turn_away(sock, LOST)
        except Exception as error:  # noqa: BLE001 - the others come all the same; its text may show what was to be read
            log.error("a client cannot be taken over: %s", type(error).__name__)
            turn_away(sock, LOST)
        else:
            self.taken += 1

    def close(self) -> None:
        """No more. Idempotent."""
        self._channel.close()
