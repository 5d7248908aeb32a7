"""One value of a file is changed; every other line stays as it was written."""

import difflib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgdoorman.config.document import Path
from pgdoorman.config.edit import read, with_value, without_value
from pgdoorman.config.reference import reference_file
from pgdoorman.errors import ConfigError

TOML = """\
# top
[general]
host = "x"   # the host
# about port
port = 5 # p
secret = "a#b" # c # d
hba = [
  "10.0.0.0/8", # one
  "11.0.0.0/8",
] # end
pg_hba.content = '''
# a rule, not a comment
host all all all trust
'''

# Pools below
[pools.a]
server_host = "h"

# user one
[[pools.a.users]]
username = "u" # u
password = "p"

[pools.b]
users = [ { username = "z", password = "q", pool_size = 3 }, ] # all in one line
"""

YAML = """\
# top
general:
  host: x   # the host
  # about port
  port: 5 # p
  secret: a#b # c # d
  hba:
    - 10.0.0.0/8 # one
    - 11.0.0.0/8
  pg_hba: |
    # a rule, not a comment
    host all all all trust

# Pools below
pools:
  a:
    server_host: h
    # user one
    users:
      - username: "u" # u
        password: 'p'
      # two
      - {username: z, password: q, pool_size: 3}
"""


def _difference(old: str, new: str) -> list[str]:
    return [line for line in difflib.ndiff(old.splitlines(), new.splitlines()) if line[0] in "+-"]


SET = [
    ("toml", ("general", "port"), 7, ["- port = 5 # p", "+ port = 7 # p"]),
    ("toml", ("general", "secret"), "n#w", ['- secret = "a#b" # c # d', '+ secret = "n#w" # c # d']),
    (
        "toml", ("general", "hba"), ["::1/128"],
        ["- hba = [", '-   "10.0.0.0/8", # one', '-   "11.0.0.0/8",', "- ] # end", '+ hba = ["::1/128"] # end'],
    ),
    ("toml", ("general", "idle_timeout"), "5s", ['+ idle_timeout = "5s"']),
    ("toml", ("pools", "a", "users", 0, "pool_size"), 4, ["+ pool_size = 4"]),
    ("toml", ("pools", "a", "server_port"), 4, ["+ server_port = 4"]),
    (
        "toml", ("pools", "b", "users", 0, "pool_size"), 9,
        [
            '- users = [ { username = "z", password = "q", pool_size = 3 }, ] # all in one line',
            '+ users = [ { username = "z", password = "q", pool_size = 9 }, ] # all in one line',
        ],
    ),
    ("toml", ("web", "enabled"), True, ["+ ", "+ [web]", "+ enabled = true"]),
    ("toml", ("general", "startup_parameters", "my.x"), "1", ["+ ", "+ [general.startup_parameters]", '+ "my.x" = "1"']),
    ("toml", ("pools", "my.db", "server_host"), "y", ["+ ", '+ [pools."my.db"]', '+ server_host = "y"']),
    (
        "toml", ("general", "pg_hba", "content"), "host all all all md5\n",
        [
            "- pg_hba.content = '''", "- # a rule, not a comment", "- host all all all trust", "- '''",
            '+ pg_hba.content = "host all all all md5\\n"',
        ],
    ),
    ("yaml", ("general", "port"), 7, ["-   port: 5 # p", "+   port: 7 # p"]),
    ("yaml", ("general", "secret"), "n#w", ["-   secret: a#b # c # d", '+   secret: "n#w" # c # d']),
    ("yaml", ("general", "idle_timeout"), "5s", ['+   idle_timeout: "5s"']),
    (
        "yaml", ("general", "hba"), ["::1/128"],
        ["-   hba:", "-     - 10.0.0.0/8 # one", "-     - 11.0.0.0/8", '+   hba: ["::1/128"]'],
    ),
    ("yaml", ("pools", "a", "users", 0, "pool_size"), 4, ["+         pool_size: 4"]),
    (
        "yaml", ("pools", "a", "users", 1, "pool_size"), 9,
        [
            "-       - {username: z, password: q, pool_size: 3}",
            "+       - {username: z, password: q, pool_size: 9}",
        ],
    ),
    ("yaml", ("pools", "a", "users", 0, "username"), "k", ['-       - username: "u" # u', '+       - username: "k" # u']),
    ("yaml", ("web", "enabled"), True, ["+ ", "+ web:", "+   enabled: true"]),
    ("yaml", ("general", "startup_parameters", "my.x"), "1", ['+   startup_parameters: {"my.x": "1"}']),
]  # fmt: skip

