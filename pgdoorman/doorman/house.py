"""The life of the process: build the rooms, open the doors, serve, reload, drain, close."""

import gc
import logging
import os
import resource
import signal
import sys
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from time import monotonic, time
from types import FrameType
from typing import Any

from pgdoorman import __version__
from pgdoorman.auth.client_login import LoginKnobs
from pgdoorman.auth.hba import HbaRules, allow_all, parse_hba, rules_from_networks
from pgdoorman.auth.scram import MadeVerifiers
from pgdoorman.client.budget import Budget
from pgdoorman.client.cancel_keys import CancelKeys
from pgdoorman.client.limits import enforce, has_limits, passed_limit
from pgdoorman.client.services import Services
from pgdoorman.client.session import Session
from pgdoorman.config.changes import compare
from pgdoorman.config.keys import Change
from pgdoorman.config.load import load
from pgdoorman.config.rows import rows
from pgdoorman.config.settings import GeneralSettings, Settings
from pgdoorman.control import ConfigRow, Identity, ReloadOutcome, ShutdownMode
from pgdoorman.doorman.operator import Operator
from pgdoorman.doorman.reception import Desk
from pgdoorman.errors import PgDoormanError
from pgdoorman.logs import Logs
from pgdoorman.pool.pool import Surroundings, socket_options
from pgdoorman.pool.registry import Registry
from pgdoorman.runtime.acceptor import Acceptor
from pgdoorman.runtime.helpers import Helpers
from pgdoorman.runtime.periodic import Periodic
from pgdoorman.runtime.worker import Worker
from pgdoorman.transport.listen import Door, open_tcp, open_unix
from pgdoorman.transport.peer import peer_of
from pgdoorman.transport.sockets import apply_options

log = logging.getLogger(__name__)

TICK = 0.05  # seconds between looks at waiting clients and openings: the precision of query_wait_timeout
LIMITS_TICK = 0.25  # seconds between looks at clients' time limits
PERIOD = 15.0  # seconds of a statistics period
# Objects born and not died since the last cyclic collection. What leaves no circles behind never gets there but by
# clients that stay (some 30 each); a collection among 10,000 of them stops all threads for some 20 ms.
GARBAGE_WORTH_LOOKING_FOR = 100_000
DESCRIPTORS_KEPT = 64  # for files, pipes and eventfds beside clients and backends


