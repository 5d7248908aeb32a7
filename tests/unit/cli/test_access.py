"""check-hba and hash-password, by their functions and as commands."""

import subprocess
import sys
from pathlib import Path

import pytest

from pgdoorman.auth.secrets import Md5Secret, ScramSecret, parse_secret, password_fits
from pgdoorman.cli.access import check_hba, hash_password

CONFIG = """\
[general]
admin_username = "admin"
admin_password = "x"
pg_hba = \"\"\"
# a comment
local all postgres peer
hostssl shop /^app 10.0.0.0/8 scram-sha-256
host all bad all reject
host all all 127.0.0.1/32 trust
\"\"\"
[pools.shop]
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "pgdoorman.toml"
    path.write_text(CONFIG)
    return path


@pytest.mark.parametrize(
    ("user", "database", "address", "tls", "line", "method", "code"),
    [
        ("app1", "shop", "10.1.2.3", True, 7, "scram-sha-256", 0),
        ("app1", "shop", "10.1.2.3", False, 0, "", 1),
        ("bad", "shop", "127.0.0.1", False, 8, "reject", 1),
        ("bob", "shop", "127.0.0.1", True, 9, "trust", 0),
        ("postgres", "other", "local", False, 6, "peer", 0),
        ("bob", "shop", "::1", False, 0, "", 1),
    ],
)
def test_check_hba(
    config: Path,
    capsys: pytest.CaptureFixture[str],
    user: str,
    database: str,
    address: str,
    tls: bool,
    line: int,
    method: str,
    code: int,
) -> None:
    """The line is that of the configuration file in which the rules stand."""
    assert check_hba(config, user, database, address, tls=tls) == code
    last = capsys.readouterr().out.splitlines()[-2:]
    if line:
        assert last[0].startswith(f"line {line} of {config}: ")
        assert last[1].strip() == f"decides: {method}"
    else:
        assert last[-1] == "no line matches: the connection is refused"


def test_check_hba_of_a_file_of_rules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = tmp_path / "pg_hba.conf"
    rules.write_text("host replication all all trust\nhost all all all md5\n")
    assert check_hba(rules, "u", "d", "10.0.0.1", replication="true", rules=True) == 0
    assert "line 1 of" in capsys.readouterr().out
    assert check_hba(rules, "u", "d", "10.0.0.1", replication="database", rules=True) == 0
    assert "decides: md5" in capsys.readouterr().out
    assert check_hba(rules, "u", "d", "10.0.0.1", replication="perhaps", rules=True) == 78
    assert check_hba(rules, "u", "d", "ten", rules=True) == 78
    assert check_hba(tmp_path / "none", "u", "d", "::1", rules=True) == 78


def test_a_wrong_line_is_named(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(CONFIG.replace("host all bad all reject", "host all bad all rejects"))
    assert check_hba(config, "u", "d", "::1") == 78
    assert f'{config}:8: invalid authentication method "rejects"' in capsys.readouterr().err


def test_hash_password(capsys: pytest.CaptureFixture[str]) -> None:
    assert hash_password("", "scram-sha-256", 5000, lambda: "pencil") == 0
    secret = parse_secret(capsys.readouterr().out.strip())
    assert isinstance(secret, ScramSecret)
    assert secret.iterations == 5000
    assert password_fits(secret, "", b"pencil")
    assert hash_password("alice", "md5", 1, lambda: "pencil") == 0
    secret = parse_secret(capsys.readouterr().out.strip())
    assert isinstance(secret, Md5Secret)
    assert password_fits(secret, "alice", b"pencil")


@pytest.mark.parametrize(
    ("user", "method", "iterations", "password"),
    [("", "md5", 1, "x"), ("", "crypt", 1, "x"), ("", "scram-sha-256", 0, "x"), ("", "scram-sha-256", 4096, "")],
)
def test_hash_password_refuses(
    user: str, method: str, iterations: int, password: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hash_password(user, method, iterations, lambda: password) == 1
    assert not capsys.readouterr().out


def test_as_commands(config: Path) -> None:
    def run(*arguments: str, said: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-X", "gil=0", "-m", "pgdoorman", *arguments]
        return subprocess.run(command, input=said, capture_output=True, text=True, timeout=60, check=False)

    told = run("check-hba", "app1", "shop", "10.1.2.3", "--tls", "--config", str(config))
    assert (told.returncode, told.stdout.splitlines()[-1].strip()) == (0, "decides: scram-sha-256")
    told = run("hash-password", "-m", "md5", "-u", "alice", said="pencil\n")
    assert told.returncode == 0, told.stderr
    assert password_fits(parse_secret(told.stdout.strip()), "alice", b"pencil")
    assert "pencil" not in told.stdout + told.stderr
