"""The demo from outside: a process that is started, read and interrupted. A plain relay stands in for the pooler."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

# Takes the demo's configuration file and relays each connection to its PostgreSQL, or misbehaves as its file says.
_RELAY = """
    import pathlib, signal, socket, sys, threading, tomllib

    if sys.argv[1] == "--version":
        print("relay 1.0")
        sys.exit()
    print("the relay's own log", flush=True)
    {misbehaviour}
    config = tomllib.loads(pathlib.Path(sys.argv[1]).read_text())
    general, pool = config["general"], config["pools"]["demo"]

    def pump(source, sink):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)

    listener = socket.create_server((general["host"], general["port"]))
    while True:
        client = listener.accept()[0]
        server = socket.socket(socket.AF_UNIX)
        server.connect(pool["server_host"] + "/.s.PGSQL.%d" % pool["server_port"])
        for pair in ((client, server), (server, client)):
            threading.Thread(target=pump, args=pair, daemon=True).start()
"""

_DEMO = """
    import sys
    from pgdoorman.cli.demo import POOLER, run_demo
    pooler = (sys.executable, sys.argv[2]) if len(sys.argv) > 2 else POOLER
    sys.exit(run_demo(int(sys.argv[1]), pooler=pooler))
"""


class _Demo:
    """A running demo; what it prints is read until a line that matches."""

    def __init__(self, directory: Path, port: int, *pooler: Path) -> None:
        self.temporary = directory / "t"
        self.temporary.mkdir(mode=0o755)
        self.text = ""
        self._process = subprocess.Popen(
            [sys.executable, "-X", "gil=0", "-c", textwrap.dedent(_DEMO), str(port), *pooler],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "TMPDIR": str(self.temporary)},
        )
        self._guard = threading.Timer(100, self._process.kill)
        self._guard.start()

    def read_until(self, pattern: str) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.text += line
            if re.search(pattern, line):
                return line
        pytest.fail(f"the demo ended without {pattern!r}:\n{self.text}")

    def end(self, how: signal.Signals | None) -> int:
        """Its exit code, after a signal or by itself; all it printed is in `text`."""
        if how is not None:
            self.send_signal(how)
        assert self._process.stdout is not None
        self.text += self._process.stdout.read()
        return self._process.wait(30)

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def close(self) -> None:
        self._guard.cancel()
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture
def room() -> Iterator[Path]:
    """Not pytest's own directory, which is closed to PostgreSQL's user, and which is a long path for a socket."""
    with tempfile.TemporaryDirectory(prefix="demo-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory


@pytest.fixture
def port() -> Iterator[int]:
    """A port that is taken, with the next one (almost surely) free."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def _relay(directory: Path, misbehaviour: str = "") -> Path:
    file = directory / "relay.py"
    file.write_text(textwrap.dedent(_RELAY.format(misbehaviour=misbehaviour)))
    return file


def _is_running(process_id: str) -> bool:
    return Path("/proc", process_id, "cmdline").exists()


def _try_out(demo: _Demo, taken: int) -> list[str]:
    """Runs the line that the screen offers. Returns the ids of the two processes."""
    command = demo.read_until("try it").split(maxsplit=2)[2].split()
    address = command[-1]
    chosen = int(re.findall(r":(\d+)/demo", address)[0])
    assert taken < chosen < taken + 100
    done = subprocess.run([*command, "-XAtc", "select 6 * 7"], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "42\n"
    demo.read_until("Ctrl-C")
    ids = re.findall(r"process (\d+)", demo.text)
    assert len(ids) == 2
    assert all(map(_is_running, ids))
    return ids


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_answers_and_leaves_nothing_behind(room: Path, port: int, how: signal.Signals) -> None:
    demo = _Demo(room, port, _relay(room))
    try:
        ids = _try_out(demo, port)
        assert "relay 1.0" in demo.text
        assert demo.end(how) == 0
    finally:
        demo.close()
    assert "nothing left behind" in demo.text
    assert not any(map(_is_running, ids))
    assert list(demo.temporary.iterdir()) == []


@pytest.mark.skipif(find_spec("pgdoorman.__main__") is None, reason="the pooler's command line does not exist yet")
def test_with_the_pooler_itself(room: Path, port: int) -> None:
    demo = _Demo(room, port)
    try:
        ids = _try_out(demo, port)
        assert re.search("GIL", demo.text)
        assert demo.end(signal.SIGINT) == 0
    finally:
        demo.close()
    assert not any(map(_is_running, ids))
    assert list(demo.temporary.iterdir()) == []


def test_a_pooler_that_ends_is_an_error_with_its_log(room: Path, port: int) -> None:
    demo = _Demo(room, port, _relay(room, "sys.exit(78)"))
    try:
        assert demo.end(None) == 1
    finally:
        demo.close()
    assert "exit code 78" in demo.text
    assert "the relay's own log" in demo.text
    assert "Traceback" not in demo.text
    assert list(demo.temporary.iterdir()) == []


def test_nothing_is_left_of_a_killed_demo(room: Path, port: int) -> None:
    demo = _Demo(room, port, _relay(room))
    try:
        ids = _try_out(demo, port)
        assert demo.end(signal.SIGKILL) == -signal.SIGKILL
        deadline = time.monotonic() + 30
        while any(map(_is_running, ids)) or list(demo.temporary.iterdir()):
            assert time.monotonic() < deadline, list(demo.temporary.iterdir())
            time.sleep(0.05)
    finally:
        demo.close()


def test_a_second_interrupt_does_not_disturb_the_clearing_up(room: Path, port: int) -> None:
    deaf = "import time; signal.signal(signal.SIGTERM, lambda *_: (time.sleep(2), sys.exit()))"
    demo = _Demo(room, port, _relay(room, deaf))
    try:
        _try_out(demo, port)
        threading.Timer(0.7, demo.send_signal, [signal.SIGINT]).start()
        assert demo.end(signal.SIGINT) == 0
    finally:
        demo.close()
    assert list(demo.temporary.iterdir()) == []
