"""Reading files: formats, includes, all shapes of users, and every error with its file and line."""

from pathlib import Path

import pytest

from pgdoorman.config import DEFAULT_PATH, load, load_text
from pgdoorman.config.keys import Section
from pgdoorman.config.settings import Secret
from pgdoorman.errors import ConfigErrors
from tests.unit.config import sample
from tests.unit.config.sample import configuration, error_of, errors_of, line_of

GENERAL = '[general]\nadmin_username = "admin"\nadmin_password = "x"\n'


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_the_default_file() -> None:
    assert Path("pgdoorman.toml") == DEFAULT_PATH


def test_toml_and_yaml_say_the_same(tmp_path: Path) -> None:
    toml = _write(tmp_path / "a.toml", configuration(Section.POOL, pool_mode="session", idle_timeout="1h30m"))
    yaml = """\
general: {admin_username: admin, admin_password: admin-secret}
pools:
  shop:
    pool_mode: session
    idle_timeout: 1h30m
    users:
      - {username: alice, password: alice-secret, pool_size: 10}
"""
    one = load(toml, {})
    for name in ("a.yaml", "a.yml", "A.YAML"):
        other = load(_write(tmp_path / name, yaml), {})
        assert other == one
        assert other.files == (tmp_path / name,)
    assert one.files == (toml,)
    assert one.pools["shop"].idle_timeout == 5400.0


def test_any_other_ending_is_toml(tmp_path: Path) -> None:
    assert load(_write(tmp_path / "pgdoorman.conf", configuration()), {}) == sample.load_with()


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(b"\xef\xbb\xbf" + configuration().encode())
    assert load(path, {}) == sample.load_with()


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors, match="No such file") as caught:
        load(tmp_path / "none.toml")
    assert caught.value.errors[0].file == str(tmp_path / "none.toml")
    with pytest.raises(ConfigErrors, match="directory"):
        load(tmp_path)
    path = tmp_path / "latin.toml"
    path.write_bytes(b"[general]\n\n# gr\xfc\xdfe\n")
    with pytest.raises(ConfigErrors, match="UTF-8") as caught:
        load(path)
    assert caught.value.errors[0].line == 3


@pytest.mark.parametrize("file", ["a.toml", "a.yaml"])
def test_a_zero_byte_is_refused(file: str) -> None:
    error = error_of("# x\n# \0\n", file)
    assert (error.line, error.message) == (2, "holds a zero byte")


@pytest.mark.parametrize("text", ["- a\n- b\n", "just a text\n", "12\n"])
def test_a_file_is_a_table(text: str) -> None:
    assert "must be a table of sections" in error_of(text, "a.yaml").message


def test_all_errors_are_told_in_the_order_of_the_file() -> None:
    text = """\
[general]
admin_username = "admin"
prot = 6432
port = 99999

[pools.shop]
pool_mode = "sesion"
pool_size = 4

[[pools.shop.users]]
username = "alice"
password = "x"
pool_size = "many"
min_pool_size = 3
"""
    errors = errors_of(text)
    assert [(error.line, error.key) for error in errors] == [
        (1, "general.admin_password"),
        (3, "general.prot"),
        (4, "general.port"),
        (7, "pools.shop.pool_mode"),
        (8, "pools.shop.pool_size"),
        (13, "pools.shop.users[0].pool_size"),
    ]
    assert 'did you mean "port"?' in errors[1].message
    assert "from 0 to 65535, not 99999" in errors[2].message
    assert 'did you mean "session"?' in errors[3].message
    assert "belongs to pools.NAME.users" in errors[4].message
    assert str(errors[2]).startswith("pgdoorman.toml:4: general.port: must be ")


def test_yaml_errors_have_their_lines() -> None:
    text = """\
general:
  admin_username: admin
  admin_password: x
  prot: 6432
pools:
  shop:
    users:
      - username: alice
        password: x
        pool_size: -1
      - username: bob
        password: x
"""
    assert [(error.line, error.key) for error in errors_of(text, "a.yaml")] == [
        (4, "general.prot"),
        (10, "pools.shop.users[0].pool_size"),
        (11, "pools.shop.users[1].pool_size"),
    ]


