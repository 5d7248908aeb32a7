"""Commands for a pooler that runs, and configurations that commands make, as an operator would use them."""

import json
import os
import pty
import select
import subprocess
import sys
import termios
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pgdoorman.cli.main import app, with_command
from pgdoorman.config.load import load, load_text
from pgdoorman.config.settings import ServerTlsMode
from tests.integration.conftest import StartDoorman
from tests.support.certificates import Authority
from tests.support.doorman import ADMIN_PASSWORD, ADMIN_USER, Doorman, pool, table, user
from tests.support.postgres import SECRET, Postgres
from tests.support.process import Process, free_port, wait_until
from tests.support.tls_postgres import TlsPostgres
from tests.support.wire import HungUp, ServerError, Wire

PATIENCE = 60.0
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Done:
    """What a command has said."""

    returncode: int
    stdout: str
    stderr: str


def _run(*arguments: str, **environment: str) -> Done:
    """A command in this process, which saves the start of an interpreter each time."""
    done = CliRunner().invoke(app, with_command(list(arguments)), env={"CONFIG_FILE": None, **environment})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Done(done.exit_code, done.stdout, done.stderr)


def _run_process(*arguments: str, directory: Path | None = None) -> Done:
    """The same as a user has it."""
    done = subprocess.run(
        [sys.executable, "-m", "pgdoorman", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def running(start_doorman: StartDoorman, postgres: Postgres) -> Doorman:
    return start_doorman(pools={"app": pool(postgres, user("alice", pool_size=4))})


def _pid(doorman: Doorman) -> tuple[str, str]:
    return "--pid", str(doorman.process.process_id)


def test_looking(running: Doorman) -> None:
    with running.connect(patience=PATIENCE) as wire:
        wire.run("select 1")
        status = _run("status", *_pid(running))
        assert status.returncode == 0, status.stderr
        said = dict(line.split("  ", 1) for line in status.stdout.splitlines())
        assert said["state"].strip() == "active"
        assert f"127.0.0.1:{running.port}" in status.stdout

        found = json.loads(_run("status", *_pid(running), "--json").stdout)
        assert found["process_id"] == running.process.process_id
        assert found["clients"] == 1
        assert found["config_file"] == str(running.config_file)

        (row,) = json.loads(_run("show", "pools", *_pid(running), "--json").stdout)
        assert (row["database"], row["user"], row["cl_idle"], row["pool_size"]) == ("app", "alice", 1, 4)
        head, line = _run("show", "POOLS", *_pid(running)).stdout.splitlines()
        assert head.split()[:3] == ["database", "user", "pool_mode"]
        assert line.split()[:3] == ["app", "alice", "transaction"]

        (sockets,) = json.loads(_run("show", "sockets", *_pid(running), "--json").stdout)
        assert sockets["tcp_listen"] == 1
        assert sockets["tcp_established"] == 2, "the client and its backend"
        assert sockets["unix_connected"] >= 1, "this command"

        once = _run("top", "--once", *_pid(running))
        assert once.returncode == 0, once.stderr
        assert "alice@app" in once.stdout
        with Wire.connect(
            running.host,
            running.port,
            user=ADMIN_USER,
            password=ADMIN_PASSWORD,
            database="pgbouncer",
            patience=PATIENCE,
        ) as console:
            wire.send_bytes(b"Q\x00\x00\x01\x00" + b"x" * 20)  # the beginning of a longer message
            busy: list[dict[str, str | None]] = []

            def is_seen() -> bool:
                busy[:] = table(console, "show active_sockets")
                return bool(busy)

            wait_until(is_seen, PATIENCE, "the bytes to be seen")
            assert [(row["type"], row["user"], row["pkt_avail"]) for row in busy] == [("C", "alice", "25")]
            assert (busy[0]["local_addr"], busy[0]["local_port"]) == ("127.0.0.1", str(running.port))
            (server,) = table(console, "show servers")
            assert server["local_addr"] == "127.0.0.1"
            assert int(server["local_port"] or 0) > 0
    nothing = _run("show", "nonsense", *_pid(running))
    assert nothing.returncode == 1
    assert "Unsupported SHOW" in nothing.stderr


def test_a_live_screen_that_listens_to_keys(running: Doorman) -> None:
    ours, theirs = pty.openpty()
    screen = b""
    try:
        child = subprocess.Popen(
            [sys.executable, "-X", "gil=0", "-m", "pgdoorman", "top", "-i", "0.2", *_pid(running)],
            stdin=theirs,
            stdout=theirs,
            stderr=subprocess.PIPE,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "170", "LINES": "30"},
        )
        with child:
            watchdog = threading.Timer(PATIENCE, child.kill)
            watchdog.start()
            while b"alice@app" not in screen and child.poll() is None:
                screen += os.read(ours, 65536)
            before = termios.tcgetattr(ours)
            os.write(ours, b"wq")
            while child.poll() is None:
                if select.select([ours], [], [], 0.1)[0]:
                    screen += os.read(ours, 65536)
            watchdog.cancel()
            assert child.poll() == 0, child.stderr.read() if child.stderr else ""
            assert not before[3] & termios.ICANON, "single keys"
            assert termios.tcgetattr(ours)[3] & termios.ICANON, "the terminal is as it was"
    finally:
        os.close(ours)
        os.close(theirs)
    assert b"q quit" in screen


def test_over_the_network_with_the_admins_password(running: Doorman) -> None:
    where = ("--host", running.host, "--port", str(running.port))
    assert _run("show", "version", *where, "--user", "admin", PGPASSWORD="admin-secret").returncode == 0
    wrong = _run("show", "version", *where, "--user", "admin", PGPASSWORD="wrong")
    assert wrong.returncode == 1
    assert "password authentication failed" in wrong.stderr.lower()
    by_file = _run("show", "version", "--host", running.host, "--config", str(running.config_file))
    assert by_file.returncode == 0, by_file.stderr


def test_the_one_whose_configuration_it_is(start_doorman: StartDoorman, postgres: Postgres) -> None:
    pools = {"app": pool(postgres, user("alice"))}
    first, second = start_doorman(pools=pools), start_doorman(pools=pools)
    for doorman in (first, second):
        found = json.loads(_run("status", "--json", "--config", str(doorman.config_file)).stdout)
        assert found["process_id"] == doorman.process.process_id
    unclear = _run_process("status", directory=first.directory.parent)
    assert unclear.returncode == 69
    assert "several pgdoormans run here" in unclear.stderr
    assert "--pid" in unclear.stderr


def test_nobody_there(tmp_path: Path) -> None:
    done = _run("reload", "--pid", str(os.getpid()))
    assert done.returncode == 69
    assert "has no local console" in done.stderr
    done = _run("status", "--host", "127.0.0.1", "--port", str(free_port()))
    assert done.returncode == 69
    assert "refused" in done.stderr


def test_reload_tells_what_changed_and_what_waits(running: Doorman) -> None:
    assert _run("reload", *_pid(running)).stdout == "reloaded, nothing has changed\n"
    running.general["query_wait_timeout"] = "11s"
    running.general["worker_threads"] = 3
    running.write_config()
    done = _run("reload", *_pid(running))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "  general.query_wait_timeout: 10s -> 11s",
        "  general.worker_threads: 2 -> 3 -- waits for a restart",
        "reloaded",
    ]

    running.general["query_wait_timeout"] = "12s"
    running.write_config()
    found = json.loads(_run("reload", "--json", *_pid(running)).stdout)
    assert found == {
        "applied": True,
        "changed": ["general.query_wait_timeout: 11s -> 12s", "general.worker_threads: 2 -> 3 (needs restart)"],
        "restart_needed": ["general.worker_threads"],
        "warnings": [],
    }


