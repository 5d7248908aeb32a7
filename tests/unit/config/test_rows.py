"""SHOW CONFIG's rows."""

from pgdoorman.config.keys import KEYS, Section, Since
from pgdoorman.config.rows import SettingRow, rows
from pgdoorman.config.settings import Settings
from tests.unit.config import sample


def _row(settings: Settings, key: str) -> SettingRow:
    (row,) = [row for row in rows(settings) if row.key == key]
    return row


def test_every_general_key_has_a_row() -> None:
    found = {row.key for row in rows(sample.load_with())}
    assert found >= {
        key.name for key in KEYS if Section.GENERAL in key.sections and key.since is Since.AVAILABLE and not key.ignored
    }
    assert "tokio_event_interval" not in found
    assert "tls_mode" not in found or any(key.name == "tls_mode" and key.since is Since.AVAILABLE for key in KEYS)


def test_values_are_numbers_and_defaults_too() -> None:
    settings = sample.load_with(Section.GENERAL, idle_timeout="1.5s", max_memory_usage="1MB", tcp_user_timeout="2m")
    row = _row(settings, "idle_timeout")
    assert (row.value, row.default, row.changeable) == ("1500", "600000", "yes")
    assert _row(settings, "max_memory_usage").value == "1048576"
    assert _row(settings, "tcp_user_timeout").value == "120"
    assert _row(settings, "unix_socket_mode").value == "0600"
    assert _row(settings, "unix_socket_dir").value == ""
    assert _row(settings, "unix_socket_dir").default == "-"
    assert _row(settings, "worker_threads").default == "the number of cores"
    assert _row(settings, "port").changeable == "no"


def test_pools_and_users_show_what_they_set_themselves() -> None:
    settings = sample.load_with(Section.POOL, sync_server_parameters=False, idle_timeout=0)
    assert _row(settings, "pools.shop.sync_server_parameters").value == "false"
    assert _row(settings, "pools.shop.idle_timeout").value == "0"
    assert _row(settings, "pools.shop.server_host").value == "127.0.0.1"
    assert _row(settings, "pools.shop.users.alice.pool_size").value == "10"
    found = {row.key for row in rows(settings)}
    assert "pools.shop.pool_mode" not in found
    assert "pools.shop.startup_parameters" not in found
    assert "pools.shop.users.alice.idle_timeout" not in found


def test_secrets_are_stars() -> None:
    settings = sample.load_with(Section.USER, password="")
    assert _row(settings, "admin_password").value == "***"
    assert _row(settings, "pools.shop.users.alice.password").value == ""
