"""The life of the process: build the rooms, open the doors, serve, reload, drain, close."""

import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import monotonic, time
from types import FrameType
from typing import Any

from pgdoorman import __version__
from pgdoorman.auth.client_login import LoginKnobs
from pgdoorman.auth.scram import MadeVerifiers
from pgdoorman.backend.cancel import wait_cancelled
from pgdoorman.client.budget import Budget
from pgdoorman.client.cancel_keys import CancelKeys
from pgdoorman.client.limits import enforce, passed_limit
from pgdoorman.client.listening import begin_listening
from pgdoorman.client.moving import Removal
from pgdoorman.client.services import Services
from pgdoorman.client.session import Session
from pgdoorman.config.changes import compare, in_force
from pgdoorman.config.keys import Change
from pgdoorman.config.load import load
from pgdoorman.config.override import with_setting, without_setting
from pgdoorman.config.rows import rows
from pgdoorman.config.settings import GeneralSettings, IdleAtStop, Settings
from pgdoorman.control import ConfigRow, Identity, ReloadOutcome, ShutdownMode
from pgdoorman.doorman.access import Access, read_access
from pgdoorman.doorman.encryption import PreparedTls, prepare_tls
from pgdoorman.doorman.lookups import Lookups, shared_pools
from pgdoorman.doorman.operator import Operator
from pgdoorman.doorman.reception import Desk
from pgdoorman.doorman.service import Service
from pgdoorman.errors import BackendUnavailable, ConfigError, HandoverError, PgDoormanError
from pgdoorman.logs.writer import Logs
from pgdoorman.pool.pool import Pool, Surroundings, socket_options
from pgdoorman.pool.registry import Registry, retire
from pgdoorman.protocol.startup import CancelRequest
from pgdoorman.runtime.acceptor import Acceptor
from pgdoorman.runtime.helpers import Helpers
from pgdoorman.runtime.memory import MemoryReturn, give_back, resident_bytes
from pgdoorman.runtime.periodic import Periodic
from pgdoorman.runtime.process import NoSuchUser, become_user, bind_thread, cores_for_workers, raise_descriptor_limit
from pgdoorman.runtime.systemd import ServiceManager
from pgdoorman.runtime.worker import Worker
from pgdoorman.transport.connect import Address
from pgdoorman.transport.handshake_rate import HandshakeRate
from pgdoorman.transport.listen import (
    CannotListen,
    Door,
    adopt,
    open_abstract,
    open_operators_door,
    open_tcp,
    open_unix,
)
from pgdoorman.transport.peer import peer_of
from pgdoorman.transport.sockets import SocketOptions, apply_inherited, set_buffers
from pgdoorman.upgrade.channel import Channel
from pgdoorman.upgrade.handover import Receiver, Sender
from pgdoorman.upgrade.successor import SuccessorPlan, is_successor, sockets_are_lent
from pgdoorman.web.routes import Routes
from pgdoorman.web.server import WebServer

log = logging.getLogger(__name__)

TICK = 0.05  # seconds between looks at waiting clients and openings: the precision of query_wait_timeout
LIMITS_TICK = 0.25  # seconds between looks at the time limits of clients that have a backend
IDLE_TICK = 1.0  # the same for those that have none: there are thousands of them, and their limits are long
PERIOD = 15.0  # seconds of a statistics period
# Objects born and not died since the last cyclic collection. What leaves no circles behind never gets there but by
# clients that stay (some 30 each); a collection among 10,000 of them stops all threads for some 20 ms.
GARBAGE_WORTH_LOOKING_FOR = 100_000
WEB_BACKLOG = 64
SERVICE_TICK = 0.5  # seconds between looks at the watchdog
LAST_STEPS = 15.0  # seconds that closing may take once nobody is waited for any more
CANCEL_TIMEOUT = 5.0  # seconds that a predecessor has to take a cancel request
HELLO_TIMEOUT = (
    1.0  # seconds that a successor has to say that it takes clients over: it has said so before it was ready
)
LAST_WORDS = 5.0  # seconds that clients on their way to a successor may take when this process ends
READY_TIMEOUT = 60.0  # seconds that a successor has to get ready
LOGIN_NICE = 5  # key derivations stand back behind queries: a third of a processor's time where both want all of it
DESCRIPTORS_KEPT = 64  # for files, pipes and eventfds beside clients and backends