def test_a_key_is_set_and_taken_over(running: Doorman) -> None:
    where = ("-c", str(running.config_file), *_pid(running))
    done = _run("config", "set", "pools.app.users.alice.pool_size", "9", "--reload", *where)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "reloaded"), done.stderr
    assert [row["pool_size"] for row in running.show("pools")] == ["9"]
    refused = _run("config", "set", "pools.app.users.alice.pool_size", "0", "--reload", *where)
    assert refused.returncode == 78
    assert "reloaded" not in refused.stdout
    assert [row["pool_size"] for row in running.show("pools")] == ["9"]


def test_a_bad_file_changes_nothing_and_is_told(running: Doorman) -> None:
    with running.config_file.open("a") as file:
        file.write("\n[nonsense]\n")
    done = _run("reload", *_pid(running), "--config", str(running.config_file))
    assert done.returncode == 78
    assert "nothing was changed" in done.stderr
    assert f"{running.config_file}:" in done.stderr
    assert "no such section" in done.stderr
    running.wait_logged("no such section")
    failed = json.loads(_run("reload", "--json", *_pid(running)).stdout)
    assert failed["applied"] is False
    assert len(failed["errors"]) == 1
    with running.connect(patience=PATIENCE) as wire:
        assert wire.value("select 1") == "1"


