"""A client that listens (LISTEN) without a backend of its own.

Its channels are kept by the pool's switchboard (`pool.switchboard`), from which its notifications come by mail. Four
things make that look as if it had a server session to itself:

- *Taking over.* LISTEN runs on the client's backend, as any statement. When its transaction is over, the audit says which
  channels that backend listens to. They are handed to the switchboard, without a loss and without a repetition (the
  marker, see there); then the backend listens no longer and is given back.
- *Mirroring.* In front of each of its transactions the client's backend is made to LISTEN to all its channels again, and
  behind it the difference is what the client has changed. So UNLISTEN, ROLLBACK, savepoints, DISCARD ALL and
  pg_listening_channels() mean what they should, without a text being parsed.
- *Order.* A server tells a listener what is new before it says that it is idle. So the last ReadyForQuery of a
  transaction is kept until the switchboard has mailed everything that was notified before: a client that notifies itself,
  or asks `SELECT 1` to see what has come, finds it in front of that ReadyForQuery.
- *Between messages.* Nothing is said in the middle of another answer or of a transaction.

All of this is paid for by clients that listen, and by nobody else: only they are of this class.
"""

from collections.abc import Callable, Collection
from time import monotonic
from typing import Any, Final

from pgdoorman.backend.connection import Backend
from pgdoorman.backend.inquiry import Inquiry, Rows, codec_for, codec_of
from pgdoorman.client import stickiness
from pgdoorman.client.holds import CARE, GONE, HEARING
from pgdoorman.client.session import Session
from pgdoorman.client.stickiness import LISTEN_PIN, Prelude
from pgdoorman.errors import BackendUnavailable, PgDoormanError, ShuttingDown
from pgdoorman.pool.pool import Pool
from pgdoorman.pool.switchboard import CAUGHT_UP, INTERRUPTED, Joined, Subscription, channel_of, quoted
from pgdoorman.prepared.rewrite import query_message
from pgdoorman.protocol import codes
from pgdoorman.protocol.exchange import QUERY, Expected
from pgdoorman.protocol.framing import message
from pgdoorman.protocol.results import notice_response, ready_for_query
from pgdoorman.runtime.timers import Timer

MOST_UNREAD: Final = (
    16 << 20
)  # bytes of notifications that may wait for a client: PostgreSQL's own queue has a limit too
MOST_DELAY: Final = 10.0  # seconds that a ReadyForQuery waits for the notifications in front of it
AHEAD: Final = "LISTEN"  # stands in `Session.ahead` for what is mirrored

_IDLE_NOW: Final = ready_for_query(codes.IDLE)
_MISSED: Final = notice_response(
    "notifications may have been missed",
    sqlstate="01000",
    severity="WARNING",
    detail="The connection to the server that listens for the clients of this pool was lost, and has been replaced.",
)


class TooSlow(PgDoormanError):
    """A client that listens does not take its notifications."""

    sqlstate = "53000"


class Hearing:
    """What belongs to listening, of one client. On its worker's thread."""

    __slots__ = (
        "behind",
        "catching_up",
        "channels",
        "early",
        "joining",
        "leaving",
        "limit",
        "mirrored",
        "notes",
        "notes_size",
        "number",
        "subscription",
        "then",
    )

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription
        self.channels: frozenset[str] = frozenset()  # those that the switchboard has taken over
        self.joining: frozenset[str] = frozenset()  # those that it is taking over
        self.leaving: frozenset[str] = frozenset()  # those just given up: what was notified before is still heard
        self.early: list[bytes] = []  # the switchboard's first, while our backend's last may still be to come
        self.mirrored = False  # the client's backend listens to `channels`
        self.catching_up = False
        self.limit: Timer | None = None
        self.behind = (
            bytearray()
        )  # what must not be sent before the notifications: a ReadyForQuery, and what follows it
        self.notes: list[bytes] = []
        self.notes_size = 0
        self.number = 0
        self.then: Callable[[], Any] | None = None

    def note(self, frame: bytes) -> None:
        """Something to be told between messages."""
        self.notes.append(frame)
        self.notes_size += len(frame)


