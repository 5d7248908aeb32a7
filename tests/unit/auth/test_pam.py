"""PAM, through the real libpam with services of the tests' own."""

import threading
from pathlib import Path

import pytest

from pgdoorman.auth import pam
from pgdoorman.auth.pam import PamQuestion, pam_refusal
from tests.support.pace import Stopwatch

EXEC = next(iter(Path("/").glob("lib/*/security/pam_exec.so")), None) or next(
    iter(Path("/").glob("usr/lib*/security/pam_exec.so")), None
)
pytestmark = pytest.mark.skipif(pam._libpam() is None or EXEC is None, reason="no libpam with its modules here")

# Asks for the password, and admits alice with "pencil" from 10.0.0.1 or from nowhere.
CHECK = """#!/bin/sh
IFS= read -r password
[ "$PAM_USER/$password/$PAM_RHOST" = "alice/pencil/10.0.0.1" ] || [ "$PAM_USER/$password/$PAM_RHOST" = "alice/pencil/" ]
"""


@pytest.fixture
def services(tmp_path: Path) -> Path:
    script = tmp_path / "check"
    script.write_text(CHECK)
    script.chmod(0o755)
    described = {
        "checks": f"auth required pam_exec.so quiet expose_authtok {script}\naccount required pam_permit.so\n",
        "admits": "auth required pam_permit.so\naccount required pam_permit.so\n",
        "denies": "auth required pam_deny.so\naccount required pam_permit.so\n",
        "expired": "auth required pam_permit.so\naccount required pam_deny.so\n",
        "slow": (
            "auth optional pam_faildelay.so delay=5000000\nauth required pam_deny.so\naccount required pam_permit.so\n"
        ),
        "talks": f"auth required pam_echo.so hello\nauth required pam_exec.so expose_authtok {script}\n"
        "account required pam_permit.so\n",
    }
    for name, text in described.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def ask(services: Path, service: str, user: str = "alice", password: bytes = b"pencil", host: str = "") -> str:
    return pam_refusal(PamQuestion(service, user, password, host, str(services)))


@pytest.mark.parametrize(
    ("service", "user", "password", "host", "admitted"),
    [
        ("admits", "alice", b"x", "", True),
        ("denies", "alice", b"pencil", "", False),
        ("expired", "alice", b"pencil", "", False),
        ("checks", "alice", b"pencil", "", True),
        ("checks", "alice", b"pencil", "10.0.0.1", True),
        ("checks", "alice", b"pencil", "10.0.0.2", False),
        ("checks", "alice", b"pencil2", "", False),
        ("checks", "bob", b"pencil", "", False),
        ("checks", "alice", b"x" * 5000, "", False),
        ("talks", "alice", b"pencil", "", True),
        ("nosuchservice", "alice", b"pencil", "", False),
    ],
)
def test_who_is_admitted(services: Path, service: str, user: str, password: bytes, host: str, admitted: bool) -> None:
    refusal = ask(services, service, user, password, host)
    assert (refusal == "") is admitted
    assert "pencil" not in refusal


@pytest.mark.parametrize(("user", "password"), [("alice", b""), ("alice", b"pen\0cil"), ("ali\0ce", b"pencil")])
def test_what_pam_is_not_asked(services: Path, user: str, password: bytes) -> None:
    assert "cannot be given" in ask(services, "admits", user, password)


def test_a_refusal_does_not_put_the_thread_to_sleep(services: Path) -> None:
    watched = Stopwatch()
    assert ask(services, "slow")
    watched.must_be_below(3, "a refusal")


def test_many_at_once(services: Path) -> None:
    results: list[str] = []
    start = threading.Barrier(8)

    def work(number: int) -> None:
        start.wait()
        password = b"pencil" if number % 2 else b"wrong"
        results.extend(ask(services, "checks", password=password) for _ in range(10))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(result == "" for result in results) == [False] * 40 + [True] * 40


def test_the_password_does_not_show() -> None:
    assert "pencil" not in repr(PamQuestion("s", "u", b"pencil"))


def test_without_libpam(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pam, "_libpam", lambda: None)
    assert pam_refusal(PamQuestion("s", "u", b"x")) == "libpam is not installed"
