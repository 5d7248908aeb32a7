"""What users of real drivers do, against PostgreSQL directly and through a transaction and a session pool.

The run against PostgreSQL judges the checks: all must pass there. Through a pool the same must pass; what does not is
in one table, `DEVIATIONS`, with its reason. The checks themselves are programs in the driver's own language, in the
directories beside this file; docs/drivers.md has the versions and the outcome.

    pytest tests/drivers -k "pgx and transaction"
    PGDOORMAN_DRIVERS_POSTGRES=18 pytest ...              over another PostgreSQL that a wheel brings
    PGDOORMAN_DRIVERS_GENERAL='{"server_prepared_statements_cache_size": 3}' pytest ...   harsher settings of the poolers
"""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pgdoorman.cli.embedded_postgres import EmbeddedPostgres
from tests.drivers.builds import ROOT, SUITES, BuildFailed, Missing, Suite
from tests.support.doorman import Doorman, make_doorman, missing, pool, user

MODES = ("direct", "transaction", "session")

DEVIATIONS: dict[tuple[str, str, str], str] = {}
"""(mode, suite, check) to the reason why it may fail there. One that passes all the same is an error."""

ROLE = PASSWORD = "driver"

# Three backends for twenty connections; a session pool needs one for each.
POOL_SIZES = {"transaction": 3, "session": 40}

# The checks mostly wait (for a cancel, a notification, a timeout), so a few programs at a time fit on two cores.
PROGRAMS_AT_ONCE = 4
PROGRAM_SECONDS = 200

BY_NAME = {suite.name: suite for suite in SUITES}
CASES = [(mode, suite.name, check) for mode in MODES for suite in SUITES for check in suite.check_names()]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What one program said: a line for each check that it came to, and how it ended."""

    lines: dict[str, dict[str, Any]]
    end: str


class Stage:
    """PostgreSQL, poolers in front of it, and the programs that run against them, all started at the first question.
    Each mode has a database of its own and each suite a pool, so that none is in another's way."""

    def __init__(self, wanted: dict[str, list[Suite]]) -> None:
        self._wanted = wanted
        self._cleaning = contextlib.ExitStack()
        self._programs: dict[tuple[str, str], Future[Outcomes]] = {}
        self._postgres: EmbeddedPostgres | None = None
        self.doormen: dict[str, Doorman] = {}
        directory = tempfile.mkdtemp(prefix="doorman-")
        self._directory = Path(directory)
        self._cleaning.callback(shutil.rmtree, directory, ignore_errors=True)
        self._threads = ThreadPoolExecutor(PROGRAMS_AT_ONCE)
        self._cleaning.callback(self._threads.shutdown, wait=True, cancel_futures=True)

    def close(self) -> None:
        for doorman in self.doormen.values():
            doorman.kill()
        self._cleaning.close()

    def outcomes(self, mode: str, suite: Suite) -> Outcomes:
        """Waits for the program's end. Raises Missing, BuildFailed."""
        if not self._programs:
            for each in MODES:
                self._start(each)
        return self._programs[mode, suite.name].result()

    def wait(self, mode: str) -> None:
        """Until all programs of this mode have ended, however they did."""
        for suite in self._wanted.get(mode, []):
            with contextlib.suppress(Missing, BuildFailed):
                self.outcomes(mode, suite)

    def _start(self, mode: str) -> None:
        suites = self._wanted.get(mode, [])
        if not suites:
            return
        self._server().execute(f"create database {mode} owner {ROLE}")
        port = self._server().port
        if mode != "direct":
            self.doormen[mode] = self._doorman(mode, suites)
            port = self.doormen[mode].port
        for suite in suites:
            environment = {
                **{name: value for name, value in os.environ.items() if not name.startswith("PG")},
                "PGHOST": "127.0.0.1",
                "PGPORT": str(port),
                "PGUSER": ROLE,
                "PGPASSWORD": PASSWORD,
                "PGDATABASE": mode if mode == "direct" else suite.name,
                "POOL_MODE": mode,
                "LC_ALL": "C.UTF-8",
            }
            self._programs[mode, suite.name] = self._threads.submit(self._run, suite, environment)

    def _server(self) -> EmbeddedPostgres:
        if self._postgres is None:
            settings = {"max_connections": "400", "max_prepared_transactions": "20", "timezone": "UTC", "jit": "off"}
            hba = ("local all all trust", "host all all 127.0.0.1/32 scram-sha-256")
            version = int(os.environ.get("PGDOORMAN_DRIVERS_POSTGRES", "17"))
            self._postgres = self._cleaning.enter_context(EmbeddedPostgres(version, settings=settings, hba=hba))
            self._postgres.execute(f"create role {ROLE} login password '{PASSWORD}'")
            self._postgres.execute(f"create role driver_guest; grant driver_guest to {ROLE}")
        return self._postgres

    def _doorman(self, mode: str, suites: list[Suite]) -> Doorman:
        account = user(ROLE, PASSWORD, pool_size=POOL_SIZES[mode])
        server = (self._server().host, self._server().port)
        pools = {suite.name: pool(server, account, server_database=mode, pool_mode=mode) for suite in suites}
        general = {"pg_hba": {"content": "host all all all scram-sha-256\n"}, "max_connections": 1000}
        general |= json.loads(os.environ.get("PGDOORMAN_DRIVERS_GENERAL", "{}"))
        doorman = make_doorman(self._directory / mode, pools=pools, general=general)
        doorman.start()
        return doorman

    def _run(self, suite: Suite, environment: dict[str, str]) -> Outcomes:
        command = suite.command()
        errors = self._directory / f"{environment['POOL_MODE']}-{suite.name}.stderr"
        with errors.open("wb") as stderr:
            program = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr
            )
            try:
                output, _ = program.communicate(timeout=PROGRAM_SECONDS)
                end = f"exit status {program.returncode}"
            except subprocess.TimeoutExpired:
                program.kill()
                output, _ = program.communicate()
                end = f"killed after {PROGRAM_SECONDS} s"
        lines = [json.loads(line) for line in output.splitlines() if line.startswith(b"{")]
        said = errors.read_text(errors="replace")[-2000:]
        return Outcomes({line["name"]: line for line in lines}, f"{end}\n{said}")