def begin_listening(session: Session) -> None:
    """The client may have channels from now on. (Its class changes: whoever does not listen pays for no test.)"""
    session.hearing = Hearing(Subscription(session))  # type: ignore[arg-type]  # it is a Subscriber in a moment
    session.ahead = (*session.ahead, AHEAD)
    session.fast = 0
    session.__class__ = ListeningSession


class Mirror(Prelude):
    """The hidden LISTEN in front of a transaction."""

    def happened(self) -> None:
        hearing: Hearing | None = self.session.hearing
        if hearing is not None and self.error is not None:
            hearing.mirrored = False  # what is found behind the transaction will be more, never less


class ListeningSession(Session):
    """A session with channels. It stays with its worker as long as it has any."""

    __slots__ = ()

    hearing: Hearing

    def join(self, pool: Pool) -> None:
        before = self.pool
        super().join(pool)
        hearing = self.hearing
        if not self.tracks:
            # A backend of its own from now on, or none that anyone looks after: neither can be made of this.
            self.dismiss(ShuttingDown("database configuration changed"))
        elif pool is not before:
            before.switchboard.unsubscribe(hearing.subscription)
            hearing.subscription = Subscription(self)
            pool.switchboard.subscribe(hearing.subscription, hearing.channels, 0, withheld=False)

    def move_to(self, worker: Any) -> bool:
        """Its mail comes to where it is at home."""
        return False

    # Mirroring.

    def run_ahead(self, backend: Backend) -> None:
        hearing = self.hearing
        sql = "; ".join(f"LISTEN {quoted(channel)}" for channel in hearing.channels)
        try:
            text = sql.encode(codec_of(backend))
        except UnicodeEncodeError:  # in an encoding that the client has chosen since; UNLISTEN is not noticed then
            text = b""
        hearing.mirrored = bool(text)
        if text:
            mirror = Mirror(self, backend, backend.settings)
            backend.exchange.ask_query(Expected(QUERY, hidden=True, effect=mirror))
            backend.push(query_message(text))
        self.load_ahead(backend, [statement for statement in self.ahead if statement is not AHEAD])

    def give_back(self, backend: Backend, now: float) -> None:
        if not self.hearing.mirrored:
            super().give_back(backend, now)
            return
        self.hold(CARE)
        Inquiry(backend, "UNLISTEN *", self._timeout, self._unmirrored)

    def _unmirrored(self, backend: Backend, rows: Rows, error: PgDoormanError | None) -> None:
        if self.held & GONE:
            stickiness.parted(self, backend, error)
            return
        self.hearing.mirrored = False
        if error is not None:
            self.lose_backend(backend)
        else:
            super().give_back(backend, monotonic())
        self.release_hold(CARE)

    def lose_backend(self, backend: Backend) -> None:
        self.hearing.mirrored = False
        super().lose_backend(backend)

    def part_from(self, backend: Backend) -> None:
        if self.hearing.mirrored:
            self.pins |= {LISTEN_PIN}
        super().part_from(backend)

    @property
    def _timeout(self) -> float:
        return max(30.0, self.pool.settings.connect_timeout)  # not less: a flood of notifications goes first

    # Taking over.

    def take_up(self, backend: Backend, channels: Collection[str], then: Callable[[], Any]) -> None:
        hearing = self.hearing
        found = frozenset(channels)
        wanted = found if hearing.mirrored else hearing.channels | found
        gone = hearing.channels - wanted
        hearing.joining = wanted - hearing.channels
        hearing.then = then
        if gone:
            hearing.channels -= gone
            self.pool.switchboard.unsubscribe(hearing.subscription, gone)
            # What is notified until we have caught up is still heard. Most of it was before the UNLISTEN; of the rest nobody
            # else can tell which was first.
            hearing.leaving = gone if hearing.catching_up else frozenset()
        if not hearing.joining:
            self._settle(backend, listens=bool(found))
        elif _is_sayable(hearing.joining, backend):
            hearing.number += 1
            self.pool.switchboard.subscribe(hearing.subscription, hearing.joining, hearing.number)
        else:
            self._not_taken_up()

    def _joined(self, joined: Joined) -> None:
        hearing, backend = self.hearing, self.backend
        if joined.number != hearing.number or not hearing.joining or backend is None:
            return
        if not joined.ok:
            self._not_taken_up()
            return
        # Both listen now. The marker says up to where this backend's word counts.
        marker = quoted(self.pool.switchboard.marker)
        sql = f"LISTEN {marker}; NOTIFY {marker}, '{hearing.subscription.token}'"
        Inquiry(backend, sql, self._timeout, self._marked)

    def _marked(self, backend: Backend, rows: Rows, error: PgDoormanError | None) -> None:
        hearing = self.hearing
        if self.held & GONE:
            stickiness.parted(self, backend, error)
        elif isinstance(error, BackendUnavailable):
            self.backend_failed(backend, error)
        elif error is not None or hearing.joining:
            # `on_notification` has seen no marker: the server would have sent it in front of its ReadyForQuery.
            self.pool.switchboard.unsubscribe(hearing.subscription, hearing.joining)
            self._not_taken_up()
        else:
            self._settle(backend, listens=True)

    def _settle(self, backend: Backend, *, listens: bool) -> None:
        """The switchboard has all channels. Have the backend listen to none; or, if it stays with the client for another
        reason, to all of them, as in front of a transaction."""
        mirrors = bool(self.pins - {LISTEN_PIN}) and bool(self.hearing.channels)
        if mirrors:
            listen = "; ".join(f"LISTEN {quoted(channel)}" for channel in self.hearing.channels)
            sql = f"{listen}; UNLISTEN {quoted(self.pool.switchboard.marker)}"
        elif listens or self.hearing.mirrored:
            sql = "UNLISTEN *"
        else:
            self.pins -= {LISTEN_PIN}
            self._taken_up()
            return

        def settled(backend: Backend, _rows: Rows, error: PgDoormanError | None) -> None:
            if self.held & GONE:
                stickiness.parted(self, backend, error)
            elif isinstance(error, BackendUnavailable):
                self.backend_failed(backend, error)
            elif error is not None:
                self._not_taken_up()
            else:
                self.hearing.mirrored = mirrors
                self.pins -= {LISTEN_PIN}
                self._taken_up()

        Inquiry(backend, sql, self._timeout, settled)

    def _not_taken_up(self) -> None:
        """It goes on listening on its own backend, which it has to keep for that."""
        self.hearing.joining = frozenset()
        self.hearing.early.clear()
        self.pins |= {LISTEN_PIN}
        self._taken_up()

    def _taken_up(self) -> None:
        then, self.hearing.then = self.hearing.then, None
        if then is not None:
            then()

    # Hearing.

    def on_mail(self) -> None:
        """The switchboard has something for us."""
        hearing: Hearing | None = self.hearing
        if self.held & GONE or hearing is None:
            return
        for mail in hearing.subscription.take():
            if isinstance(mail, bytes):
                channel = channel_of(mail[5:])
                if channel in hearing.channels or channel in hearing.leaving:
                    hearing.note(self._translated(mail))
                elif channel in hearing.joining:
                    hearing.early.append(self._translated(mail))
            elif isinstance(mail, Joined):
                self._joined(mail)
            elif mail is CAUGHT_UP:
                hearing.catching_up = False
                hearing.leaving = frozenset()
                if hearing.limit is not None:
                    hearing.limit.cancel()
            elif mail is INTERRUPTED:
                hearing.note(_MISSED)
        self._let_out()

    def wants(self, frame: bytes) -> bool:
        """What our backend hears of the channels that the switchboard has, it hears twice."""
        channel = channel_of(frame[5:])
        return channel not in self.hearing.channels and channel != self.pool.switchboard.marker

    def on_notification(self, backend: Backend, message: bytes) -> None:
        hearing = self.hearing
        if self.held & GONE:
            return
        if channel_of(message[5:]) == self.pool.switchboard.marker:
            if hearing.subscription.token.encode() in message:
                hearing.channels |= hearing.joining
                hearing.joining = frozenset()
                for frame in hearing.early:
                    hearing.note(frame)
                hearing.early.clear()
        elif self.wants(message):
            hearing.note(message)

    def _translated(self, frame: bytes) -> bytes:
        """In the client's encoding; the switchboard speaks UTF-8."""
        codec = codec_for(self.told)
        if codec == "utf-8" or frame.isascii():
            return frame
        text = frame[9:].decode("utf-8", "replace").encode(codec, "replace")
        return message(codes.NOTIFICATION_RESPONSE, frame[5:9] + text)

    # Telling.

    def tell(self, data: bytes) -> None:
        hearing = self.hearing
        if hearing.behind:
            hearing.behind += data
        elif data.endswith(_IDLE_NOW) and self._is_between:
            if len(data) > len(_IDLE_NOW):
                super().tell(data[: -len(_IDLE_NOW)])
            hearing.behind += _IDLE_NOW
            hearing.catching_up = True
            self.hold(HEARING)
            self.pool.switchboard.catch_up(hearing.subscription)
            hearing.limit = self.worker.after(MOST_DELAY, self._catch_up_no_longer)
        else:
            super().tell(data)

    def _catch_up_no_longer(self) -> None:
        """A server that is flooded with notifications answers nothing until the flood is over: the client need not wait."""
        hearing: Hearing | None = self.hearing
        if hearing is not None and not self.held & GONE:
            hearing.catching_up = False
            self._let_out()

    @property
    def _is_between(self) -> bool:
        """No answer is half told, and no transaction open."""
        backend = self.backend
        if backend is None:
            return self.begin is None
        return backend.exchange.is_settled and not backend.need and backend.status == codes.IDLE

    def _let_out(self) -> None:
        """Tell what was kept, if it may be told now."""
        hearing = self.hearing
        notes = hearing.notes
        if hearing.behind:
            if hearing.catching_up or self.held & CARE:
                return
            self._tell_kept()
            if not hearing.channels and self.backend is None and self.begin is None and not self.held & GONE:
                self._stop_listening()
            Session.release_hold(
                self, HEARING
            )  # the last thing: it may wait for a backend, and be elsewhere, behind it
            return
        if len(self.out) > MOST_UNREAD or hearing.notes_size > MOST_UNREAD:
            self.expel(TooSlow("too many notifications are waiting to be read"))
        elif notes and self._is_between and not self.held & CARE:
            self._tell_kept()

    def _tell_kept(self) -> None:
        hearing = self.hearing
        data = b"".join(hearing.notes) + hearing.behind
        hearing.notes, hearing.notes_size = [], 0
        hearing.behind.clear()
        if data:
            super().tell(data)

    def release_hold(self, reason: int) -> None:
        super().release_hold(reason)
        if reason == CARE and not self.held & GONE:
            self._let_out()

    # Leaving.

    def _stop_listening(self) -> None:
        """No channel is left: a session as any other."""
        self.ahead = tuple(statement for statement in self.ahead if statement is not AHEAD)
        self.hearing = None  # type: ignore[assignment]
        self.__class__ = Session  # type: ignore[assignment]

    def _end(self) -> None:
        if self.held & GONE:
            return
        hearing = self.hearing
        if hearing.behind:
            self._tell_kept()
        self.pool.switchboard.unsubscribe(hearing.subscription)
        waits = bool(hearing.joining) and self.backend is not None and self.backend.holder is self
        super()._end()
        if waits and self.backend is not None:
            self.part_from(self.backend)  # nothing was asked of it that would still have to be answered


def _is_sayable(channels: Collection[str], backend: Backend) -> bool:
    """Whether the names are the same on every connection: in a database without an encoding, only ASCII is."""
    return backend.reported.by_name.get("server_encoding") != "SQL_ASCII" or all(map(str.isascii, channels))
