"""A good citizen: what the service manager hears, sockets that it hands over, the background, other users, the end."""

import contextlib
import os
import pwd
import re
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import StartDoorman
from tests.support.doorman import Doorman, pool, user
from tests.support.postgres import Postgres
from tests.support.process import wait_until
from tests.support.wire import HungUp, ServerError, Wire, query

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
PATIENCE = 60.0


class Manager:
    """A service manager's ear."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(str(path))
        self.sock.settimeout(PATIENCE)
        self.path = str(path)

    def wait_told(self, name: str) -> dict[str, str]:
        """The next message that has this field; what comes before it is dropped."""
        while True:
            fields = dict(line.split("=", 1) for line in self.sock.recv(4096).decode().split("\n"))
            if name in fields:
                return fields


@pytest.fixture
def manager(workspace: Path) -> Iterator[Manager]:
    path = workspace / "notify"
    found = Manager(path)
    yield found
    found.sock.close()
    path.unlink()


def _started(start_doorman: StartDoorman, postgres: Postgres, **settings: object) -> Doorman:
    return start_doorman(pools={"app": pool(postgres, user("alice", pool_size=4))}, **settings)


def test_the_manager_hears_of_every_turn(start_doorman: StartDoorman, postgres: Postgres, manager: Manager) -> None:
    doorman = _started(start_doorman, postgres, environment={"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "1000000"})
    told = manager.wait_told("READY")
    assert told["MAINPID"] == str(doorman.process.process_id)
    assert f"127.0.0.1:{doorman.port}" in told["STATUS"]
    for _ in range(2):
        manager.wait_told("WATCHDOG")

    doorman.reload()
    assert int(manager.wait_told("RELOADING")["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert "listening" in manager.wait_told("READY")["STATUS"]

    doorman.config_file.write_text("[general]\nnonsense = 1\n")
    doorman.process.send_signal(signal.SIGHUP)
    assert "reload failed" in manager.wait_told("READY")["STATUS"]

    doorman.process.send_signal(signal.SIGTERM)
    assert "shutting down" in manager.wait_told("STOPPING")["STATUS"]
    wait_until(lambda: not doorman.process.is_running, PATIENCE, "its end")
    assert doorman.process.exit_code == 0


def test_no_word_to_the_watchdog_while_a_worker_hangs(
    start_doorman: StartDoorman, postgres: Postgres, manager: Manager
) -> None:
    # A worker that hangs cannot be made from outside; one that is stopped as a whole process can.
    doorman = _started(start_doorman, postgres, environment={"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "400000"})
    manager.wait_told("WATCHDOG")
    doorman.process.send_signal(signal.SIGSTOP)
    try:
        manager.sock.settimeout(1.0)
        with contextlib.suppress(TimeoutError):
            for _ in range(20):
                manager.sock.recv(4096)
            pytest.fail("who is stopped goes on talking")
    finally:
        doorman.process.send_signal(signal.SIGCONT)
    manager.sock.settimeout(PATIENCE)
    manager.wait_told("WATCHDOG")


def test_sockets_of_the_manager_take_the_place_of_those_in_the_file(workspace: Path, postgres: Postgres) -> None:
    directory = workspace / "activated"
    doorman = Doorman(directory, pools={"app": pool(postgres, user("alice"))})
    doorman.write_config()
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        port = tcp.getsockname()[1]
        path = directory / f".s.PGSQL.{port}"
        unix.bind(str(path))
        unix.listen()
        descriptors = [tcp.fileno(), unix.fileno()]
        # As systemd does: from the third descriptor on, and the number of the process that is to take them.
        shell = (
            f"exec 30<&{descriptors[0]} 31<&{descriptors[1]}; exec 3<&30 4<&31 30<&- 31<&-; export LISTEN_PID=$$; "
            'exec "$@"'
        )
        log = (directory / "log").open("wb")
        child = subprocess.Popen(
            ["bash", "-c", shell, "bash", *doorman.command()],
            env={**os.environ, "LISTEN_FDS": "2", "NO_COLOR": "1"},
            pass_fds=descriptors,
            stderr=log,
            cwd=Path(__file__).parents[2],
        )
        log.close()
        try:
            with Wire.connect("127.0.0.1", port, user="alice", database="app", patience=PATIENCE) as wire:
                assert wire.value("select 1") == "1"
            with Wire.connect(str(directory), port, user="alice", database="app", patience=PATIENCE) as wire:
                assert wire.value("select 2") == "2"
            with pytest.raises(OSError, match="refused"):
                socket.create_connection(("127.0.0.1", doorman.port), timeout=5)
        finally:
            child.terminate()
            child.wait(PATIENCE)
        assert path.exists(), "what the manager has made is the manager's to remove"
    assert f"listening on 127.0.0.1:{port}" in (directory / "log").read_text()


def _in_background(doorman: Doorman, *options: str) -> subprocess.CompletedProcess[str]:
    command = doorman.command()
    return subprocess.run(
        [*command[:-1], "-d", *options, command[-1]], capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def test_in_the_background(workspace: Path, postgres: Postgres) -> None:
    directory = workspace / "background"
    doorman = Doorman(
        directory,
        pools={"app": pool(postgres, user("alice"))},
        general={"daemon_pid_file": str(directory / "pid"), "shutdown_timeout": "1s"},
    )
    doorman.write_config()
    done = _in_background(doorman)
    assert done.returncode == 0, done.stderr
    process = int((directory / "pid").read_text())
    try:
        # Ready when the command is: nobody has to wait for the port.
        with Wire.connect(doorman.host, doorman.port, user="alice", database="app") as wire:
            assert wire.value("select 1") == "1"
        stat = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
        assert int(stat[3]) not in (os.getsid(0), process), "a session of its own, in which it can get no terminal"
        names = {(task / "comm").read_text().strip() for task in Path(f"/proc/{process}/task").iterdir()}
        assert {"pgdoorman", "worker-0", "worker-1", "login-0", "acceptor"} <= names

        again = _in_background(doorman)
        assert again.returncode == 71
        assert f"belongs to process {process}" in again.stderr
    finally:
        handle = os.pidfd_open(process)
        os.kill(process, signal.SIGTERM)
        _wait_gone(handle)
    assert not (directory / "pid").exists()


def _wait_gone(handle: int) -> None:
    waiting = select.poll()
    waiting.register(handle, select.POLLIN)
    assert waiting.poll(PATIENCE * 1000), "it did not end"
    os.close(handle)


def test_a_start_in_the_background_that_fails_is_told(workspace: Path, postgres: Postgres) -> None:
    directory = workspace / "failing"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        doorman = Doorman(
            directory,
            pools={"app": pool(postgres, user("alice"))},
            general={"port": taken.getsockname()[1], "daemon_pid_file": str(directory / "pid")},
        )
        doorman.write_config()
        done = _in_background(doorman)
    assert done.returncode == 78
    assert "Address already in use" in done.stderr
    assert not (directory / "pid").exists()


@pytest.mark.parametrize("together", [False, True])
def test_one_port_for_two_only_if_both_say_so(start_doorman: StartDoorman, postgres: Postgres, together: bool) -> None:
    first = _started(start_doorman, postgres, general={"so_reuseport": together})
    second = Doorman(
        first.directory / "second",
        pools={"app": pool(postgres, user("alice"))},
        general={"port": first.port, "so_reuseport": together},
    )
    second.write_config()
    log = first.directory / "second.log"
    with log.open("wb") as output:
        child = subprocess.Popen(second.command(), stderr=output, cwd=Path(__file__).parents[2])
    try:
        if together:
            wait_until(
                lambda: b"listening on the local console" in log.read_bytes(), PATIENCE, "the second one's start"
            )
        else:
            assert child.wait(PATIENCE) == 78
            assert b"Address already in use" in log.read_bytes()
    finally:
        child.terminate()
        child.wait(PATIENCE)


@AS_ROOT
def test_root_is_given_up_once_the_doors_are_open(
    start_doorman: StartDoorman, postgres: Postgres, workspace: Path
) -> None:
    doorman = _started(start_doorman, postgres, general={"user": "nobody", "unix_socket_dir": str(workspace)})
    assert (workspace / f".s.PGSQL.{doorman.port}").owner() == "nobody"
    status = Path(f"/proc/{doorman.process.process_id}/status").read_text()
    number = str(pwd.getpwnam("nobody").pw_uid)
    assert re.search(rf"^Uid:\t{number}\t{number}\t{number}\t{number}$", status, re.MULTILINE), status
    with doorman.connect(patience=PATIENCE) as wire:
        assert wire.value("select 1") == "1"
    assert _command("status", "--pid", str(doorman.process.process_id)).returncode == 0, "root may come in all the same"


@AS_ROOT
def test_the_local_console_is_for_root_and_ourselves(start_doorman: StartDoorman, postgres: Postgres) -> None:
    doorman = _started(start_doorman, postgres)
    program = (
        "import os, socket, sys; os.setresuid(65534, 65534, 65534)\n"
        "sock = socket.socket(socket.AF_UNIX); sock.connect('\\0pgdoorman.' + sys.argv[1]); sock.settimeout(30)\n"
        "print(sock.recv(1000))"
    )
    process = str(doorman.process.process_id)
    done = subprocess.run(
        [sys.executable, "-c", program, process], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert "28000" in done.stdout
    assert "only root and the user" in done.stdout


def test_without_a_local_console(start_doorman: StartDoorman, postgres: Postgres) -> None:
    doorman = _started(start_doorman, postgres, general={"local_console": False})
    done = _command("status", "--pid", str(doorman.process.process_id))
    assert done.returncode == 69
    assert "has no local console" in done.stderr
    found = _command("status", "--host", doorman.host, "--config", str(doorman.config_file))
    assert found.returncode == 0, found.stderr


def _command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "gil=0", "-m", "pgdoorman", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


# --- a full table of descriptors ---


def test_a_full_table_of_descriptors_refuses_newcomers_and_recovers(
    start_doorman: StartDoorman, postgres: Postgres
) -> None:
    doorman = _started(start_doorman, postgres)
    process = doorman.process.process_id
    with doorman.connect(patience=PATIENCE) as present:
        assert present.value("select 1") == "1"
        few = doorman.descriptor_count() + 3
        before = resource.prlimit(process, resource.RLIMIT_NOFILE)
        resource.prlimit(process, resource.RLIMIT_NOFILE, (few, before[1]))
        waiting = [socket.create_connection((doorman.host, doorman.port), timeout=PATIENCE) for _ in range(8)]
        wait_until(lambda: "cannot accept a connection" in doorman.log(), PATIENCE, "a word in the log")
        assert present.value("select 2") == "2", "who is in is served"
        resource.prlimit(process, resource.RLIMIT_NOFILE, before)
        for sock in waiting:
            sock.close()
        with doorman.connect(patience=PATIENCE) as wire:
            assert wire.value("select 3") == "3"
        assert doorman.process.is_running


def test_a_limit_that_is_too_low_is_told(workspace: Path, postgres: Postgres) -> None:
    doorman = Doorman(workspace / "few", pools={"app": pool(postgres, user("alice"))}, general={"port": 0})
    doorman.write_config()
    program = (
        "import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))\n"
        "os.execv('/bin/sh', ['/bin/sh', '-c', 'ulimit -n 300; exec \"$@\"', 'sh', *sys.argv[1:]])"
    )
    log = workspace / "few" / "log"
    prefix = ["setpriv", "--bounding-set", "-sys_resource", "--inh-caps", "-sys_resource"] if os.geteuid() == 0 else []
    with log.open("wb") as output:
        child = subprocess.Popen(
            [*prefix, sys.executable, "-c", program, *doorman.command()], stderr=output, cwd=Path(__file__).parents[2]
        )
    try:
        wait_until(lambda: b"listening" in log.read_bytes(), PATIENCE, "its start")
        assert b"only 300 file descriptors may be open, but the settings allow for" in log.read_bytes()
    finally:
        child.terminate()
        child.wait(PATIENCE)


# --- the end ---


def test_a_graceful_stop_lets_transactions_finish(start_doorman: StartDoorman, postgres: Postgres) -> None:
    doorman = _started(start_doorman, postgres, general={"shutdown_timeout": "60s"})
    busy, idle, admin = doorman.connect(patience=PATIENCE), doorman.connect(patience=PATIENCE), doorman.admin(PATIENCE)
    busy.run("begin; create temporary table mine (x int)")
    assert idle.value("select 1") == "1"
    doorman.process.send_signal(signal.SIGTERM)

    assert _last_error(idle) == "57P01"
    # Retryable for whoever comes anew: at 57P03 libpq tries the next host.
    with pytest.raises((ServerError, HungUp), match="57P03"):
        doorman.connect(patience=PATIENCE)
    assert busy.value("select 3") == "3"
    with doorman.admin(PATIENCE) as late:  # console logins go on
        assert ("draining", "yes") in [tuple(row) for row in late.rows("show state")]
    busy.send(query("commit"))
    replies = busy.wait_closed(PATIENCE)
    assert [reply.kind for reply in replies] == ["C", "Z", "E"]
    assert replies[2].fields()["C"] == "57P01"
    wait_until(lambda: not doorman.process.is_running, PATIENCE, "its end")
    assert doorman.process.exit_code == 0
    for wire in (busy, idle, admin):
        wire.hang_up()


def test_idle_clients_may_stay_until_their_next_transaction(start_doorman: StartDoorman, postgres: Postgres) -> None:
    general = {"shutdown_timeout": "60s", "shutdown_idle_clients": "keep"}
    doorman = _started(start_doorman, postgres, general=general)
    with doorman.connect(patience=PATIENCE) as first, doorman.connect(patience=PATIENCE) as second:
        assert first.value("select 1") == "1"
        doorman.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "new clients are refused" in doorman.log(), PATIENCE, "the beginning of the end")
        first.run("begin")
        first.send(query("select 2"))
        replies = first.receive_until("Z")
        assert [reply.kind for reply in replies] == ["T", "D", "C", "Z"]
        first.send(query("commit"))
        assert _last_error(first) == "57P01"
        second.terminate()
        wait_until(lambda: not doorman.process.is_running, PATIENCE, "its end")


def _last_error(wire: Wire) -> str:
    """The SQLSTATE of the last error before the other side hung up."""
    return next(reply.fields()["C"] for reply in reversed(wire.wait_closed(PATIENCE)) if reply.kind == "E")


def test_the_deadline_ends_what_does_not_end(start_doorman: StartDoorman, postgres: Postgres) -> None:
    doorman = _started(start_doorman, postgres, general={"shutdown_timeout": "500ms", "shutdown_idle_clients": "keep"})
    with doorman.connect(patience=PATIENCE) as busy, doorman.connect(patience=PATIENCE) as idle:
        busy.run("begin")
        busy.run("select 1")
        doorman.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not doorman.process.is_running, PATIENCE, "its end")
        assert (_last_error(busy), _last_error(idle)) == ("57P01", "57P01")


def test_a_delay_during_which_only_the_probe_says_no(start_doorman: StartDoorman, postgres: Postgres) -> None:
    doorman = _started(start_doorman, postgres, general={"shutdown_delay": "1h"})
    doorman.process.send_signal(signal.SIGTERM)
    wait_until(lambda: {"key": "draining", "value": "yes"} in doorman.show("state"), PATIENCE, "draining")
    with doorman.connect(patience=PATIENCE) as wire:
        assert wire.value("select 1") == "1"
    doorman.process.send_signal(signal.SIGTERM)
    wait_until(lambda: not doorman.process.is_running, PATIENCE, "its end: who asks twice does not want to wait")


# --- systemd's files ---


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_the_unit_files_are_right_and_leave_little_open(tmp_path: Path) -> None:
    for name in ("pgdoorman.service", "pgdoorman.socket"):
        text = (Path(__file__).parents[2] / "config" / name).read_text()
        # Older than 253 it does not know the type that its verifier is to accept.
        text = text.replace("/usr/local/bin/pgdoorman", "/bin/true").replace("Type=notify-reload", "Type=notify")
        (tmp_path / name).write_text(text)
    units = [str(tmp_path / "pgdoorman.service"), str(tmp_path / "pgdoorman.socket")]
    verified = subprocess.run(
        ["systemd-analyze", "verify", *units], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    complaints = [line for line in verified.stderr.splitlines() if str(tmp_path) in line]
    assert complaints == []
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=20", units[0]],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert judged.returncode == 0, judged.stdout[-2000:]
