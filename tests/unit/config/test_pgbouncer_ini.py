"""PgBouncer's files, read as PgBouncer reads them."""

import re
from pathlib import Path

import pytest

from pgdoorman.config.pgbouncer_ini import read_ini, read_pairs, read_userlist
from pgdoorman.errors import ConfigError


def _ini(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "pgbouncer.ini"
    path.write_text(text)
    return path


def test_sections_comments_and_quotes(tmp_path: Path) -> None:
    ini = read_ini(
        _ini(
            tmp_path,
            "; a comment\n"
            "[databases]\n"
            "shop = host=a port=5433 dbname='the shop' password='it''s'\n"
            "'odd name' =\n"
            "* = host=b\n"
            "  # another\n"
            "[users]\n"
            "bob = pool_mode=session query_timeout=5\n"
            "[peers]\n"
            "1 = host=/tmp/1\n"
            "[pgbouncer]\n"
            "listen_port = 1\n"
            "listen_port=6543\n"
            "server_reset_query = DISCARD ALL; -- all of it\n"
            "auth_user =\n",
        )
    )
    assert ini.databases == {
        "shop": {"host": "a", "port": "5433", "dbname": "the shop", "password": "it's"},
        "odd name": {},
        "*": {"host": "b"},
    }
    assert ini.users == {"bob": {"pool_mode": "session", "query_timeout": "5"}}
    assert ini.peers == {"1": {"host": "/tmp/1"}}
    assert ini.settings == {
        "listen_port": "6543",
        "server_reset_query": "DISCARD ALL; -- all of it",
        "auth_user": "",
    }


def test_an_include_goes_on_in_the_same_section(tmp_path: Path) -> None:
    (tmp_path / "more.ini").write_text("b = host=two\n[users]\nbob = pool_mode=session\n")
    path = _ini(tmp_path, "[databases]\na = host=one\n%include more.ini\nalice = pool_size=3\n")
    ini = read_ini(path)
    assert list(ini.databases) == ["a", "b"]
    assert list(ini.users) == ["bob", "alice"]


def test_an_include_of_itself_ends(tmp_path: Path) -> None:
    path = _ini(tmp_path, "%include pgbouncer.ini\n")
    with pytest.raises(ConfigError, match="too deep"):
        read_ini(path)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[nonsense]\n", r":1: no such section: \[nonsense\]"),
        ("[pgbouncer\n", ":1: no such section"),
        ("a = b\n", ":1: a: a value without a section"),
        ("[pgbouncer]\n\nnot a pair\n", ":3: is neither"),
        ("[databases]\na = host='open\n", ":2: syntax error in connection string"),
        ("[databases]\na = just words\n", ":2: syntax error in connection string"),
        ("%include nowhere.ini\n", "nowhere.ini: cannot be read"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_ini(_ini(tmp_path, text))
    assert re.search(complaint, str(refused.value)), refused.value


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_ini(tmp_path / "nothing")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_ini(tmp_path / "bytes")


def test_pairs() -> None:
    assert read_pairs("") == {}
    assert read_pairs("  a = 1   b='x y'") == {"a": "1", "b": "x y"}


def test_the_list_of_users(tmp_path: Path) -> None:
    path = tmp_path / "userlist.txt"
    path.write_text(
        '; comment\n"alice" "md5abc" whatever stands here\n\n  "b""ob"   "pl""ain"\n"empty" ""\n'
        'broken line\n"later" "is not read"\n'
    )
    assert read_userlist(path) == {"alice": "md5abc", 'b"ob': 'pl"ain', "empty": ""}
    with pytest.raises(ConfigError, match="cannot be read"):
        read_userlist(tmp_path / "nothing")