def test_acting(running: Doorman) -> None:
    with running.connect(patience=PATIENCE) as wire:
        assert _run("pause", "app", *_pid(running)).returncode == 0
        assert [row["paused"] for row in running.show("pools")] == ["1"]
        assert _run("resume", "app", *_pid(running)).returncode == 0
        assert wire.value("select 1") == "1"
        before = wire.value("select pg_backend_pid()")
        assert _run("reconnect", *_pid(running)).returncode == 0
        assert wire.value("select pg_backend_pid()") != before
        unknown = _run("pause", "no such", *_pid(running))
        assert unknown.returncode == 1
        assert 'database "no such"' in unknown.stderr
        assert _run("kill", "app", *_pid(running)).returncode == 0
        assert [reply.fields()["C"] for reply in wire.wait_closed(PATIENCE) if reply.kind == "E"] == ["57P01"]


@pytest.mark.parametrize("how", ["--graceful", "--now"])
def test_stop(start_doorman: StartDoorman, postgres: Postgres, how: str) -> None:
    doorman = start_doorman(pools={"app": pool(postgres, user("alice"))}, general={"shutdown_timeout": "1h"})
    with doorman.connect(patience=PATIENCE) as wire:
        wire.run("begin")
        wire.run("select 1")
        if how == "--graceful":
            waiting = _run("stop", how, "--wait", "0.5", *_pid(doorman))
            assert waiting.returncode == 75
            assert "still running" in waiting.stderr
            wire.run("commit")
        done = _run("stop", how, *_pid(doorman))
    assert done.returncode in (0, 69), done.stderr  # 69: it was gone before we came
    wait_until(lambda: not doorman.process.is_running, PATIENCE, "its end")


# --- the console's SET ---


def test_settings_can_be_changed_until_the_next_reload(running: Doorman) -> None:
    def value(key: str) -> str | None:
        return next(row["value"] for row in running.show("config") if row["key"] == key)

    with running.admin(PATIENCE) as admin:
        admin.run("set query_wait_timeout = '7s'")
        admin.run("set log_client_connections to off")
        assert (value("query_wait_timeout"), value("log_client_connections")) == ("7000", "false")
        for statement, complaint in (
            ("set port = 1234", "takes a restart"),
            ("set query_wait_timeout = 'soon'", "must be a duration"),
            ("set nonsense = 1", "no such setting"),
            ("set admin_password = 'x'", "cannot be changed here"),
            ("set tls_rate_limit_per_second = 150", "multiple of 100"),
        ):
            with pytest.raises(ServerError, match=complaint):
                admin.run(statement)
        admin.run("reset log_client_connections")
        assert value("log_client_connections") == "true"
        admin.run("reload")
        assert value("query_wait_timeout") == "10000"


def test_a_changed_setting_holds_for_who_is_connected(running: Doorman) -> None:
    with running.admin(PATIENCE) as admin, running.connect(patience=PATIENCE) as wire:
        assert wire.value("select 1") == "1"
        admin.run("set query_timeout = '200ms'")
        with pytest.raises(HungUp, match="query_timeout"):
            wire.value("select pg_sleep(60)", PATIENCE)


# --- generate ---


