"""`pgdoorman config`: a key is read, set and taken out of a file that is in use; what is refused changes nothing."""

import json
import os
import stat
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from pgdoorman.cli import files
from pgdoorman.cli.main import app
from pgdoorman.config.load import load

MAIN = """\
include.files = ["more.yaml"]

[general]
port = 16432   # where
admin_username = "admin"
admin_password = "s3cret" # of the console

# the shop
[pools.shop]
server_host = "127.0.0.1"

[[pools.shop.users]]
username = "app"
password = "x"
pool_size = 5
"""

MORE = """\
general:
  idle_timeout: 7m   # from the other file
pools:
  bank:
    users:
      - username: teller
        password: "${TELLER}"
        pool_size: 3
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TELLER", "hidden")
    Path("pgdoorman.toml").write_text(MAIN)
    Path("more.yaml").write_text(MORE)


def _config(*words: str, typed: str = "") -> Result:
    return CliRunner().invoke(app, ["config", *words], input=typed)


def test_what_holds_is_printed() -> None:
    assert _config("get", "general.port").stdout == "16432\n"
    assert _config("get", "idle_timeout").stdout == "7m\n"
    assert _config("get", "pools.shop.idle_timeout").stdout == "7m\n", "inherited"
    assert _config("get", "pools.bank.users.teller.pool_size").stdout == "3\n"
    assert _config("get", "pools.bank.users[0].username").stdout == "teller\n"
    assert json.loads(_config("get", "general.port", "--json").stdout) == {
        "key": "general.port", "value": "16432", "default": "6432", "change_needs": "restart",
    }  # fmt: skip
    every = _config("get")
    assert "pools.bank.users.teller.pool_size" in every.stdout
    assert len(json.loads(_config("get", "--json").stdout)) == len(every.stdout.splitlines()) - 1


def test_secrets_are_neither_shown_nor_taken_from_the_command_line() -> None:
    assert _config("get", "general.admin_password").stdout == "***\n"
    assert _config("get", "pools.bank.users.teller.password").stdout == "***\n"
    assert "s3cret" not in _config("get").stdout
    refused = _config("set", "general.admin_password", "pa55")
    assert refused.exit_code == 78
    assert "pa55" not in refused.output
    done = _config("set", "general.admin_password", typed="pa55\n")
    assert done.stdout == "pgdoorman.toml: general.admin_password: changed\n"
    assert Path("pgdoorman.toml").read_text() == MAIN.replace("s3cret", "pa55")
    assert _config("set", "general.admin_password", "${TELLER}").exit_code == 0
    assert load(Path("pgdoorman.toml")).general.admin_password.reveal() == "hidden"


def test_the_file_that_decides_is_changed() -> None:
    done = _config("set", "general.idle_timeout", "90s")
    assert done.stdout == "more.yaml: general.idle_timeout: 7m -> 1m30s\n", done.output
    assert Path("more.yaml").read_text() == MORE.replace("7m", '"90s"')
    assert _config("set", "pools.bank.users.teller.pool_size", "9").exit_code == 0
    assert _config("set", "pools.bank.server_port", "5433").exit_code == 0
    assert load(Path("pgdoorman.toml")).pools["bank"].users[0].pool_size == 9
    assert load(Path("pgdoorman.toml")).pools["bank"].server_port == 5433
    assert Path("pgdoorman.toml").read_text() == MAIN
    done = _config("unset", "general.idle_timeout")
    assert done.stdout == "more.yaml: general.idle_timeout: 1m30s -> 10m\n"


def test_values_are_what_they_look_like() -> None:
    for words in (
        ("general.so_reuseport", "on"),
        ("general.hba", "10.0.0.0/8", "::1/128"),
        ("general.startup_parameters.work_mem", "64"),
        ("pools.shop.pool_mode", "session"),
        ("general.max_connections", "77"),
        ("general.unix_socket_mode", "0660"),
        ("web.enabled", "yes"),
    ):
        assert _config("set", *words).exit_code == 0, words
    settings = load(Path("pgdoorman.toml"))
    assert settings.general.so_reuseport is True
    assert [str(network) for network in settings.general.hba] == ["10.0.0.0/8", "::1/128"]
    assert dict(settings.general.startup_parameters) == {"work_mem": "64"}
    assert settings.pools["shop"].pool_mode == "session"
    assert settings.general.max_connections == 77
    assert settings.general.unix_socket_mode == 0o660
    assert settings.web.enabled is True
    assert "waits" not in _config("set", "general.port", "1").output


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("set", "general.port", "many"), "pgdoorman.toml:4: general.port: must be an integer from 0 to 65535"),
        (("set", "general.prot", "1"), 'did you mean "port"?'),
        (("set", "pool_size", "1"), "it belongs to pools.NAME.users"),
        (("set", "general.port"), "give it a value: an integer"),
        (("set", "general.port", "1", "2"), "takes one value"),
        (("set", "general.port.x", "1"), "has no keys in it"),
        (("set", "general", "1"), "names a section"),
        (("set", "pools.shop", "1"), "name a key of the pool"),
        (("set", "pools.shop.users.app", "1"), "name a key of one user"),
        (("set", "pools.shop.users.nobody.pool_size", "1"), 'has no user "nobody"'),
        (("set", "pools.shop.users.app.min_pool_size", "6"), "cannot be more than pool_size"),
        (("set", "web.sso_enabled", "true"), "not available in this version"),
        (("set", "...", "1"), "is no name of a key"),
        (("set", "", "1"), "name a key"),
        (("get", "pools.nowhere.server_host"), 'there is no pool "nowhere"'),
        (("get", "pools.shop.auth_query.query"), "has no auth_query"),
        (("unset", "general.hba"), "is not in the file"),
        (("unset", "general.admin_username"), "this key is required"),
        (("unset", "pools.shop.users.app.pool_size"), "this key is required"),
        (("set", "general.tls_certificate", "missing.pem"), "cannot read missing.pem"),
        (("set", "general.pg_hba.content", "host all all nowhere/99 trust"), "both host name and CIDR mask"),
    ],
)
def test_what_is_refused_changes_nothing(words: tuple[str, ...], complaint: str) -> None:
    done = _config(*words)
    assert done.exit_code == 78, done.output
    assert complaint in done.stderr
    assert "Traceback" not in done.output
    assert (Path("pgdoorman.toml").read_text(), Path("more.yaml").read_text()) == (MAIN, MORE)
    assert sorted(os.listdir()) == ["more.yaml", "pgdoorman.toml"]


def test_a_value_where_a_table_should_be() -> None:
    Path("pgdoorman.toml").write_text("general = 1\npools = {}\n")
    done = _config("set", "general.port", "5")
    assert (done.exit_code, done.stderr) == (
        78, "pgdoorman: general.port: there is something else than a table in its place\n",
    )  # fmt: skip


def test_a_file_that_is_wrong_can_be_put_right() -> None:
    Path("pgdoorman.toml").write_text(MAIN.replace("16432", '"soon"'))
    assert _config("get", "general.port").exit_code == 78
    assert _config("set", "general.port", "5").stdout == "pgdoorman.toml: general.port changed\n"
    assert Path("pgdoorman.toml").read_text() == MAIN.replace("16432", "5")


def test_a_byte_order_mark_stays() -> None:
    Path("pgdoorman.toml").write_bytes(b"\xef\xbb\xbf" + MAIN.encode())
    assert _config("set", "general.port", "5").exit_code == 0
    assert Path("pgdoorman.toml").read_bytes() == b"\xef\xbb\xbf" + MAIN.replace("16432", "5").encode()


def test_mode_owner_and_links_stay(tmp_path: Path) -> None:
    real = tmp_path / "real.toml"
    Path("pgdoorman.toml").rename(real)
    Path("pgdoorman.toml").symlink_to(real)
    real.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(real, 12345, 54321)
    before = real.stat()
    assert _config("set", "general.port", "5").exit_code == 0
    after = real.stat()
    assert Path("pgdoorman.toml").is_symlink()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert after.st_ino != before.st_ino, "it was replaced, not written over"


def test_a_file_that_another_has_changed_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "pgdoorman.toml"
    with pytest.raises(OSError, match="somebody else"):
        files.replace_file(path, b"mine", before=b"what I read")
    assert path.read_text() == MAIN
    assert sorted(os.listdir()) == ["more.yaml", "pgdoorman.toml"]


def test_a_new_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    files.create_file(tmp_path / "new", "text")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        files.create_file(tmp_path / "new", "other")


def test_generate_leaves_a_file_alone_that_is_there() -> None:
    done = CliRunner().invoke(app, ["generate", "--reference", "-o", "pgdoorman.toml"])
    assert done.exit_code == 73
    assert "--force" in done.stderr
    assert Path("pgdoorman.toml").read_text() == MAIN
    Path("pgdoorman.toml").chmod(0o604)
    assert CliRunner().invoke(app, ["generate", "--reference", "-o", "pgdoorman.toml", "--force"]).exit_code == 0
    assert Path("pgdoorman.toml").read_text() != MAIN
    assert stat.S_IMODE(Path("pgdoorman.toml").stat().st_mode) == 0o604
    assert CliRunner().invoke(app, ["generate", "--reference", "-o", "new.yaml"]).exit_code == 0
