"""Words on the command line: which command is meant, what is refused, what the shell is told."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pgdoorman.cli.main import app, commands, with_command
from tests.unit.config import sample

NAMES = {
    "run", "check", "generate", "demo", "reload", "stop", "status", "show", "pause", "resume", "reconnect", "kill",
    "upgrade", "top", "check-hba", "hash-password",
}  # fmt: skip


def _file(folder: Path, text: str = "") -> str:
    path = folder / "pgdoorman.toml"
    path.write_text(text or sample.configuration())
    return str(path)


def test_every_command_is_there() -> None:
    assert commands() >= NAMES


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ([], ["run"]),
        (["file.toml"], ["run", "file.toml"]),
        (["-t", "file.toml"], ["run", "-t", "file.toml"]),
        (["-d", "file.toml"], ["run", "-d", "file.toml"]),
        (["run", "file.toml"], ["run", "file.toml"]),
        (["reload"], ["reload"]),
        (["./reload"], ["run", "./reload"]),
        (["--version"], ["--version"]),
    ],
)
def test_what_is_no_command_is_a_file_to_run(typed: list[str], meant: list[str]) -> None:
    assert with_command(typed) == meant


def test_a_file_is_judged(tmp_path: Path) -> None:
    good, bad = _file(tmp_path), tmp_path / "bad.toml"
    bad.write_text(sample.configuration() + "\n[nonsense]\n[more]\n")
    for words in (["check", good], ["run", "-t", good]):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        assert done.stdout.splitlines() == [
            f"the configuration file {good} syntax is ok",
            f"configuration file {good} test is successful",
        ]
        done = CliRunner().invoke(app, [*words[:-1], str(bad)])
        assert done.exit_code == 78
        assert done.stderr.startswith(f"Config parse error: {bad}:")
        assert len(done.stderr.splitlines()) == 2, "all that is wrong"
    assert json.loads(CliRunner().invoke(app, ["check", "--json", good]).stdout)["ok"] is True
    done = CliRunner().invoke(app, ["check", "--json", str(bad)])
    assert done.exit_code == 78
    found = json.loads(done.stdout)
    assert [error["key"] for error in found["errors"]] == ["nonsense", "more"]
    assert found["errors"][0]["file"] == str(bad)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["-l", "loud"], "no such log level"),
        (["-l", "info,kitchen=debug"], "no such component"),
        (["-F", "xml"], "is no log format"),
        (["--inherit-fd", "three"], "not a valid integer"),
    ],
)
def test_options_that_are_none(tmp_path: Path, words: list[str], complaint: str) -> None:
    done = CliRunner().invoke(app, ["run", *words, _file(tmp_path)])
    assert done.exit_code == 2
    assert complaint in done.stderr


def test_options_by_the_environment(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["run"], env={"CONFIG_FILE": _file(tmp_path), "LOG_FORMAT": "xml"})
    assert "is no log format" in done.stderr
    done = CliRunner().invoke(app, ["run", "-t"], env={"CONFIG_FILE": _file(tmp_path)})
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(app, ["run"], env={"CONFIG_FILE": _file(tmp_path), "LOG_LEVEL": "loud"})
    assert "no such log level" in done.stderr


def test_the_shell_is_told_what_can_follow() -> None:
    def complete(typed: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-X", "gil=0", "-m", "pgdoorman"],
            env={
                **os.environ,
                "_PGDOORMAN_COMPLETE": "complete_bash",
                "COMP_WORDS": typed,
                "COMP_CWORD": str(len(typed.split(" ")) - 1),
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout.split()

    assert complete("pgdoorman rel") == ["reload"]
    assert "pools_extended" in complete("pgdoorman show po")


def test_a_command_that_is_spelt_wrong_is_suspected() -> None:
    done = CliRunner().invoke(app, with_command(["relaod"]))
    assert done.exit_code == 78
    assert 'did you mean the command "reload"?' in done.stderr


def test_a_full_disk_and_a_closed_pipe_are_no_accidents(tmp_path: Path) -> None:
    program = [sys.executable, "-X", "gil=0", "-m", "pgdoorman", "check", _file(tmp_path)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(program, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (
        74, "pgdoorman: cannot write what was to be said: No space left on device\n",
    )  # fmt: skip
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(program, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(writer)
    assert done.returncode != 0
    assert done.stderr == ""
