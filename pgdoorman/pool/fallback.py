"""Another PostgreSQL when ours is down: the state of one pool, and how its backends are opened then.

    local --- it fails: put aside for the cooldown, Patroni asked, candidates raced ---> winner
    winner --- the cooldown is over: the pool reconnects ---> local

Blocking; for helper threads. While one of them looks for a winner the pool's others wait for what it finds.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from time import monotonic
from typing import Final

from pgdoorman.backend.connection import Backend
from pgdoorman.backend.patroni import Clusters, ClusterUnknown, Member, waves
from pgdoorman.backend.startup import OpeningPlan, wait_opened
from pgdoorman.config.settings import FallbackSettings
from pgdoorman.errors import BackendRefused, BackendUnavailable, PgDoormanError
from pgdoorman.transport.connect import Address
from pgdoorman.transport.tls_connect import TlsRejected

log = logging.getLogger(__name__)

LONGEST_COOLDOWN: Final = 60.0
"""Seconds that a candidate is left alone at most, however often it has failed."""

_GOING_DOWN: Final = "57P"  # operator intervention: shut down, crashed, starting up

type Open = Callable[[OpeningPlan], Backend]


def is_outage(error: PgDoormanError) -> bool:
    """Whether another host may do better: this one cannot be reached, goes down or starts up. A wrong password or a
    certificate that is not trusted is none."""
    if isinstance(error, BackendRefused):
        return error.sqlstate_of_server.startswith(_GOING_DOWN)
    return isinstance(error, BackendUnavailable) and not isinstance(error, TlsRejected)


class Fallback:
    """Of one pool. Thread-safe. `name` is what the log calls the pool; the counters are for whoever reports them."""

    def __init__(
        self,
        name: str,
        settings: FallbackSettings,
        clusters: Clusters,
        *,
        opened: Open = wait_opened,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.settings = settings
        self.api_requests = 0
        self.api_errors = 0
        self.connections = 0
        self.cache_hits = 0
        self.failures: Counter[str] = Counter()
        self._name = name
        self._clusters = clusters
        self._opened = opened
        self._clock = clock
        self._lock = Lock()
        self._searching = Lock()
        self._aside_until = 0.0
        self._reason: PgDoormanError | None = None  # why the local host was put aside
        self._winner: Member | None = None
        self._cooling: dict[Address, tuple[float, float]] = {}  # until when, and for how long the next time

    @property
    def host(self) -> Address | None:
        """Where backends are opened now, None if that is the local host."""
        winner = self._winner
        return winner.address if winner is not None else None

    def came_back(self) -> bool:
        """Whether the cooldown is over, and the pool has backends elsewhere that are to be replaced. True once."""
        with self._lock:
            if self._winner is None or self._clock() < self._aside_until:
                return False
            self._winner = None
            self._cooling.clear()
        log.info("[%s] the cooldown of the local host is over: it is tried again", self._name)
        return True

    def wait_opened(self, plan: OpeningPlan, patience: float) -> Backend:
        """As `startup.wait_opened`, at another host if that of the plan is down; in about `patience` seconds beside the
        plan's own. Raises what the local host has failed with where nobody else will do."""
        with self._lock:
            reason = self._reason if self._clock() < self._aside_until else None
        if reason is None:
            try:
                return self._opened(plan)
            except PgDoormanError as error:
                if not is_outage(error):
                    raise
                reason = error
            self._put_aside(plan.address, reason)
        deadline = self._clock() + patience
        backend = self._wait_elsewhere(plan, deadline)
        if backend is None:
            # To be tried first by the next opening: with nobody else there, leaving it alone would help nobody.
            with self._lock:
                if self._winner is None:
                    self._aside_until = 0.0
            # Not the one that others raise, too: a traceback grows at each raise.
            raise _again(reason)
        with self._lock:
            self.connections += 1
        return backend

    def _put_aside(self, address: Address, reason: PgDoormanError) -> None:
        with self._lock:
            is_first = self._clock() >= self._aside_until
            self._reason = reason
            if is_first:
                self._aside_until = self._clock() + self.settings.cooldown
        if is_first:
            log.warning(
                "[%s] the local host %s is put aside for %g s: %s", self._name, address, self.settings.cooldown, reason
            )

    def _wait_elsewhere(self, plan: OpeningPlan, deadline: float) -> Backend | None:
        for _ in range(2):  # if the one that another opener has found fails us, we look ourselves
            winner = self._winner
            if winner is None:
                if not self._searching.acquire(timeout=max(0.0, deadline - self._clock())):
                    return None
                try:
                    if self._winner is None:
                        return self._wait_found(plan, deadline)
                finally:
                    self._searching.release()
                continue
            backend, _ = self._wait_race("the last winner", [winner], plan, deadline)
            if backend is not None:
                with self._lock:
                    self.cache_hits += 1
                return backend
            with self._lock:
                if self._winner is winner:
                    self._winner = None
        return None

    def _wait_found(self, plan: OpeningPlan, deadline: float) -> Backend | None:
        with self._lock:
            self.api_requests += 1
        remaining = max(0.001, deadline - self._clock())
        try:
            members = self._clusters.find(self.settings.patroni_api_urls, min(self.settings.api_timeout, remaining))
        except ClusterUnknown as error:
            with self._lock:
                self.api_errors += 1
            log.warning("[%s] %s", self._name, error)
            return None
        now = self._clock()
        with self._lock:
            self._cooling = {
                address: kept for address, kept in self._cooling.items() if now - kept[0] < LONGEST_COOLDOWN
            }
        sync, replicas, leaders = waves(member for member in members if member.address != plan.address)
        if not sync:
            log.info("[%s] no sync_standby in cluster", self._name)
        outcomes: Counter[str] = Counter()
        for name, wave in (("wave 1", sync), ("wave 2", replicas), ("wave 2, leader", leaders)):
            warm = [member for member in wave if self._cooling.get(member.address, (0.0, 0.0))[0] <= now]
            if len(warm) < len(wave):
                outcomes["cooling down"] += len(wave) - len(warm)
            if not warm:
                continue
            backend, lost = self._wait_race(name, warm, plan, deadline)
            if backend is not None:
                return backend
            outcomes += lost
        log.warning("[%s] all fallback candidates rejected: %s", self._name, _summary(outcomes) or "there is none")
        return None

    def _wait_race(
        self, name: str, members: Sequence[Member], plan: OpeningPlan, deadline: float
    ) -> tuple[Backend | None, Counter[str]]:
        """The backend of the first that has one, and what became of the others until then."""
        limit = min(self.settings.connect_timeout, max(0.001, deadline - self._clock()))
        log.info("[%s] %s: trying %s", self._name, name, ", ".join(map(str, members)))
        race = _Race(self._opened)
        began = monotonic()
        for member in members:
            race.enter(member, replace(plan, address=member.address, timeout=limit))
        lost: Counter[str] = Counter()
        running = list(members)
        # What the system takes longer for than it was told to, names above all, is left behind.
        end = began + limit + 0.25
        while running:
            try:
                member, outcome = race.results.get(timeout=max(0.0, end - monotonic()))
            except Empty:
                break
            running.remove(member)
            if isinstance(outcome, Backend):
                race.finish()
                with self._lock:
                    self._winner = member
                    self._cooling.pop(member.address, None)
                log.info("[%s] %s: winner %s", self._name, name, member)
                return outcome, lost
            timed_out = isinstance(outcome, BackendUnavailable) and monotonic() >= began + limit
            self._rejected(member, _kind_of(outcome, timed_out), outcome, lost)
        race.finish()
        for member in running:
            self._rejected(member, "timeout", BackendUnavailable("timed out"), lost)
        log.warning("[%s] %s: no winner: %s", self._name, name, _summary(lost))
        return None, lost

    def _rejected(self, member: Member, kind: str, error: Exception, lost: Counter[str]) -> None:
        lost[kind] += 1
        with self._lock:
            self.failures[kind] += 1
            base = min(self.settings.connect_timeout, LONGEST_COOLDOWN)
            _, length = self._cooling.get(member.address, (0.0, base))
            self._cooling[member.address] = (self._clock() + length, min(2 * length, LONGEST_COOLDOWN))
        log.info("[%s] %s is left alone for %g s: %s", self._name, member, length, error)