HASTE = {
    ShutdownMode.WAIT_FOR_CLIENTS: 0,
    ShutdownMode.WAIT_FOR_SERVERS: 0,
    ShutdownMode.GRACEFUL: 1,
    ShutdownMode.AT_ONCE: 2,
}


class Doorman:
    """One running pooler. `open`, then `wait` until a signal or the console ends it."""

    def __init__(
        self,
        settings: Settings,
        path: Path | None = None,
        logs: Logs | None = None,
        listeners: Sequence[socket.socket] = (),
        successor: SuccessorPlan | None = None,
    ) -> None:
        """`listeners` are doors that somebody else has opened: those of the settings stay shut then. `successor` is how to
        start a process that takes our place."""
        self.settings = settings
        self.path = path
        self._given = listeners
        self._successor = successor
        self.upgrading = False
        self._succeeded = False
        self._loaded = settings
        self.clock = time() - monotonic()
        self._logs = logs
        general = settings.general
        self.serving = [Worker(f"worker-{index}", index) for index in range(general.worker_threads)]
        self.logins = [Worker(f"login-{index}", index) for index in range(general.login_workers)]
        self.helpers = Helpers(general.helper_threads)
        self.login_helpers = Helpers(max(1, general.helper_threads // 2), "login-helper", LOGIN_NICE)
        self.lookup_helpers = Helpers(general.helper_threads, "lookup")
        self.patient_helpers = Helpers(general.helper_threads, "patient-helper")
        self.reloader = Helpers(1, "reload")  # its own: others may be busy for seconds, with a server that is away
        surroundings = Surroundings(self.serving, self.helpers)
        self._connectors = surroundings.connectors
        self.registry = Registry(surroundings)
        self.lookups = Lookups(surroundings, self.lookup_helpers)
        self.budget = Budget(general.max_memory_usage)
        self.cancel_keys = CancelKeys()
        services = Services(
            helpers=self.helpers,
            cancel_keys=self.cancel_keys,
            budget=self.budget,
            session_ended=self._session_ended,
            pool_of=self.registry.find,
            listen=begin_listening,
        )
        self.desk: Desk = Desk(
            self,
            self.registry,
            services,
            self.cancel_keys,
            self.serving,
            self.logins,
            self.login_helpers,
            self.lookups,
            self.patient_helpers,
        )
        self.control = Operator(self)
        self.doors: list[Door] = []
        self._socket_options = SocketOptions()  # of clients' connections
        self._operators_listener: socket.socket | None = None
        self._web_listeners: list[socket.socket] = []
        self._cancel_listener: socket.socket | None = None
        self._predecessor = os.getppid() if is_successor() else 0
        self._sender: Sender | None = None
        self._receiver: Receiver | None = None
        if self._predecessor:
            self.desk.pass_cancel_on = self._pass_cancel_on
        self._lent = False
        self._upgrading = threading.Lock()
        self._acceptor: Acceptor | None = None
        self._web: WebServer | None = None
        self._janitor = Periodic()
        self._memory = MemoryReturn()
        self._service = Service(ServiceManager(), (*self.serving, *self.logins))
        self._ended = threading.Event()
        self._mode: ShutdownMode | None = None
        self._closing_at = float("inf")
        self._deadline = float("inf")
        self._collected_at = 0.0
        self._swept_at = 0.0
        self._reloading = threading.Lock()
        self.identity: Identity = Identity(
            version=__version__,
            interpreter=interpreter(),
            gil_enabled=gil_enabled(),
            process_id=os.getpid(),
            listen_port=general.port,
            started_at=time(),
            workers=len(self.serving),
            config_file=str(path or ""),
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
        self.desk.knobs = LoginKnobs(verifiers=MadeVerifiers(general.scram_iterations))
        self._let_in_by(read_access(self.settings), general)
        self.desk.login_timeout = general.client_login_timeout
        self._use_tls(prepare_tls(self.settings, None, self._connectors), general)
        self._check_descriptors()
        self._open_doors()
        self._web = self._open_web()
        if general.user is not None:
            # A socket that is root's with mode 0600 would be of use to nobody else.
            _become(general.user, [door.path for door in self.doors if door.path])
        if general.worker_stack_size is not None:
            threading.stack_size(general.worker_stack_size)
        self._apply_pools(self.settings)
        for worker in (*self.serving, *self.logins):
            worker.start()
        if general.worker_cpu_affinity_pinning:
            self._pin_workers()
        self._janitor.every(TICK, self._tick)
        self._janitor.every(LIMITS_TICK, self._look_at_busy)
        self._janitor.every(IDLE_TICK, self._look_at_idle)
        self._janitor.every(PERIOD, self._end_period)
        self._janitor.every(LIMITS_TICK, self._collect)
        self._janitor.every(IDLE_TICK, self._return_memory)
        self._janitor.every(SERVICE_TICK, self._service.watch)
        self._janitor.start()
        # What has been built so far lives as long as the process: the collector need not look at it again. It stops
        # every thread while it works, so it runs when the janitor says so, not in the middle of a query.
        gc.collect()
        gc.freeze()
        gc.disable()
        self._acceptor = Acceptor([door.listener for door in self.doors], self._take)
        self._acceptor.start()
        if self._web is not None:
            self._web.start()  # only now: who is told that we are ready may come
        self.identity = replace(self.identity, listening=tuple(door.name for door in self.doors))
        self._say_what_runs()
        self._service.begin(self._status)

    def _open_doors(self) -> None:
        general = self.general
        if self._given:
            # Those of a predecessor are ours now, file and all; those of a service manager stay its own.
            self._lent = not is_successor() or sockets_are_lent()
            given = [listener for listener in self._given if not self._is_webs(listener)]
            self.doors += [adopt(listener, owned=not self._lent) for listener in given]
        else:
            for host in general.hosts:
                self.doors += open_tcp(host, general.port, general.listen_backlog, reuse_port=general.so_reuseport)
            if general.unix_socket_dir:
                self.doors.append(
                    open_unix(general.unix_socket_dir, general.port, general.listen_backlog, general.unix_socket_mode)
                )
        if general.local_console:
            try:
                self.doors.append(open_operators_door(os.getpid()))
            except CannotListen as error:  # a sandbox may forbid it: clients do not need it
                log.warning("%s: the command line will need the admin's password", error)
            else:
                self._operators_listener = self.doors[-1].listener
        self._tune_doors()

    def _tune_doors(self) -> None:
        """Have connections accepted from now on with the options of the settings."""
        self._socket_options = socket_options(self.general.tcp)
        for door in self.doors:
            apply_inherited(door.listener, self._socket_options)

    @property
    def _status(self) -> str:
        return "listening on " + ", ".join(door.name for door in self.doors)

    def _pin_workers(self) -> None:
        cores = cores_for_workers(len(self.serving))
        if not cores:
            log.warning("worker_cpu_affinity_pinning has no effect with fewer than three cores")
        for worker, core in zip(self.serving, cores, strict=False):
            try:
                bind_thread(worker, core)
            except OSError as error:
                log.warning("cannot bind %s to core %d: %s", worker.name, core, error.strerror)

    def _check_descriptors(self) -> None:
        wanted = self._descriptors_wanted()
        allowed = raise_descriptor_limit(wanted)
        if allowed < wanted:
            log.warning(
                "only %d file descriptors may be open, but the settings allow for %d connections; "
                "raise the limit (LimitNOFILE, ulimit -n) or lower max_connections",
                allowed,
                wanted,
            )

    def _open_web(self) -> WebServer | None:
        web = self.settings.web
        if not web.enabled:
            return None
        # Not shared with another process: each has numbers of its own, and a scrape would find now these, now those.
        doors = [adopt(listener) for listener in self._given if self._is_webs(listener)] or [
            door for host in web.hosts for door in open_tcp(host, web.port, WEB_BACKLOG, reuse_port=False)
        ]
        self._web_listeners = [door.listener for door in doors]
        for door in doors:
            log.info("metrics and probes on http://%s", door.name)
        return WebServer([door.listener for door in doors], Routes(self.control).answer)

    def _is_webs(self, listener: socket.socket) -> bool:
        """Whether a socket that we were given is the one for HTTP: the port says so."""
        web = self.settings.web
        if not web.enabled or listener.family == socket.AF_UNIX:
            return False
        port = listener.getsockname()[1]
        return bool(port == web.port and port != self.general.port)

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
        if listener is self._operators_listener:
            self.desk.take_operator(sock, peer_of(sock, address))
            return
        if listener is self._cancel_listener and peer_of(sock, address).user_id not in (0, os.geteuid()):
            sock.close()
            return
        peer, options = peer_of(sock, address), self._socket_options
        set_buffers(sock, options.unix_buffer_size if peer.is_unix else options.buffer_size)
        self.desk.take(sock, peer)

    # Living.

    def hear_signals(self) -> None:
        """Take SIGTERM, SIGINT, SIGHUP and SIGUSR2. On the main thread, and before the doors open: who sees that they are
        open may send one."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGHUP, self._on_signal)
        signal.signal(signal.SIGUSR2, self._on_signal)

    def wait(self) -> None:
        """Until the house is to be closed; then close it."""
        while not self._ended.wait(0.5):
            pass
        self.close()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self.reloader.submit(self._reload_by_signal)
        elif number == signal.SIGUSR2:
            self.patient_helpers.submit(self._upgrade_by_signal)
        elif self._mode is ShutdownMode.GRACEFUL:
            # Said twice: whoever asks again does not want to wait.
            self.shut_down(ShutdownMode.AT_ONCE)
        else:
            self.shut_down(ShutdownMode.GRACEFUL)

    def _tick(self) -> None:
        now = monotonic()
        for pool in (*self.registry.all(), *self.registry.leaving()):
            pool.tick(now)
        for quota in self.registry.quotas():
            quota.tick(now)
        self.desk.expire_logins(now)
        self.control.check()
        if self._mode is not None:
            self._look_for_the_end(now)

    def _look_at_busy(self) -> None:
        now = monotonic()
        for pool in (*self.registry.all(), *self.registry.leaving()):
            pool.fold_counters()
            for backend in pool.ledger.members():
                holder = backend.holder
                if isinstance(holder, Session) and passed_limit(holder, now) is not None:
                    holder.worker.post(partial(enforce, holder))

    def _look_at_idle(self) -> None:
        if not any(pool.settings.client_idle_timeout for pool in (*self.registry.all(), *self.registry.leaving())):
            return
        now = monotonic()
        for session in list(self.desk.sessions.values()):
            if passed_limit(session, now) is not None:
                session.worker.post(partial(enforce, session))

    def _return_memory(self) -> None:
        if self._memory.is_worth_while(monotonic(), resident_bytes()):
            for worker in (*self.serving, *self.logins):
                worker.post(give_back)

    def _end_period(self) -> None:
        now = monotonic()
        pools = self.registry.all()
        for pool in pools:
            pool.period.close(pool.counters, now)
        self._service.end_period(pools, log_stats=self.general.log_stats)
        if gc.get_count()[0] > GARBAGE_WORTH_LOOKING_FOR:
            gc.collect()

    # Reloading.

    def reload(self) -> ReloadOutcome:
        """Read the file again and apply what changed. Raises ConfigErrors; then nothing was changed."""
        with self._reloading:
            if self.path is None:
                return ReloadOutcome()
            self._service.manager.reloading()
            told = "reload failed, nothing was changed"
            try:
                settings = load(self.path)
                outcome = self._apply_locked(settings)
                self._loaded = settings
                told = self._status
            except PgDoormanError as error:
                log.error("%s: %s", told, error)
                raise
            finally:
                self._service.manager.ready(told)
            log.info("reloaded: %s", "; ".join(outcome.changed) or "nothing has changed")
            for key in outcome.restart_needed:
                log.warning("%s has changed and takes effect at the next start", key)
            return outcome

    def change_setting(self, name: str, text: str | None) -> None:
        """Put another value of one general key in force until the next reload; None for the file's own.

        Raises ConfigError; then nothing was changed.
        """
        with self._reloading:
            if text is None:
                settings = without_setting(self.settings, name, self._loaded)
            else:
                settings = with_setting(self.settings, name, text)
            outcome = self._apply_locked(settings)
        log.info("%s: %s", "RESET" if text is None else "SET", "; ".join(outcome.changed) or "nothing has changed")

    def _apply_locked(self, settings: Settings) -> ReloadOutcome:
        """Have other settings. Raises ConfigError (rules, certificates that cannot be used) before anything is changed."""
        access = read_access(settings)
        tls = prepare_tls(settings, self.desk.tls, self._connectors)
        changes = compare(self.settings, settings)
        restart = tuple(changed.key for changed in changes.need_restart)
        renewed = self._use_tls(tls, settings.general)
        self._apply_pools(settings)
        self._let_in_by(access, settings.general)
        self.desk.login_timeout = settings.general.client_login_timeout
        self.budget.limit = settings.general.max_memory_usage
        self.settings = in_force(self.settings, settings)
        self._tune_doors()
        self._move_clients()
        return ReloadOutcome(changed=(*changes.lines(), *renewed), restart_needed=restart, warnings=settings.warnings)

    def _use_tls(self, tls: PreparedTls, general: GeneralSettings) -> Sequence[str]:
        """Have other certificates. Returns what files hold something new, in words."""
        before, self.desk.tls = self.desk.tls, tls.door
        if self.desk.handshakes.per_second != general.tls_rate_limit_per_second:
            self.desk.handshakes = HandshakeRate(general.tls_rate_limit_per_second)
        renewed = self._connectors.adopt(tls.connectors)
        words = []
        if before is not None and tls.door is not None and before.material != tls.door.material:
            words.append("certificates for clients: renewed")
        for pool in self.registry.all():
            if pool.settings.server_tls in renewed:
                # Those who are connected were let in by what no longer holds.
                pool.reconnect()
                words.append(f"certificates for {pool.user}@{pool.database}: renewed")
        return words

    def _let_in_by(self, access: Access, general: GeneralSettings) -> None:
        """From now on clients prove themselves by these rules."""
        desk = self.desk
        verifiers = desk.knobs.verifiers
        if verifiers.iterations != general.scram_iterations:
            verifiers = MadeVerifiers(general.scram_iterations)
        desk.rules = access.rules
        desk.knobs = replace(desk.knobs, verifiers=verifiers, ident_maps=access.ident_maps, talos=access.talos)
        desk.failed.limit, desk.failed.window = general.failed_login_limit, general.failed_login_window

    def _apply_pools(self, settings: Settings) -> None:
        self.lookups.apply(settings)
        self.desk.learn_secrets(settings)
        self.registry.apply(
            settings.effective_pools(),
            frozenset(settings.pools),
            shared=shared_pools(settings),
            remake=self.lookups.settings_of,
            made=self.control.prepare,
        )

    def prepare(self, pool: Pool) -> None:
        """A pool was made for a user that a look-up has found."""
        self.control.prepare(pool)

    def _collect(self) -> None:
        now = monotonic()
        if now - self._swept_at >= self.general.query_interner_gc_interval_seconds:
            self._swept_at = now
            idle = self.general.query_interner_anon_idle_ttl_seconds
            for pool in self.registry.all() if idle else ():
                pool.book.sweep(now, idle)
        if now - self._collected_at >= self.general.retain_connections_time:
            self._collected_at = now
            retire(self.registry.all(), now, self.general.retain_connections_max)
            self.desk.collect_pools()
            self.lookups.let_go(now)

    def _move_clients(self) -> None:
        """Clients follow their pool's new settings; those whose pool is gone are sent away at their transaction's end."""
        for session in list(self.desk.sessions.values()):
            session.worker.post(session.follow)
        for passage in list(self.desk.passages.values()):
            passage.worker.post(passage.follow)

    def _reload_by_signal(self) -> None:
        with suppress(PgDoormanError):  # which is in the log
            self.reload()

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

    # Upgrading.

    def upgrade(self, done: Callable[[], object] = lambda: None) -> None:
        """Start a new process, give it our listening sockets and, each at the end of its transaction, our clients; serve
        those that cannot go until they leave. Blocks until the new process is ready; `done` is called then, before this one
        begins to end.

        Raises HandoverError; then everything is as before.
        """
        if not self._upgrading.acquire(blocking=False):
            raise HandoverError("an upgrade is under way already")
        try:
            successor = self._find_successor()
            self.upgrading = True
            successor.wait_checked(READY_TIMEOUT)
            own = [door.listener for door in self.doors if door.listener is not self._operators_listener]
            try:
                ours, theirs = socket.socketpair()
            except OSError as error:
                raise HandoverError(f"there is no way for clients: {error.strerror}") from error
            try:
                process = successor.wait_started(
                    [*own, *self._web_listeners],
                    lent=self._lent and bool(self._given),
                    patience=READY_TIMEOUT,
                    clients=theirs,
                )
            except HandoverError:
                ours.close()
                raise
            finally:
                theirs.close()
            self._succeeded = True
            self._leave_doors_to(process)
            self._open_way_for_clients(Channel(ours))
            done()
            self.shut_down(ShutdownMode.GRACEFUL)
        except HandoverError as error:
            log.error("no upgrade, everything is as before: %s%s", error, error.detail and f"\n{error.detail}")
            raise
        finally:
            self.upgrading = False
            self._upgrading.release()

    def _find_successor(self) -> SuccessorPlan:
        if self._mode is not None or self._succeeded:
            raise HandoverError("pooler is shutting down")
        if self._successor is None:
            raise HandoverError("this process does not know how to start another one like it")
        if os.getpid() == 1:
            raise HandoverError("the first process of a container cannot be replaced: the container ends with it")
        return self._successor

    def _leave_doors_to(self, process: int) -> None:
        acceptor, self._acceptor = self._acceptor, None
        if acceptor is not None:
            acceptor.stop()
        # Only now: who hears this and comes is to find the new process.
        self._service.manager.main_process(process)
        log.info("process %d has taken over; this one serves those clients that it has until they leave", process)
        kept = [door for door in self.doors if door.listener is self._operators_listener]
        with suppress(CannotListen):  # then our clients cannot cancel any more, and that is all
            kept.append(open_abstract(cancel_address(os.getpid(), 0).path, "requests of our successor"))
            self._cancel_listener = kept[-1].listener
        for door in self.doors:
            if all(door is not other for other in kept):
                door.path = ""  # the file is the successor's
                door.close()
        self.doors = kept
        if kept:
            self._acceptor = Acceptor([door.listener for door in kept], self._take)
            self._acceptor.start()
        web, self._web = self._web, None
        if web is not None:
            web.stop()

    def _open_way_for_clients(self, channel: Channel) -> None:
        try:
            channel.wait_hello(HELLO_TIMEOUT)
        except HandoverError as error:
            log.warning("clients are not handed over, they will have to come again: %s", error.message)
            channel.close()
            return
        self._sender = Sender(channel, self._way_is_blocked)
        self._sender.start()

    def _way_is_blocked(self) -> None:
        """The successor is gone: what remains leaves as at any other stop."""
        self.desk.stop_handing_over()
        self.desk.dismiss_all()

    def receive_clients(self, sock: socket.socket) -> None:
        """Take over the clients that the predecessor sends by this socket. To be called when the doors are open."""
        self._receiver = Receiver(Channel(sock), self.desk.take_over)
        self._receiver.start()

    def _pass_cancel_on(self, request: CancelRequest, done: Callable[[], Any]) -> None:
        """A cancel request with a key that is none of ours: one of the process before us, perhaps."""

        def work() -> None:
            try:
                address = cancel_address(self._predecessor, 0)
                wait_cancelled(address, request.process_id, request.secret, CANCEL_TIMEOUT, SocketOptions())
            except BackendUnavailable:
                self.desk.pass_cancel_on = None  # it is gone
            finally:
                done()

        if not self.patient_helpers.submit(work):
            done()

    def _upgrade_by_signal(self) -> None:
        with suppress(HandoverError):  # which is in the log
            self.upgrade()

    # Closing.

    @property
    def draining(self) -> bool:
        """A stop has begun: whoever chooses between several poolers should choose another."""
        return self._mode is not None

    def shut_down(self, mode: ShutdownMode) -> None:
        """Begin to go down. A faster mode overrides a slower one."""
        if self._mode is not None and HASTE[mode] <= HASTE[self._mode]:
            return
        first, self._mode = self._mode is None, mode
        log.info("shutting down (%s)", mode.value)
        if mode is ShutdownMode.AT_ONCE:
            self._ended.set()
            return
        general = self.general
        graceful = mode is ShutdownMode.GRACEFUL
        # Who asks for a graceful stop while another kind is under way has been refused long enough.
        delay = general.shutdown_delay if graceful and first and not self._succeeded else 0.0
        self._closing_at = monotonic() + delay
        self._deadline = self._closing_at + general.shutdown_timeout if graceful else float("inf")
        if not self._succeeded:  # else the service goes on, in another process
            self._service.manager.stopping(f"shutting down ({mode.value})")
            if graceful:
                self._service.manager.extend(delay + general.shutdown_timeout + LAST_STEPS)
        if self._closing_at <= monotonic():
            self._close_for_clients()

    def _close_for_clients(self) -> None:
        """New clients are refused from now on, and those present leave at the end of their transaction."""
        self._closing_at = float("inf")
        self.desk.closed = True
        sender = self._sender
        if sender is not None:
            log.info("clients are handed over at the end of their transactions")
            self.desk.hand_over_all(Removal(sender.pass_on, self.desk.session_moved, "gone to another process"))
            for pool in self.registry.all():
                pool.run_down()
            return
        log.info("new clients are refused, transactions may finish")
        if self._mode is ShutdownMode.GRACEFUL:
            self.desk.dismiss_all(idle_too=self.general.shutdown_idle_clients is IdleAtStop.DISMISS)
        elif self._mode is ShutdownMode.WAIT_FOR_SERVERS:
            for pool in self.registry.all():
                pool.pause()

    def _look_for_the_end(self, now: float) -> None:
        if now >= self._closing_at:
            self._close_for_clients()
        if not self.desk.closed:
            return
        if self._mode is ShutdownMode.WAIT_FOR_SERVERS:
            busy = sum(pool.statistics().leased for pool in self.registry.all())
            if not busy:
                self._ended.set()
            return
        if self._nobody_is_left or now >= self._deadline:
            self._ended.set()

    @property
    def _nobody_is_left(self) -> bool:
        if self.desk.sessions:
            return False
        sender, receiver = self._sender, self._receiver
        if sender is None:
            return True
        # Those that still come in are sent on; and so are those that our own predecessor has yet to send.
        return sender.is_idle and self.desk.is_empty and (receiver is None or not receiver.is_alive())

    def close(self) -> None:
        """Stop everything that was started. Idempotent."""
        acceptor, self._acceptor = self._acceptor, None
        if acceptor is not None:
            acceptor.stop()
        for door in self.doors:
            door.close()
        self.doors.clear()
        self._janitor.stop()
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.close()
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
        if self._sender is not None:
            self._sender.close(LAST_WORDS)
            log.info("%d clients were handed over", self._sender.sent)
        self.lookups.close()
        self.helpers.close()
        self.login_helpers.close()
        self.lookup_helpers.close()
        self.patient_helpers.close()
        self.reloader.close()
        web, self._web = self._web, None
        if web is not None:
            web.stop()  # last: numbers can be read until the end
        log.info("pgdoorman is shut down")


def cancel_address(process: int, port: int) -> Address:
    """Where a process whose place has been taken hears cancel requests for the clients that it still has."""
    return Address(f"@pgdoorman.{process}.cancel", port)


def _become(user: str, files: Sequence[str]) -> None:
    try:
        become_user(user, files)
    except NoSuchUser as error:
        raise ConfigError(str(error), key="general.user") from error


def interpreter() -> str:
    """The Python that runs us, as in 3.13.5t."""
    version = ".".join(map(str, sys.version_info[:3]))
    return version + ("t" if "t" in getattr(sys, "abiflags", "") else "")


def gil_enabled() -> bool:
    """Whether the global interpreter lock is on at this moment."""
    check = getattr(sys, "_is_gil_enabled", None)
    return bool(check()) if check is not None else True
