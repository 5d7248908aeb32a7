"""What drivers, pools of connections and psql say to every server."""

import pytest

from pgdoorman.admin.flavour import Flavour
from tests.support.console import ADMIN_ID, Desk, kinds, texts


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("BEGIN", "BEGIN"),
        ("begin isolation level serializable, read only", "BEGIN"),
        ("START TRANSACTION READ ONLY", "START TRANSACTION"),
        ("COMMIT", "COMMIT"),
        ("END", "COMMIT"),
        ("ROLLBACK", "ROLLBACK"),
        ("ABORT", "ROLLBACK"),
        ("SAVEPOINT a", "SAVEPOINT"),
        ("RELEASE SAVEPOINT a", "RELEASE"),
        ("CLOSE ALL", "CLOSE CURSOR"),
        ("UNLISTEN *", "UNLISTEN"),
        ("DISCARD ALL", "DISCARD ALL"),
        ("DEALLOCATE ALL", "DEALLOCATE ALL"),
        ("SET TRANSACTION READ ONLY", "SET"),
        ("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED", "SET"),
        ("RESET ALL", "RESET"),
        ("RESET datestyle", "RESET"),
    ],
)
def test_clean_up_and_transactions_are_only_acknowledged(text: str, tag: str) -> None:
    desk = Desk()
    answer = desk.query(text)
    assert kinds(answer) == "CZ"
    assert answer[0].text() == tag
    assert answer[1].body == b"I"
    assert desk.house.calls == []


@pytest.mark.parametrize(
    "text",
    ["SET client_encoding TO 'UTF8'", "SET datestyle TO 'ISO'", "SET TIME ZONE 'UTC'", "SET extra_float_digits = 3",
     "SET application_name = 'x'", "SET SESSION timezone = 'UTC'", "SET statement_timeout = 0"],
)  # fmt: skip
def test_settings_of_a_session_are_ignored_with_a_notice(text: str) -> None:
    desk = Desk(admin=False)
    answer = desk.query(text)
    assert kinds(answer) == "NCZ"
    assert answer[0].fields()["M"] == "SET ignored"
    assert answer[1].text() == "SET"


@pytest.mark.parametrize(
    ("text", "columns", "values"),
    [
        ("SELECT 1", ["?column?"], ["1"]),
        ("select 1 as ping", ["ping"], ["1"]),
        ("SELECT 1, 'a', NULL, true", ["?column?", "?column?", "?column?", "bool"], ["1", "a", None, "t"]),
        ("SELECT version()", ["version"], ["console of pgdoorman 9.8.7 for PostgreSQL 14 clients"]),
        ("select pg_catalog.version()", ["version"], ["console of pgdoorman 9.8.7 for PostgreSQL 14 clients"]),
        ("SELECT current_database(), current_user", ["current_database", "current_user"], ["pgdoorman", "operator"]),
        ("SELECT current_schema()", ["current_schema"], ["pg_catalog"]),
        ("SELECT pg_backend_pid()", ["pg_backend_pid"], [str(ADMIN_ID)]),
        ("SELECT pg_is_in_recovery()", ["pg_is_in_recovery"], ["f"]),
        ("SELECT pg_catalog.pg_is_in_recovery()", ["pg_is_in_recovery"], ["f"]),
        ("SELECT current_setting('Server_Encoding')", ["current_setting"], ["UTF8"]),
        ("SELECT version", ["version"], ["PgDoorman 9.8.7"]),  # PgBouncer's way of saying SHOW VERSION
        ("SHOW TRANSACTION ISOLATION LEVEL", ["transaction_isolation"], ["read committed"]),
        ("SHOW standard_conforming_strings", ["standard_conforming_strings"], ["on"]),
        ("SHOW transaction_read_only", ["transaction_read_only"], ["off"]),
        ("SHOW TimeZone", ["timezone"], ["GMT"]),
    ],
)
def test_what_drivers_ask(text: str, columns: list[str], values: list[str | None]) -> None:
    answer = Desk().query(text)
    assert kinds(answer) == "TDCZ"
    assert answer[0].column_names() == columns
    assert texts(answer[1]) == values


def test_pgbouncers_texts_of_its_five_settings() -> None:
    desk = Desk(Flavour.PGBOUNCER)
    shown = {name: desk.table(f"SHOW {name}")[0][name] for name in ("client_encoding", "datestyle", "timezone")}
    assert shown == {"client_encoding": "UTF-8", "datestyle": "ISO", "timezone": "GMT"}


@pytest.mark.parametrize(
    "text",
    ["SELECT", "SELECT *", "SELECT 1 FROM pg_class", "SELECT relname FROM pg_class", "SELECT nope()", "SELECT 1 +",
     "SELECT version(1)", "SELECT current_user()", "SELECT 1 AS", "SELECT 1,", "INSERT INTO x VALUES (1)", "VACUUM"],
)  # fmt: skip
def test_what_is_not_answered(text: str) -> None:
    desk = Desk()
    assert kinds(desk.query(text)) == "EZ"
    assert kinds(desk.query("SELECT 1")) == "TDCZ"


# What psql sends when Tab is pressed, in the two ways in which its versions ask.
LIKE = (
    "SELECT pg_catalog.lower(name) FROM pg_catalog.pg_settings "
    " WHERE {} pg_catalog.lower(name) LIKE pg_catalog.lower('{}%')\nLIMIT 1000"
)
SUBSTRING = (
    "SELECT name FROM  (SELECT pg_catalog.lower(name) AS name FROM pg_catalog.pg_settings   {} UNION ALL SELECT 'all')"
    " ss  WHERE substring(name,1,{})='{}'\nLIMIT 1000"
)


@pytest.mark.parametrize(
    "text",
    [LIKE.format("", "pool"), LIKE.format("", "POOL"), SUBSTRING.format("", 4, "pool")],
    ids=["15", "case", "14"],
)
def test_completion_behind_show(text: str) -> None:
    rows = Desk().table(text)
    assert [row["name"] for row in rows] == [
        "pool_coordinator", "pool_scaling", "pools", "pools_extended", "pools_memory",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        LIKE.format("context IN ('user', 'superuser') AND ", "log\\\\_l"),
        SUBSTRING.format("WHERE context IN ('user', 'superuser')", 3, "log"),
    ],
    ids=["15", "14"],
)
def test_completion_behind_set(text: str) -> None:
    assert [row["name"] for row in Desk().table(text)] == ["log_level"]


def test_completion_of_everything() -> None:
    names = {row["name"] for row in Desk().table("SELECT name FROM pg_settings")}
    assert {"pools", "clients", "help", "timezone"} <= names
    assert "server_dsn" not in {  # cannot be SET
        row["name"] for row in Desk().table(LIKE.format("context IN ('user', 'superuser') AND ", ""))
    }
    assert Desk().table("SELECT val FROM (SELECT unnest(enumvals) AS val FROM pg_settings WHERE name = 'x') s") == []