class _Race:
    """Openings side by side on threads of their own: the helpers may all be among those that wait for the result."""

    def __init__(self, opened: Open) -> None:
        self.results: SimpleQueue[tuple[Member, Backend | Exception]] = SimpleQueue()
        self._opened = opened
        self._lock = Lock()
        self._over = False

    def enter(self, member: Member, plan: OpeningPlan) -> None:
        """One more that runs."""
        try:
            Thread(target=self._run, args=(member, plan), name="fallback", daemon=True).start()
        except RuntimeError as error:  # the system allows no more of them
            self.results.put((member, error))

    def _run(self, member: Member, plan: OpeningPlan) -> None:
        try:
            backend = self._opened(plan)
        except Exception as error:
            if not isinstance(error, PgDoormanError):
                log.exception("trying %s failed", member)
            self.results.put((member, error))
            return
        with self._lock:
            if not self._over:
                self.results.put((member, backend))
                return
        backend.close()

    def finish(self) -> None:
        """Close what comes too late, and what has come and was not taken."""
        with self._lock:
            self._over = True
        while not self.results.empty():
            _, outcome = self.results.get()
            if isinstance(outcome, Backend):
                outcome.close()


def _kind_of(error: Exception, timed_out: bool) -> str:
    if isinstance(error, BackendUnavailable):
        return "timeout" if timed_out else "unreachable"
    return "refused"


def _summary(outcomes: Counter[str]) -> str:
    return ", ".join(f"{number} {kind}" for kind, number in outcomes.items())


def _again(error: PgDoormanError) -> PgDoormanError:
    if isinstance(error, BackendRefused):
        return BackendRefused(error.fields)
    return BackendUnavailable(error.message, detail=error.detail, hint=error.hint)