@pytest.fixture(scope="module")
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    if reason := missing():
        pytest.skip(reason)
    wanted: dict[str, list[Suite]] = {}
    for item in request.session.items:
        case = getattr(item, "callspec", None)
        if item.path == Path(__file__) and case is not None and "suite" in case.params:
            suites = wanted.setdefault(case.params["mode"], [])
            suite = BY_NAME[case.params["suite"]]
            if suite not in suites:
                suites.append(suite)
    made = Stage(wanted)
    yield made
    made.close()


@pytest.mark.parametrize(("mode", "suite", "check"), CASES, ids=["-".join(case) for case in CASES])
def test_check(stage: Stage, mode: str, suite: str, check: str) -> None:
    try:
        outcomes = stage.outcomes(mode, BY_NAME[suite])
    except Missing as nothing:
        pytest.skip(str(nothing))
    line = outcomes.lines.get(check)
    assert line is not None, f"the program never came to this check: {outcomes.end}"
    if "skipped" in line:
        pytest.skip(line["skipped"])
    reason = DEVIATIONS.get((mode, suite, check))
    if reason is not None and not line["ok"]:
        pytest.xfail(f"{reason}: {line['detail']}")
    assert line["ok"], line["detail"]
    assert reason is None, f"this passes now; it can leave the table: {reason}"


def _is_busy(pool_row: dict[str, str | None]) -> bool:
    return any(int(pool_row[key] or 0) for key in ("cl_active", "cl_waiting", "sv_active"))


@pytest.mark.parametrize("mode", MODES[1:])
def test_pooler_is_well_afterwards(stage: Stage, mode: str) -> None:
    """All clients have left: nothing is held, nobody waits, and nothing was written that looks like a defect."""
    stage.wait(mode)
    doorman = stage.doormen.get(mode)
    if doorman is None:
        pytest.skip("no driver ran through it")
    doorman.check_alive()
    deadline = time.monotonic() + 10
    while busy := [row for row in doorman.show("pools") if row["user"] == ROLE and _is_busy(row)]:
        if time.monotonic() > deadline:
            clients = [row for row in doorman.show("clients") if row["user"] == ROLE]
            servers = [row for row in doorman.show("servers") if row["state"] != "idle"]
            pytest.fail(f"pools: {busy}\nclients: {clients}\nservers: {servers}\nlog: {doorman.log()[-4000:]}")
        time.sleep(0.1)
    assert "Traceback" not in doorman.log()


def test_every_check_is_known() -> None:
    for suite in SUITES:
        names = suite.check_names()
        assert len(names) == len(set(names)) >= 8, suite.name
    known = {(suite, check) for _, suite, check in CASES}
    assert {(suite, check) for _, suite, check in DEVIATIONS} <= known
