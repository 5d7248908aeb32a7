"""Secrets: where they may come from, and that nothing ever shows one."""

import pickle
import traceback
from pathlib import Path

import pytest

from pgdoorman.config import Secret, Settings, load, load_text
from pgdoorman.config.changes import compare
from pgdoorman.config.keys import Section
from pgdoorman.config.rows import rows
from pgdoorman.errors import ConfigErrors
from tests.unit.config.sample import configuration, effective, error_of


def _alice(text: str, environment: dict[str, str] | None = None, folder: Path = Path()) -> str:
    settings = load_text(text, environment=environment or {}, folder=folder)
    return settings.pools["shop"].users[0].password.reveal()


def test_from_the_environment() -> None:
    text = configuration(Section.USER, password="${ALICE_PW}")
    assert _alice(text, {"ALICE_PW": "s3cret"}) == "s3cret"
    assert _alice(text, {"ALICE_PW": ""}) == ""
    error = error_of(text)
    assert "environment variable ALICE_PW is not set" in error.message
    assert error.key == "pools.shop.users[0].password"


@pytest.mark.parametrize("text", ["$ALICE", "${ALICE", "x${ALICE}", "${ALICE}x", "${1}", "${}", "${A B}", "$${ALICE}"])
def test_only_the_whole_value_is_a_reference(text: str) -> None:
    assert _alice(configuration(Section.USER, password=text), {"ALICE": "no"}) == text


@pytest.mark.parametrize(
    ("content", "secret"),
    [
        ("s3cret", "s3cret"),
        ("s3cret\n", "s3cret"),
        ("s3cret\r\n", "s3cret"),
        ("a\n\n", "a\n"),
        (" a b ", " a b "),
        ("", ""),
    ],
)
def test_from_a_file(tmp_path: Path, content: str, secret: str) -> None:
    (tmp_path / "pw").write_bytes(content.encode())
    assert _alice(configuration(Section.USER, password=f"file:{tmp_path}/pw")) == secret
    assert _alice(configuration(Section.USER, password="file:pw"), folder=tmp_path) == secret


def test_files_of_secrets_are_among_the_files(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("x")
    path = tmp_path / "a.toml"
    path.write_text(configuration(Section.USER, password="file:pw"))
    assert load(path, {}).files == (path, tmp_path / "pw")


def test_files_that_hold_no_secret(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * (1024 * 1024 + 1))
    (tmp_path / "raw").write_bytes(b"\xff\xfe")
    (tmp_path / "zero").write_bytes(b"a\0b")
    for name, words in (
        ("none", "No such file"),
        ("big", "larger"),
        ("raw", "UTF-8"),
        ("zero", "zero byte"),
        (".", "directory"),
    ):
        assert words in error_of(configuration(Section.USER, password=f"file:{name}"), folder=tmp_path).message


def test_long_secrets() -> None:
    secret = "x" * 70_000
    assert _alice(configuration(Section.USER, password=secret)) == secret


def test_a_secret_shows_itself_only_when_asked() -> None:
    secret = Secret("hunter2")
    assert secret.reveal() == "hunter2"
    for text in (repr(secret), str(secret), f"{secret}", f"{secret:>40}", f"{secret!r:>40}", repr([secret])):
        assert "hunter2" not in text
    assert secret == Secret("hunter2")
    assert hash(secret) == hash(Secret("hunter2"))
    assert secret != Secret("other")
    assert secret != "hunter2"
    assert secret
    assert not Secret("")
    assert repr(Secret("")) != repr(secret)


def _everything_shown(settings: Settings, other: Settings) -> str:
    changes = compare(settings, other)
    shown = [settings, effective(settings), rows(settings), changes, *changes.lines(), *settings.warnings]
    return "\n".join(f"{thing} {thing!r}" for thing in shown)


def test_nothing_that_is_shown_holds_a_secret() -> None:
    keys = {"password": "hunter2", "server_username": "role", "server_password": "hunter3"}
    settings = load_text(configuration(Section.USER, **keys))
    other = load_text(configuration(Section.USER, **keys | {"password": "hunter4", "server_password": "hunter5"}))
    text = _everything_shown(settings, other)
    assert "server_password" in text
    assert "hunter" not in text
    assert "admin-secret" not in text


@pytest.mark.parametrize("value", [123456789, ["hunter2"], {"hunter2": 1}])
def test_errors_never_quote_a_secret(value: object) -> None:
    with pytest.raises(ConfigErrors) as caught:
        load_text(configuration(Section.USER, password=value))
    shown = "".join(traceback.format_exception(caught.value))
    assert "hunter2" not in shown
    assert "123456789" not in shown


def test_a_wrong_scram_secret_is_not_quoted() -> None:
    error = error_of(configuration(Section.USER, password="SCRAM-SHA-256$hunter2"))
    assert "hunter2" not in str(error)


def test_secrets_survive_pickling() -> None:
    assert pickle.loads(pickle.dumps(Secret("x"))) == Secret("x")