@pytest.mark.parametrize(
    ("section", "key", "words"),
    [
        (Section.GENERAL, "max_client_conn", 'it is "max_connections"'),
        (Section.GENERAL, "log_level", "option -l"),
        (Section.GENERAL, "server_host", "in general; it belongs to pools.NAME"),
        (Section.POOL, "username", "in pools.NAME; it belongs to pools.NAME.users"),
        (Section.USER, "server_port", "in pools.NAME.users; it belongs to pools.NAME"),
        (Section.USER, "usernme", 'did you mean "username"?'),
        (Section.GENERAL, "zzz", "no such key"),
    ],
)
def test_unknown_keys(section: Section, key: str, words: str) -> None:
    error = error_of(configuration(section, **{key: 1}))
    assert words in error.message
    assert error.key.endswith(key)


def test_unknown_sections() -> None:
    error = error_of(configuration() + "[pool.shop]\n")
    assert "no such section" in error.message
    assert 'did you mean "pools"?' in error.message


def test_sections_that_are_required() -> None:
    assert [error.key for error in errors_of("")] == ["general", "pools"]
    assert error_of(GENERAL).key == "pools"


def test_sections_that_are_no_tables() -> None:
    errors = errors_of("general = 1\npools = 2\n")
    assert [(error.key, error.line) for error in errors] == [("general", 1), ("pools", 2)]
    assert "must be a table, not 1" in errors[0].message
    errors = errors_of(GENERAL + "[pools]\nshop = 1\n[pools.b]\nusers = 3\n")
    assert [error.key for error in errors] == ["pools.shop", "pools.b.users"]
    assert error_of(GENERAL + "[pools.shop]\nusers = [1]\n").key == "pools.shop.users[0]"


def test_no_pools_is_a_warning() -> None:
    assert "there is no pool" in load_text(GENERAL + "[pools]\n").warnings[0]


def test_a_pool_without_users_is_fine() -> None:
    for users in ("", "users = []\n", "[pools.shop.users]\n"):
        settings = load_text(GENERAL + "[pools.shop]\n" + users)
        assert settings.pools["shop"].users == ()
        assert settings.warnings == ()


USERS = {
    "array of tables": """
[[pools.shop.users]]
username = "a"
password = "x"
pool_size = 1
[[pools.shop.users]]
username = "b"
password = "y"
pool_size = 2
""",
    "inline": """
[pools.shop]
users = [{username = "a", password = "x", pool_size = 1}, {username = "b", password = "y", pool_size = 2}]
""",
    "numbered, in any order": """
[pools.shop.users.10]
username = "b"
password = "y"
pool_size = 2
[pools.shop.users.9]
username = "a"
password = "x"
pool_size = 1
""",
}


@pytest.mark.parametrize("shape", USERS)
def test_shapes_of_users(shape: str) -> None:
    users = load_text(GENERAL + USERS[shape]).pools["shop"].users
    assert [(user.username, user.password, user.pool_size) for user in users] == [
        ("a", Secret("x"), 1),
        ("b", Secret("y"), 2),
    ]


def test_numbered_users_in_yaml() -> None:
    text = """\
general: {admin_username: admin, admin_password: x}
pools:
  shop:
    users:
      1: {username: b, password: x, pool_size: 1}
      0: {username: a, password: x, pool_size: 1}
"""
    assert [user.username for user in load_text(text, "a.yaml").pools["shop"].users] == ["a", "b"]


def test_numbers_of_users_are_numbers() -> None:
    text = GENERAL + '[pools.shop.users.first]\nusername = "a"\n'
    error = error_of(text)
    assert (error.line, error.key) == (4, "pools.shop.users")
    assert '"first" is not a number' in error.message


def test_one_user_twice() -> None:
    text = configuration() + configuration().partition("[pools.shop]")[2]
    error = error_of(text)
    second = text.index("username", text.index("[[pools.shop.users]]") + 40)
    assert error.line == text[:second].count("\n") + 1
    assert f'user "alice" stands already at pgdoorman.toml:{line_of(text, "\nusername") + 1}' in error.message