def _let_in(path: Path, *roles: str) -> None:
    """Runs the file that was generated, on a free port, and has the roles come in, each with its password only."""
    port = free_port()
    path.write_text(path.read_text().replace("6432", str(port)))
    log = path.with_suffix(".log")
    with Process([sys.executable, "-X", "gil=0", "-m", "pgdoorman", str(path)], log, directory=ROOT) as process:
        process.wait_ready(lambda: "listening on 0.0.0.0" in process.log(), PATIENCE)
        for role in roles:
            with Wire.connect("127.0.0.1", port, user=role, database="app", password=SECRET, patience=PATIENCE) as wire:
                assert wire.value("select current_user") == role
            with pytest.raises(ServerError, match="28P01"):
                Wire.connect("127.0.0.1", port, user=role, database="app", password="wrong", patience=PATIENCE)


@pytest.mark.parametrize("ending", ["toml", "yaml"])
def test_a_configuration_made_from_a_server_lets_its_roles_in(workspace: Path, postgres: Postgres, ending: str) -> None:
    path = workspace / f"generated.{ending}"
    done = _run("generate", "--host", postgres.host, "-p", str(postgres.port), "-u", "postgres", "-o", str(path))
    assert done.returncode == 0, done.stderr
    assert path.stat().st_mode & 0o777 == 0o600, "it holds passwords"
    assert "left out, since they have no password: alice, bob" in done.stderr
    assert _run("check", str(path)).returncode == 0
    settings = load(path)
    assert {"app", "other", "postgres"} <= settings.pools.keys()
    roles = {entry.username for entry in settings.pools["app"].users}
    assert {"md5_user", "scram_user", "clear_user", "locked"} == roles
    _let_in(path, "md5_user", "scram_user")


def test_a_role_that_may_not_read_passwords_gets_an_auth_query(workspace: Path, postgres: Postgres) -> None:
    path = workspace / "by_query.toml"
    done = _run(
        "generate", "--host", postgres.host, "-p", str(postgres.port), "-u", "plain", "-d", "app", "-o", str(path)
    )
    assert done.returncode == 0, done.stderr
    lookup = load(path).pools["other"].auth_query
    assert lookup is not None
    assert (lookup.user, lookup.database) == ("plain", "app")
    # What the file tells a superuser to do is enough.
    told = path.read_text().split("a superuser has to run:\n")[1].split("\n\n")[0]
    postgres.run("\n".join(line.removeprefix("#") for line in told.splitlines()), database="app")
    with postgres.connect("app", "plain") as wire:
        name, secret = wire.rows(lookup.query.replace("$1", "'scram_user'"))[0]
        assert name == "scram_user"
        assert str(secret).startswith("SCRAM-SHA-256$")
        with pytest.raises(ServerError, match="42501"):
            wire.rows("select passwd from pg_shadow")
    _let_in(path, "md5_user", "scram_user")


def test_a_server_that_wants_tls(workspace: Path) -> None:
    pair = Authority("Servers").issue("postgres", ["127.0.0.1"])
    with TlsPostgres(pair, Authority("Clients")) as server:
        server.populate()
        where = ("--host", server.host, "-p", str(server.port), "-u", "only_tls", "-d", "app", "-f", "toml")
        refused = _run("generate", *where, PGPASSWORD="wrong")
        assert refused.returncode == 69
        assert "password authentication failed" in refused.stderr
        for options, mode in (((), ServerTlsMode.ALLOW), (("--ssl",), ServerTlsMode.REQUIRE)):
            done = _run("generate", *where, *options, PGPASSWORD=SECRET)
            assert done.returncode == 0, done.stderr
            assert load_text(done.stdout).general.server_tls_mode is mode


def test_options_of_generate(postgres: Postgres) -> None:
    options = ("--no-comments", "-s", "--pool-size", "7", "--server-host", "db.example", "-f", "toml")
    done = _run("generate", "--host", postgres.host, "-p", str(postgres.port), "-u", "postgres", *options)
    assert done.returncode == 0, done.stderr
    assert "#" not in done.stdout
    assert 'pool_mode = "session"' in done.stdout
    assert 'server_host = "db.example"' in done.stdout
    assert "pool_size = 7" in done.stdout
    nobody = _run("generate", "--host", "127.0.0.1", "-p", str(free_port()))
    assert nobody.returncode == 69
    assert "refused" in nobody.stderr