REMOVED = [
    ("toml", ("general", "port"), ["- port = 5 # p"]),
    ("toml", ("general", "hba"), ["- hba = [", '-   "10.0.0.0/8", # one', '-   "11.0.0.0/8",', "- ] # end"]),
    (
        "toml", ("general", "pg_hba", "content"),
        ["- pg_hba.content = '''", "- # a rule, not a comment", "- host all all all trust", "- '''"],
    ),
    ("yaml", ("general", "port"), ["-   port: 5 # p"]),
    ("yaml", ("general", "pg_hba"), ["-   pg_hba: |", "-     # a rule, not a comment", "-     host all all all trust"]),
    ("yaml", ("pools", "a", "users", 0, "password"), ["-         password: 'p'"]),
]  # fmt: skip


def _text(language: str) -> str:
    return TOML if language == "toml" else YAML


@pytest.mark.parametrize(("language", "path", "value", "lines"), SET)
def test_only_the_lines_of_the_key_change(language: str, path: Path, value: object, lines: list[str]) -> None:
    old = _text(language)
    new = with_value(old, f"x.{language}", path, value)
    assert sorted(_difference(old, new)) == sorted(lines)
    said = read(new, f"x.{language}")
    for step in path:
        said = said[step]
    assert said == value


@pytest.mark.parametrize(("language", "path", "lines"), REMOVED)
def test_only_the_lines_of_the_key_go(language: str, path: Path, lines: list[str]) -> None:
    old = _text(language)
    assert _difference(old, without_value(old, f"x.{language}", path)) == lines


@pytest.mark.parametrize("language", ["toml", "yaml"])
def test_line_ends_stay_as_they_are(language: str) -> None:
    old = _text(language).replace("\n", "\r\n")
    for path in (("general", "port"), ("general", "idle_timeout"), ("web", "port")):
        new = with_value(old, f"x.{language}", path, 7)
        assert new.count("\r\n") == new.count("\n")
    short = old.rstrip("\r\n")
    assert read(with_value(short, f"x.{language}", ("web", "port"), 7), f"x.{language}")["web"] == {"port": 7}


def test_what_would_change_more_is_refused() -> None:
    shared = "general: &g\n  port: 1\nother: *g\n"
    with pytest.raises(ConfigError, match="change it by hand") as refused:
        with_value(shared, "x.yaml", ("general", "port"), 2)
    assert (refused.value.file, refused.value.line) == ("x.yaml", 2)
    with pytest.raises(ConfigError, match="TOML"):
        with_value("[general", "x.toml", ("general", "port"), 2)


@pytest.mark.parametrize("language", ["toml", "yaml"])
def test_the_reference_file_takes_a_key_and_gives_it_back(language: str) -> None:
    text = reference_file(language)
    new = with_value(text, f"x.{language}", ("general", "query_timeout"), "17s")
    added = [line for line in _difference(text, new) if line.startswith("+")]
    assert len(added) == 1
    assert "17s" in added[0]


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12))
def test_any_text_can_be_a_value(value: str) -> None:
    for language in ("toml", "yaml"):
        file = f"x.{language}"
        try:
            said = read(with_value(_text(language), file, ("general", "secret"), value), file)
        except ConfigError:  # a character that the format has no way to write
            assert any(not letter.isprintable() for letter in value)
        else:
            assert said["general"]["secret"] == value
