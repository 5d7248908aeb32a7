"""What must hold after any attack: the pooler lives, serves, has given everything back, and does not spin."""

import time
from dataclasses import dataclass
from typing import Self

from tests.support.doorman import Doorman, stand_in
from tests.support.pace import Stopwatch
from tests.support.process import wait_until
from tests.support.wire import Reply, ServerError, Wire, WireError

MOST_WITHOUT_SLEEP = 0.5  # seconds of processor time of one thread
JANITOR_ROUNDS = 4  # each takes 50 ms or more
MOST_WAKES = 20  # of all other threads together, for each of those rounds

_COUNTS = ("cl_active", "cl_waiting", "sv_active", "sv_login")


@dataclass(frozen=True, slots=True)
class Base:
    """What was open before."""

    descriptors: int
    idle_backends: int
    resident: int


class Watch:
    """Judges one pooler before and after. `database` and `user` log a harmless client in."""

    def __init__(self, doorman: Doorman, database: str = "app", user: str = "alice", password: str = "") -> None:
        self.doorman = doorman
        self._who = (database, user, password)
        self._warm()
        self.base = Base(doorman.descriptor_count(), self._idle_backends(), doorman.resident_bytes())

    def _warm(self) -> None:
        """Everything that is opened once is open from here on."""
        for _ in range(3):
            self.must_serve()
        if not stand_in():
            self.doorman.show("pools")
        time.sleep(0.1)

    def connect(self) -> Wire:
        database, user, password = self._who
        return self.doorman.connect(database, user, password, {"application_name": "watch"}, patience=60.0)

    def must_serve(self, within: float = 4.0) -> Self:
        """A new client gets right answers, quickly: `within` seconds in which the machine had a processor for all."""
        self.doorman.check_alive()
        watch = Stopwatch()
        try:
            with self.connect() as wire:
                for number in (1, 2, 3):
                    got = wire.value(f"select 'watch {number}'")
                    assert got == f"watch {number}", f"a normal client got {got!r}: an answer that is not its own"
        except (WireError, ServerError, OSError) as error:
            raise AssertionError(f"a normal client is not served any more: {error}\n{self._log()}") from None
        watch.must_be_below(within, "a normal client waited")
        return self

    def _idle_backends(self) -> int:
        """How many there are; each of them rightly has its socket."""
        return 0 if stand_in() else sum(int(row["sv_idle"] or 0) for row in self.doorman.show("pools"))

    def must_be_clean(self, patience: float = 30.0) -> Self:
        """Counters are at zero, and no descriptors are open but those from before and those of idle backends."""
        self.doorman.check_alive()
        self._counters_must_be_zero(patience)
        self._descriptors_must_be_back(patience)
        return self

    def _descriptors_must_be_back(self, patience: float) -> None:
        seen = allowed = 0

        def few() -> bool:
            nonlocal seen, allowed
            allowed = self.base.descriptors + max(0, self._idle_backends() - self.base.idle_backends)
            time.sleep(0.02)  # the console's own connection must go first
            seen = self.doorman.descriptor_count()
            return seen <= allowed

        try:
            wait_until(few, patience, "descriptors back to base", pause=0.1)
        except AssertionError:
            listing = "\n  ".join(self.doorman.process.descriptors())
            raise AssertionError(
                f"{seen} descriptors are open after {patience} s, {allowed} were to be left (idle backends count as such):"
                f"\n  {listing}\n{self.doorman.state()}"
            ) from None

    def _counters_must_be_zero(self, patience: float) -> None:
        if stand_in():
            return
        left = ""

        def all_back() -> bool:
            nonlocal left
            rows = [row for row in self.doorman.show("pools") if row["database"] not in ("pgdoorman", "pgbouncer")]
            left = "; ".join(
                f"{row['database']}/{row['user']} {name}={row[name]}"
                for row in rows
                for name in _COUNTS
                if row.get(name) not in (None, "0")
            )
            return not left

        try:
            wait_until(all_back, patience, "counters back to zero")
        except AssertionError:
            raise AssertionError(
                f"nobody is connected, but after {patience} s SHOW POOLS says {left}\n{self.doorman.state()}\n{self._log()}"
            ) from None

    def must_rest(self, patience: float = 30.0) -> Self:
        """With nobody connected it does (almost) nothing, soon. Judged by what a busy machine cannot change: every thread
        goes to sleep before it has used much processor time (one in an endless loop never does), and between two rounds of
        the janitor the others wake up a few times at most (two that keep each other busy do so thousands of times)."""
        self._threads_must_sleep()
        if not stand_in():
            wakes: list[float] = []
            wait_until(lambda: self._is_quiet(wakes), patience, f"threads at rest; they woke up {wakes} times a round")
        return self

    def _threads_must_sleep(self) -> None:
        process = self.doorman.process
        first = awake = process.threads()
        while awake:
            time.sleep(0.05)
            now = process.threads()
            awake = {number: first[number] for number in awake if number in now and not now[number].asleep}
            for number, before in awake.items():
                after = now[number]
                if after.sleeps > before.sleeps:
                    first[number] = after
                elif after.used - before.used > MOST_WITHOUT_SLEEP:
                    raise AssertionError(
                        f"{after.name} has used {after.used - before.used:.1f} s of processor time and does not sleep"
                        f"\n{self.doorman.state()}\n{self._log()}"
                    )

    def _is_quiet(self, wakes: list[float]) -> bool:
        """Whether during some rounds of the janitor next to nothing happened."""
        process = self.doorman.process
        before = after = process.threads()
        janitor = next(number for number, thread in before.items() if thread.name == "janitor")
        while (rounds := after[janitor].sleeps - before[janitor].sleeps) < JANITOR_ROUNDS:
            self.doorman.check_alive()
            time.sleep(0.02)
            after = process.threads()
        woken = sum(
            thread.sleeps - before[number].sleeps
            for number, thread in after.items()
            if number in before and number != janitor
        )
        wakes.append(round(woken / rounds, 1))
        return woken <= rounds * MOST_WAKES

    def must_not_have_grown(self, megabytes: float) -> Self:
        grown = (self.doorman.resident_bytes() - self.base.resident) / 1e6
        assert grown < megabytes, f"it grew by {grown:.0f} MB"
        return self

    def after(self) -> None:
        """All of it."""
        self.must_serve().must_be_clean().must_rest()

    def _log(self) -> str:
        return f"end of the pooler's log:\n{self.doorman.log_tail(25)}"


def what_came(wire: Wire, patience: float = 30.0) -> list[Reply]:
    """Everything until the peer closes; fails if it neither closes nor says anything in time. Raises WireError if what
    comes is no PostgreSQL message."""
    return wire.wait_closed(patience)


def must_be_refused(replies: list[Reply], story: str, sqlstates: tuple[str, ...] = ()) -> None:
    """One ErrorResponse at the end at most, no AuthenticationOk, no ReadyForQuery."""
    kinds = "".join(reply.kind for reply in replies)
    assert "Z" not in kinds, f"{story}: it was let in: {replies}"
    assert not any(reply.kind == "R" and reply.body[:4] == b"\0\0\0\0" for reply in replies), (
        f"{story}: let in: {replies}"
    )
    if "E" in kinds:
        assert kinds.index("E") == len(kinds) - 1, f"{story}: more came behind the error: {replies}"
        fields = replies[-1].fields()
        assert fields.get("S") == "FATAL", f"{story}: {replies[-1]} ends the connection, so it must be FATAL"
        assert len(fields.get("C", "")) == 5, f"{story}: no SQLSTATE in {replies[-1]}"
        assert not sqlstates or fields["C"] in sqlstates, f"{story}: {replies[-1]} instead of {sqlstates}"
