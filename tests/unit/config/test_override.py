"""One setting changed without a file."""

import pytest

from pgdoorman.config.changes import compare
from pgdoorman.config.keys import KEYS, Change, Key, Section, Since
from pgdoorman.config.load import load_text
from pgdoorman.config.override import settable, with_setting, without_setting
from pgdoorman.config.settings import PoolMode, Settings
from pgdoorman.errors import ConfigError

FILE = """\
[general]
admin_username = "admin"
admin_password = "x"
query_wait_timeout = "9s"
[pools.shop]
[[pools.shop.users]]
username = "a"
password = ""
pool_size = 1
[[pools.shop.users]]
username = "b"
password = ""
pool_size = 1
query_wait_timeout = "1s"
"""


@pytest.fixture
def settings() -> Settings:
    return load_text(FILE)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("query_wait_timeout", "7s", 7.0),
        ("query_wait_timeout", " 250 ", 0.25),
        ("pool_mode", "Session", PoolMode.SESSION),
        ("log_client_connections", "off", False),
        ("log_client_connections", "1", True),
        ("max_connections", "17", 17),
        ("max_memory_usage", "1.5MB", 1536 * 1024),
        ("max_memory_usage", "2097152", 2097152),
        ("application_name", "a name of its own", "a name of its own"),
        ("application_name", "", ""),
        ("tcp_keepalives_idle", "1m", 60),
    ],
)
def test_a_text_becomes_what_the_key_holds(settings: Settings, name: str, text: str, value: object) -> None:
    changed = with_setting(settings, name, text)
    assert getattr(changed.general, name) == value
    assert [one.key for one in compare(settings, changed).keys] in ([f"general.{name}"], [])
    assert without_setting(changed, name, settings) == settings


def test_who_has_a_value_of_its_own_keeps_it(settings: Settings) -> None:
    pools = with_setting(settings, "query_wait_timeout", "7s").effective_pools()
    assert {user: pool.query_wait_timeout for (_, user), pool in pools.items()} == {"a": 7.0, "b": 1.0}


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("nonsense", "1", "no such setting"),
        ("query_wait_timout", "1", 'did you mean "query_wait_timeout"'),
        ("port", "1", "takes a restart"),
        ("admin_password", "y", "cannot be changed here"),
        ("pg_hba", "host all all all trust", "cannot be changed here"),
        ("max_blocking_threads", "3", "no effect"),
        ("query_wait_timeout", "soon", "must be a duration"),
        ("query_wait_timeout", "0", "must be a duration"),
        ("max_connections", "0", "must be an integer from 1"),
        ("max_connections", "-1", "must be an integer from 1"),
        ("log_client_connections", "perhaps", "must be true or false"),
        ("pool_mode", "x", "must be one of transaction, session, statement"),
        ("prepared_statements_cache_size", "0", "must be at least 1 while prepared_statements is true"),
    ],
)
def test_what_is_refused(settings: Settings, name: str, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        with_setting(settings, name, text)


@pytest.mark.parametrize("key", [key for key in KEYS if Section.GENERAL in key.sections], ids=lambda key: key.name)
def test_every_key_that_takes_no_restart_can_be_set_or_belongs_into_the_file(key: Key) -> None:
    if key.change is Change.RESTART or key.since is Since.LATER or key.ignored:
        with pytest.raises(ConfigError, match=r"takes a restart|no effect"):
            settable(key.name)
        return
    try:
        found = settable(key.name)
    except ConfigError as refused:
        if "change it in the file and RELOAD" not in str(refused):
            raise
        return
    assert found is key