def test_one_user_twice_does_not_shift_the_others() -> None:
    user = '[[pools.shop.users]]\nusername = "{}"\npassword = "x"\npool_size = 1\nmin_pool_size = {}\n'
    text = GENERAL + "".join(user.format(name, least) for name, least in (("a", 0), ("a", 0), ("b", 2)))
    assert [(error.line, error.key) for error in errors_of(text)] == [
        (10, "pools.shop.users[1].username"),
        (18, "pools.shop.users[2].min_pool_size"),
    ]


def test_a_user_without_a_name_does_not_shift_the_others() -> None:
    text = GENERAL + (
        "[pools.shop]\n"
        '[[pools.shop.users]]\npassword = "x"\npool_size = 1\n'
        '[[pools.shop.users]]\nusername = "b"\npassword = "x"\npool_size = 1\nmin_pool_size = 2\n'
    )
    assert [(error.line, error.key) for error in errors_of(text)] == [
        (5, "pools.shop.users[0].username"),
        (12, "pools.shop.users[1].min_pool_size"),
    ]


def test_old_names_of_keys() -> None:
    settings = sample.load_with(Section.GENERAL, client_prepared_statements_cache_size=7)
    assert settings.general.client_anonymous_prepared_cache_size == 7
    assert 'is an old name of "client_anonymous_prepared_cache_size"' in settings.warnings[0]
    both = configuration(
        Section.GENERAL, client_prepared_statements_cache_size=7, client_anonymous_prepared_cache_size=8
    )
    assert error_of(both).key == "general.client_prepared_statements_cache_size"


def test_prometheus_is_web() -> None:
    settings = load_text(configuration() + '[prometheus]\nenabled = true\nhost = "127.0.0.1, ::1"\n')
    assert settings.web.enabled
    assert settings.web.hosts == ("127.0.0.1", "::1")
    assert error_of(configuration() + '[web]\nhost = "127.0.0.1,"\n').message == "an address in the list is empty"
    both = errors_of(configuration() + "[web]\n[prometheus]\n")
    assert any("another name of [web]" in error.message and error.key == "prometheus" for error in both)


# --- include ---


def _including(tmp_path: Path, *names: str, more: str = "") -> Path:
    files = ", ".join(f'"{name}"' for name in names)
    return _write(tmp_path / "main.toml", f"include.files = [{files}]\n{configuration()}{more}")


def test_included_files_are_merged_in_order(tmp_path: Path) -> None:
    _write(tmp_path / "one.toml", '[general]\nport = 1111\nhost = "::1"\n[pools.second]\nserver_port = 1\n')
    _write(
        tmp_path / "two.yaml",
        "general: {port: 2222}\npools:\n  shop:\n    users:\n    - {username: bob, password: y, pool_size: 2}\n",
    )
    main = _including(tmp_path, "one.toml", "two.yaml")
    settings = load(main, {})
    assert (settings.general.port, settings.general.host) == (2222, "::1")
    assert [user.username for user in settings.pools["shop"].users] == ["alice", "bob"]
    assert settings.pools["second"].server_port == 1
    assert settings.files == (main, tmp_path / "one.toml", tmp_path / "two.yaml")


def test_numbered_users_merge_with_listed_ones(tmp_path: Path) -> None:
    _write(tmp_path / "one.toml", '[pools.shop.users.0]\nusername = "bob"\npassword = "y"\npool_size = 2\n')
    assert [user.username for user in load(_including(tmp_path, "one.toml"), {}).pools["shop"].users] == [
        "alice",
        "bob",
    ]


def test_an_included_file_is_beside_the_main_one_or_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    _write(tmp_path / "extra.toml", "[general]\nport = 1\n")
    main = _including(folder, "extra.toml")
    assert load(main, {}).general.port == 1
    _write(folder / "extra.toml", "[general]\nport = 2\n")
    assert load(main, {}).general.port == 2


