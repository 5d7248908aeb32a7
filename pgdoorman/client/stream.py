"""The two directions of a client's connection: what has come and is not dealt with, what is to go and was not taken."""

from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from pgdoorman.client.budget import FREE_OF_CHARGE
from pgdoorman.client.holds import CONGESTED
from pgdoorman.client.services import Services
from pgdoorman.constants import bind_constants
from pgdoorman.runtime.poller import NOTHING, READ, WRITE
from pgdoorman.runtime.worker import Worker
from pgdoorman.transport.sockets import DONT_WAIT, send_kept

INPUT_LIMIT: Final = 262144  # more than this is not read ahead while the client is not listened to
OUTPUT_LIMIT: Final = 262144


class ClientStream:
    """A client's socket with its buffers, and the reasons for not listening to it at the moment (`held`).

    What this means for others is the session's business: `_on_congestion` and `_on_relief` tell it.
    """

    __slots__ = (
        "claimed",
        "fast",
        "fd",
        "gather_size",
        "gathered",
        "held",
        "input",
        "out",
        "passing",
        "reading",
        "recv",
        "send",
        "services",
        "sock",
        "stuck_since",
        "waits_plainly",
        "worker",
    )

    def __init__(self, sock: Any, services: Services) -> None:
        self.sock = sock
        self.fd: int = sock.fileno()
        # Bound methods kept on the object: one attribute load less per system call.
        self.recv: Callable[[int, int], bytes] = sock.recv
        self.send: Callable[[Any, int], int] = sock.send
        self.services = services
        self.worker: Worker = None  # type: ignore[assignment]  # set before anything else happens
        self.input = b""  # came, and is not dealt with
        self.gathered: bytearray | None = None  # the beginning of a message that has to be whole
        self.gather_size = 0
        self.claimed = 0  # bytes of the budget
        self.passing = 0  # bytes of the present message that are still to come and go on unseen
        self.out = bytearray()  # was not taken yet
        self.stuck_since = 0.0  # since when it has not taken anything of that, monotonic seconds
        self.reading = True
        self.held = 0
        # SIMPLE or EXTENDED if nothing is pending here: no reason not to listen, nothing kept or unsent, no block begun, no
        # leave to take. What the client says next may take the hot branches then. Whoever changes that sets it to 0.
        self.fast = 0
        self.waits_plainly = 0  # the same for one whole request that waits for a backend; nothing more has come since

    def _on_congestion(self) -> None:
        """The client does not take what it is told."""

    def _on_relief(self) -> None:
        """It has taken everything."""

    # Listening.

    def hold(self, reason: int) -> None:
        """Do not listen until `release_hold` of the same reason."""
        self.held |= reason
        self.fast = 0

    def _keep(self, data: bytes) -> None:
        """Not listening now: keep it. Much more than that stays in the kernel, and so with the client."""
        self.waits_plainly = 0
        if self.gathered is not None:
            self.gathered += data
        else:
            self.input += data
        if len(self.input) > INPUT_LIMIT and self.reading:
            self.reading = False
            self._watch()

    def gather(self, data: bytes, size: int) -> None:
        """Collect a message of `size` bytes, of which `data` is the beginning, before it is dealt with."""
        if size > FREE_OF_CHARGE:
            self.services.budget.take(size)
            self.claimed += size
            self.gathered = bytearray(data)
            self.gather_size = size
        else:
            self.input = data

    def stop_gathering(self) -> None:
        """The gathered message is whole, or nobody wants it any more."""
        self.gathered = None
        if self.claimed:
            self.services.budget.give_back(self.claimed)
            self.claimed = 0

    def listen_again(self) -> None:
        """Read what the kernel has kept for us."""
        self.reading = True
        self._watch()

    # Telling.

    def tell(self, data: bytes) -> None:
        """Send to the client, or keep what it does not take now."""
        out = self.out
        if out:
            out += data
            if len(out) > OUTPUT_LIMIT:
                self.hold(CONGESTED)
            return
        try:
            sent = self.send(data, DONT_WAIT)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # the next read of this socket says the same and ends the session
        if sent != len(data):
            out += memoryview(data)[sent:]
            self.fast = 0
            self.stuck_since = monotonic()
            self._watch()
            if len(out) > OUTPUT_LIMIT:
                self.hold(CONGESTED)
            self._on_congestion()

    def keep_back(self, data: bytes) -> None:
        """Tell the client this with `tell_kept`, or in front of whatever else it is told first."""
        self.out += data
        self.fast = 0

    def tell_kept(self) -> None:
        """Send what was kept, whyever it was."""
        if not self.out:
            return
        self._flush()
        if self.out:
            self.stuck_since = monotonic()
            self._watch()
            self._on_congestion()

    def _flush(self) -> None:
        before = len(self.out)
        if not send_kept(self.send, self.out):
            if len(self.out) < before:
                self.stuck_since = monotonic()
            return
        self.stuck_since = 0.0
        self.out = bytearray()  # a new one: the old one keeps the size it once had
        self._watch()
        self._on_relief()

    def _watch(self) -> None:
        self.worker.poller.change(self.fd, (READ if self.reading else NOTHING) | (WRITE if self.out else NOTHING))

    def _flush_waiting(self) -> None:
        try:
            del self.out[: self.send(self.out, DONT_WAIT)]
        except BlockingIOError:
            return
        except OSError:
            self.out.clear()
        if not self.out:
            self.held &= ~CONGESTED
            self.stuck_since = 0.0
            self._watch()

    def _last_words(self) -> None:
        try:
            self.send(self.out, DONT_WAIT)
        except OSError:
            pass


bind_constants(__name__)