class Doorman:
    """One running pooler. `open`, then `wait` until a signal or the console ends it."""

    def __init__(self, settings: Settings, path: Path | None = None, logs: Logs | None = None) -> None:
        self.settings = settings
        self.path = path
        self.clock = time() - monotonic()
        self._logs = logs
        general = settings.general
        self.serving = [Worker(f"worker-{index}", index) for index in range(general.worker_threads)]
        self.logins = [Worker(f"login-{index}", index) for index in range(general.login_workers)]
        self.helpers = Helpers(general.helper_threads)
        self.login_helpers = Helpers(max(1, general.helper_threads // 2), "login-helper")
        self.registry = Registry(Surroundings(self.serving, self.helpers))
        self.budget = Budget(general.max_memory_usage)
        self.cancel_keys = CancelKeys()
        services = Services(
            helpers=self.helpers,
            cancel_keys=self.cancel_keys,
            budget=self.budget,
            session_ended=self._session_ended,
            pool_of=self.registry.find,
        )
        self.desk: Desk = Desk(
            self, self.registry, services, self.cancel_keys, self.serving, self.logins, self.login_helpers
        )
        self.control = Operator(self)
        self.doors: list[Door] = []
        self._acceptor: Acceptor | None = None
        self._janitor = Periodic()
        self._ended = threading.Event()
        self._mode: ShutdownMode | None = None
        self._deadline = float("inf")
        self._reloading = threading.Lock()
        self.identity: Identity = Identity(
            version=__version__,
            interpreter=interpreter(),
            gil_enabled=gil_enabled(),
            process_id=os.getpid(),
            listen_port=general.port,
            started_at=time(),
            workers=len(self.serving),
        )

    @property
    def general(self) -> GeneralSettings:
        """The general settings in force."""
        return self.settings.general

    def _session_ended(self, session: Session) -> None:
        self.desk.session_ended(session)

    # Opening.

    def open(self) -> None:
        """Open the doors and start the threads. Raises ConfigErrors (rules that cannot be used) and CannotListen."""
        general = self.general
        self.desk.rules = rules_of(general)
        self.desk.knobs = LoginKnobs(verifiers=MadeVerifiers(general.scram_iterations))
        self.desk.login_timeout = general.client_login_timeout
        raise_descriptor_limit(self._descriptors_wanted())
        for host in general.hosts:
            self.doors += open_tcp(host, general.port, general.listen_backlog)
        if general.unix_socket_dir:
            self.doors.append(
                open_unix(general.unix_socket_dir, general.port, general.listen_backlog, general.unix_socket_mode)
            )
        self.registry.apply(self.settings.effective_pools(), frozenset(self.settings.pools))
        for worker in (*self.serving, *self.logins):
            worker.start()
        self._janitor.every(TICK, self._tick)
        self._janitor.every(LIMITS_TICK, self._look_at_limits)
        self._janitor.every(PERIOD, self._end_period)
        self._janitor.start()
        # What has been built so far lives as long as the process: the collector need not look at it again. It stops
        # every thread while it works, so it runs when the janitor says so, not in the middle of a query.
        gc.collect()
        gc.freeze()
        gc.disable()
        self._acceptor = Acceptor([door.listener for door in self.doors], self._take)
        self._acceptor.start()
        self._say_what_runs()

    def _descriptors_wanted(self) -> int:
        backends = sum(settings.pool_size for settings in self.settings.effective_pools().values())
        return self.general.max_connections + backends + DESCRIPTORS_KEPT

    def _say_what_runs(self) -> None:
        threads = len(self.serving) + len(self.logins)
        log.info(
            "pgdoorman %s on Python %s, GIL %s, process %d: %d serving and %d login workers",
            __version__,
            interpreter(),
            "on" if gil_enabled() else "off",
            os.getpid(),
            len(self.serving),
            threads - len(self.serving),
        )
        for door in self.doors:
            log.info("listening on %s", door.name)
        for warning in self.settings.warnings:
            log.warning("%s", warning)

    def _take(self, sock: Any, address: Any, listener: Any) -> None:
        apply_options(sock, socket_options(self.general.tcp))
        self.desk.take(sock, peer_of(sock, address))

    # Living.

    def wait(self) -> None:
        """Until the house is to be closed; then close it. On the main thread, which is the one that gets signals."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGHUP, self._on_signal)
        while not self._ended.wait(0.5):
            pass
        self.close()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self.helpers.submit(self._reload_by_signal)
        elif self._mode is not None:
            # Said twice: whoever asks again does not want to wait.
            self.shut_down(ShutdownMode.AT_ONCE)
        else:
            self.shut_down(ShutdownMode.GRACEFUL)

    def _tick(self) -> None:
        now = monotonic()
        for pool in (*self.registry.all(), *self.registry.leaving()):
            pool.tick(now)
        self.control.check()
        if self._mode is not None:
            self._look_for_the_end(now)

    def _look_at_limits(self) -> None:
        now = monotonic()
        for session in list(self.desk.sessions.values()):
            if has_limits(session) and passed_limit(session, now) is not None:
                session.worker.post(partial(enforce, session))

    def _end_period(self) -> None:
        now = monotonic()
        for pool in self.registry.all():
            pool.period.close(pool.counters, now)
        if gc.get_count()[0] > GARBAGE_WORTH_LOOKING_FOR:
            gc.collect()

    # Reloading.

    def reload(self) -> ReloadOutcome:
        """Read the file again and apply what changed. Raises ConfigErrors; then nothing was changed."""
        with self._reloading:
            if self.path is None:
                return ReloadOutcome()
            settings = load(self.path)
            rules = rules_of(settings.general)
            restart = tuple(changed.key for changed in compare(self.settings, settings).need_restart)
            done = self.registry.apply(settings.effective_pools(), frozenset(settings.pools))
            self.desk.rules = rules
            self.desk.login_timeout = settings.general.client_login_timeout
            if settings.general.scram_iterations != self.general.scram_iterations:
                self.desk.knobs = LoginKnobs(verifiers=MadeVerifiers(settings.general.scram_iterations))
            self.budget.limit = settings.general.max_memory_usage
            self.settings = settings
            self._move_clients()
            outcome = ReloadOutcome(changed=tuple(done), restart_needed=restart, warnings=settings.warnings)
            log.info("reloaded: %s", "; ".join(done) or "no pool changed")
            for key in restart:
                log.warning("%s has changed and takes effect at the next start", key)
            return outcome

    def _move_clients(self) -> None:
        """Clients follow their pool's new settings; those whose pool is gone are sent away at their transaction's end."""
        for session in list(self.desk.sessions.values()):
            session.worker.post(session.follow)

    def _reload_by_signal(self) -> None:
        try:
            self.reload()
        except PgDoormanError as error:
            log.error("reload failed, nothing was changed: %s", error)

    def config_rows(self) -> Sequence[ConfigRow]:
        """The settings in force; secrets have no value."""
        return [
            ConfigRow(
                key=row.key,
                value=row.value,
                default=row.default,
                changeable=row.change is not Change.RESTART,
                secret=row.value == "***",
                doc=row.meaning,
            )
            for row in rows(self.settings)
        ]

    @property
    def log_level(self) -> str:
        """The levels of the log, as `set_log_level` takes them."""
        return self._logs.levels if self._logs is not None else "info"

    def set_log_level(self, text: str) -> None:
        """Change the levels of the log: `info`, or `info,pool=debug`. Raises ConfigError."""
        if self._logs is not None:
            self._logs.set_levels(text)

    # Closing.

    def shut_down(self, mode: ShutdownMode) -> None:
        """Begin to go down. A faster mode overrides a slower one."""
        if mode is ShutdownMode.AT_ONCE:
            self._mode = mode
            self._ended.set()
            return
        if self._mode is not None:
            return
        self._mode = mode
        self.desk.closed = True
        timeout = self.general.shutdown_timeout
        self._deadline = monotonic() + timeout if mode is ShutdownMode.GRACEFUL else float("inf")
        log.info("shutting down (%s): new clients are refused, transactions may finish", mode.value)
        if mode is ShutdownMode.GRACEFUL:
            self.desk.dismiss_all()

    def _look_for_the_end(self, now: float) -> None:
        if self._mode is ShutdownMode.WAIT_FOR_SERVERS:
            busy = sum(pool.statistics().leased for pool in self.registry.all())
            if not busy:
                self._ended.set()
            return
        if not self.desk.sessions or now >= self._deadline:
            self._ended.set()

    def close(self) -> None:
        """Stop everything that was started. Idempotent."""
        acceptor, self._acceptor = self._acceptor, None
        if acceptor is not None:
            acceptor.stop()
        for door in self.doors:
            door.close()
        self.doors.clear()
        self._janitor.stop()
        self.desk.expel_all()
        for console in list(self.desk.consoles.values()):
            console.worker.post(console.close)
        for pool in self.registry.all():
            pool.close()
        for worker in (*self.serving, *self.logins):
            if worker.is_alive():
                worker.stop()
        for worker in (*self.serving, *self.logins):
            if worker.is_alive():
                worker.join(5.0)
        self.helpers.close()
        self.login_helpers.close()
        log.info("pgdoorman is shut down")


def rules_of(general: GeneralSettings) -> HbaRules:
    """The host-based rules that the settings mean. Raises ConfigErrors."""
    if general.pg_hba is not None:
        return parse_hba(general.pg_hba.text, general.pg_hba.file)
    if general.hba:
        return rules_from_networks([str(network) for network in general.hba])
    return allow_all()


def raise_descriptor_limit(wanted: int) -> None:
    """Have at least `wanted` descriptors if the system lets us; warn if it does not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft == unlimited or soft >= wanted:
        return
    target = wanted if hard == unlimited else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(wanted, target), max(wanted, hard)))
    except (OSError, ValueError):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
        except (OSError, ValueError):
            target = soft
        log.warning(
            "only %d file descriptors may be open, but the settings allow for %d connections; "
            "raise the limit (LimitNOFILE, ulimit -n) or lower max_connections",
            target,
            wanted,
        )


def interpreter() -> str:
    """The Python that runs us, as in 3.13.5t."""
    version = ".".join(map(str, sys.version_info[:3]))
    return version + ("t" if "t" in getattr(sys, "abiflags", "") else "")


def gil_enabled() -> bool:
    """Whether the global interpreter lock is on at this moment."""
    check = getattr(sys, "_is_gil_enabled", None)
    return bool(check()) if check is not None else True