def test_errors_name_the_included_file(tmp_path: Path) -> None:
    _write(tmp_path / "one.toml", "[general]\nport = 0.5\n")
    with pytest.raises(ConfigErrors) as caught:
        load(_including(tmp_path, "one.toml", more="[pools.x]\nzzz = 1\n"), {})
    assert [(Path(error.file).name, error.line) for error in caught.value.errors] == [
        ("main.toml", 13),
        ("one.toml", 2),
    ]


def test_what_goes_wrong_with_includes(tmp_path: Path) -> None:
    _write(tmp_path / "broken.toml", "[general]\nport 1\n")
    _write(tmp_path / "nested.toml", "[general]\n[include]\nfiles = []\n")
    _write(tmp_path / "other.toml", "[general]\nadmin_username = 3\n")
    main = _including(tmp_path, "missing.toml", "broken.toml", "nested.toml", "other.toml")
    with pytest.raises(ConfigErrors) as caught:
        load(main, {})
    found = [(Path(error.file).name, error.line, error.message) for error in caught.value.errors]
    assert [place[:2] for place in found] == [
        ("main.toml", 1),
        ("broken.toml", 2),
        ("nested.toml", 2),
        ("other.toml", 2),
    ]
    assert "missing.toml cannot be read: No such file" in found[0][2]
    assert "may include" in found[2][2]
    assert "an integer cannot be merged over text" in found[3][2]


@pytest.mark.parametrize(
    "text",
    [
        "include = 1\n",
        'include = {file = "x"}\n',
        'include.files = "x"\n',
        "include.files = [1]\n",
        'include.files = [""]\n',
    ],
)
def test_include_is_a_list_of_files(text: str) -> None:
    error = error_of(text + configuration())
    assert error.line == 1
    assert error.key.startswith("include")


# --- rules ---

RULES = "host all all 10.0.0.0/8 md5\nlocal all all trust\n"


def test_rules_in_the_file() -> None:
    text = configuration(Section.GENERAL).replace("[pools.shop]", f'pg_hba = """\n{RULES}"""\n[pools.shop]', 1)
    rules = load_text(text).general.pg_hba
    assert rules is not None
    assert (rules.text, rules.file, rules.first_line) == (RULES, "pgdoorman.toml", line_of(text, "host all"))
    settings = sample.load_with(Section.GENERAL, pg_hba={"content": "host all", "path": "no/such/file"})
    assert settings.general.pg_hba is not None
    assert settings.general.pg_hba.text == "host all"


def test_rules_in_yaml() -> None:
    text = """\
general:
  admin_username: admin
  admin_password: x
  pg_hba:
    content: |
      host all all 10.0.0.0/8 md5
      local all all trust
pools: {}
"""
    rules = load_text(text, "a.yaml").general.pg_hba
    assert rules is not None
    assert (rules.text, rules.first_line) == (RULES, 6)


def test_rules_in_a_file_of_their_own(tmp_path: Path) -> None:
    _write(tmp_path / "hba.conf", RULES)
    main = _write(tmp_path / "a.toml", configuration(Section.GENERAL, pg_hba={"path": "hba.conf"}))
    settings = load(main, {})
    rules = settings.general.pg_hba
    assert rules is not None
    assert (rules.text, rules.file, rules.first_line) == (RULES, str(tmp_path / "hba.conf"), 1)
    assert settings.files == (main, tmp_path / "hba.conf")


def test_wrong_rules_are_told_apart() -> None:
    text = configuration(Section.GENERAL, pg_hba={"file": "x", "path": 3})
    assert [error.message.partition(",")[0] for error in errors_of(text)] == [
        'unknown key "file"',
        "path must be a text that is not empty",
    ]


def test_many_users_load_in_time() -> None:
    text = (
        GENERAL
        + "[pools.shop]\n"
        + "".join(f'[[pools.shop.users]]\nusername = "u{n}"\npassword = "x"\npool_size = 1\n' for n in range(3000))
    )
    assert len(load_text(text).pools["shop"].users) == 3000
