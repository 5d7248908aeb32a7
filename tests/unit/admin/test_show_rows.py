"""What stands in the rows: units, sums, order, and never a secret."""

import time

import pytest

from pgdoorman.admin.flavour import Flavour
from pgdoorman.admin.show import NAMES, SUBJECTS
from pgdoorman.control import BackendRow, ClientRow, PoolRow
from pgdoorman.stats.rows import Traffic, TrafficReport
from tests.support.console import Desk, kinds, texts
from tests.support.control import SECRETS, TRAFFIC, House

FLAVOURS = pytest.mark.parametrize("flavour", list(Flavour), ids=lambda flavour: flavour.value)


@FLAVOURS
@pytest.mark.parametrize("admin", [True, False], ids=["admin", "stats"])
def test_everything_can_be_shown_and_no_secret_is_in_it(flavour: Flavour, admin: bool) -> None:
    desk = Desk(flavour, admin=admin)
    for name in [*NAMES, "INTERNER 5"]:
        answer = desk.query(f"SHOW {name};")
        assert kinds(answer)[-1] == "Z"
        sent = b"".join(reply.body for reply in answer).decode("utf-8", "replace")
        for secret in SECRETS:
            assert secret not in sent, name


def test_masking_does_not_hide_everything() -> None:
    rows = {row["key"]: row for row in Desk().table("SHOW CONFIG")}
    assert rows["server_lifetime"]["value"] == "3600"
    assert rows["admin_password"]["value"] == "********"
    assert rows["verifier"]["value"] == rows["verifier"]["default"] == "********"
    assert rows["server_dsn"]["value"] == "host=x password=********"
    assert rows["server_dsn"]["changeable"] == "no"
    assert rows["unset"]["value"] is None
    assert [row["value"] for row in Desk().table("SHOW STARTUP_PARAMETERS")] == ["********", "app"]


def test_texts_of_queries_are_for_admins() -> None:
    (row,) = Desk().table("SHOW PREPARED_STATEMENTS")
    assert row["query"] == "alter role app password '********'"
    (row,) = Desk(admin=False).table("SHOW PREPARED_STATEMENTS")
    assert row["query"] == "********"
    assert row["hash"] == str(2**64 - 1)
    assert row["pool"] == "app@shop"
    largest = Desk().table("SHOW INTERNER 5")
    assert [(row["hash"], row["idle_ms"]) for row in largest] == [("100", "1500"), ("ff", "-1")]


def test_averages_come_from_the_last_period_and_sums_from_all_pools() -> None:
    house = House()
    twice = [PoolRow(database="shop", user=user, traffic=TRAFFIC) for user in ("b", "a")]
    house.rows["pools"] = [*twice, PoolRow(database="bank", user="z")]
    bank, shop = Desk(Flavour.PGBOUNCER, house=house).table("SHOW STATS")
    assert (bank["database"], shop["database"]) == ("bank", "shop")
    assert shop["total_xact_count"] == "200"
    assert shop["avg_xact_count"] == "6"  # 2 pools x 45 / 15 s
    assert shop["avg_recv"] == "200"
    assert shop["avg_xact_time"] == "100"  # 4500 us / 45: a mean of all events does not grow with the pools
    assert shop["avg_wait_time"] == "10"  # for each assignment
    assert shop["avg_client_login_count"] == "16"
    assert bank["avg_query_time"] == "0"  # nothing measured is no division by zero

    rows = Desk(house=house).table("SHOW STATS")
    assert [(row["database"], row["user"]) for row in rows] == [("bank", "z"), ("shop", "a"), ("shop", "b")]
    assert rows[1]["total_errors"] == "8"
    assert rows[1]["avg_errors"] == "1"


def test_a_pool_younger_than_the_period_counts_at_its_own_rate() -> None:
    house = House()
    young = TrafficReport(recent=Traffic(queries=10), recent_seconds=2.0)
    old = TrafficReport(recent=Traffic(queries=30), recent_seconds=15.0)
    house.rows["pools"] = [
        PoolRow(database="shop", user="a", traffic=young),
        PoolRow(database="shop", user="b", traffic=old),
    ]
    (row,) = Desk(Flavour.PGBOUNCER, house=house).table("SHOW STATS")
    assert row["avg_query_count"] == "7"


def test_totals_are_totals_first_then_averages() -> None:
    rows = Desk(Flavour.PGBOUNCER).table("SHOW TOTALS")
    assert len(rows) == 24
    assert rows[0] == {"name": "total_server_assignment_count", "value": "14"}
    assert rows[3] == {"name": "total_client_bytes", "value": "6000"}
    assert rows[-1] == {"name": "avg_client_login_count", "value": "16"}


@FLAVOURS
def test_a_wait_is_shown_in_seconds_and_the_rest(flavour: Flavour) -> None:
    row = Desk(flavour).table("SHOW POOLS")[0]
    assert (row["maxwait"], row["maxwait_us"]) == ("1", "250000")


def test_pools_of_either_flavour() -> None:
    bank, shop = Desk().table("SHOW POOLS")
    assert (bank["database"], shop["database"]) == ("bank", "shop")
    assert (shop["cl_idle"], shop["cl_active"], shop["sv_used"]) == ("3", "2", "1")
    assert (shop["oldest_active_age_ms"], shop["avg_xact_time"], shop["paused"]) == ("500", "100", "0")
    row = Desk(Flavour.PGBOUNCER).table("SHOW POOLS")[1]
    assert (row["cl_active"], row["sv_idle"], row["load_balance_hosts"]) == ("5", "4", None)
    extended = Desk().table("SHOW POOLS_EXTENDED")[0]
    assert (extended["maxwait"], extended["query_0.99"], extended["bytes_recieved"]) == ("1.25", "4", "3000")


def test_clients_of_either_flavour() -> None:
    login, client = Desk().table("SHOW CLIENTS")
    assert login["state"] == "login"
    assert client == {
        "client_id": "#c12", "database": "shop", "user": "app", "application_name": "psql", "addr": "10.0.0.1",
        "tls": "true", "state": "active", "wait": "read", "transaction_count": "3", "query_count": "4",
        "error_count": "1", "age_seconds": "65", "pinned": "temporary table",
    }  # fmt: skip
    (row,) = Desk(Flavour.PGBOUNCER).table("SHOW CLIENTS")  # who is still logging in is not listed
    assert (row["type"], row["ptr"], row["link"], row["id"]) == ("C", "0xc", "0xd", "12")
    assert (row["wait"], row["wait_us"]) == ("2", "500000")
    assert row["tls"] == "TLSv1.3/TLS_AES_256_GCM_SHA384"
    assert row["connect_time"] == time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(1_700_000_000))


def test_servers_of_either_flavour() -> None:
    rows = Desk().table("SHOW SERVERS")
    assert [(row["server_id"], row["state"]) for row in rows] == [
        ("0x0000000D", "active"), ("0x0000000E", "login"), ("0x0000000F", "idle"),
    ]  # fmt: skip
    rows = Desk(Flavour.PGBOUNCER).table("SHOW SERVERS")
    assert [row["state"] for row in rows] == ["active", "new", "used"]
    assert (rows[0]["remote_pid"], rows[0]["close_needed"], rows[0]["link"]) == ("4242", "1", "0xc")
    assert rows[1]["link"] == ""


def test_sockets_with_something_in_a_buffer() -> None:
    house = House()
    house.rows["clients"] = [
        ClientRow(id=1, state="waiting", unread_bytes=100),
        ClientRow(id=2, state="idle"),
        ClientRow(id=3, state="active_cancel_req", unread_bytes=1),  # PgBouncer does not list these
    ]
    house.rows["backends"] = [BackendRow(id=4, database="shop", user="app", state="active", unsent_bytes=7)]
    desk = Desk(Flavour.PGBOUNCER, house=house)
    assert [row["state"] for row in desk.table("SHOW SOCKETS")] == ["cl_waiting", "cl_active", "sv_active"]
    busy = desk.table("SHOW ACTIVE_SOCKETS")
    assert [(row["pkt_avail"], row["send_avail"], row["user"]) for row in busy] == [
        ("100", "0", "(nouser)"), ("0", "7", "app"),
    ]  # fmt: skip


def test_socket_counts() -> None:
    (row,) = Desk().table("SHOW SOCKETS")
    assert (row["tcp_established"], row["unix_connected"], row["tcp6_listen"]) == ("5", "2", "0")


def test_databases_and_users() -> None:
    row = Desk().table("SHOW DATABASES")[0]
    assert (row["name"], row["force_user"], row["current_connections"]) == ("bank", "app", "7")
    row = Desk(Flavour.PGBOUNCER).table("SHOW DATABASES")[0]
    assert (row["database"], row["force_user"], row["pool_mode"], row["paused"]) == ("bank_prod", None, None, "0")
    assert Desk().table("SHOW USERS")[1] == {"name": "zoe", "pool_mode": None}
    users = Desk(Flavour.PGBOUNCER).table("SHOW USERS")
    assert [(user["name"], user["pool_size"]) for user in users] == [("app", "20"), ("zoe", None)]


def test_lists() -> None:
    both = [(row["list"], row["items"]) for row in Desk(Flavour.PGBOUNCER).table("SHOW LISTS")]
    assert [name for name, _ in both] == [
        "databases", "users", "peers", "pools", "peer_pools", "free_clients", "used_clients", "login_clients",
        "free_servers", "used_servers", "dns_names", "dns_zones", "dns_queries", "dns_pending",
    ]  # fmt: skip
    assert both[0] == ("databases", "2")
    assert [(row["list"], row["items"]) for row in Desk().table("SHOW LISTS")] == [
        pair for pair in both if "peer" not in str(pair[0])
    ]


def test_small_things() -> None:
    assert Desk().table("SHOW VERSION") == [{"version": "PgDoorman 9.8.7"}]
    assert Desk(Flavour.PGBOUNCER).table("SHOW VERSION") == [{"version": "PgBouncer 1.25.2 (pgdoorman 9.8.7)"}]
    assert Desk().table("SHOW CONNECTIONS") == [{"total": "10", "errors": "1", "tls": "4", "plain": "3", "cancel": "2"}]
    assert Desk().table("SHOW DNS_HOSTS") == [
        {"hostname": "db.internal", "ttl": "14", "addrs": "10.0.0.2:5432,[::1]:5432"}
    ]
    assert Desk().table("SHOW DNS_ZONES")[0]["serial"] == str(2**32)
    assert Desk().table("SHOW PEERS") == []
    state = {row["key"]: row["value"] for row in Desk(Flavour.PGBOUNCER).table("SHOW STATE")}
    assert state == {"active": "yes", "paused": "no", "suspended": "no"}
    assert {row["key"] for row in Desk().table("SHOW STATE")} == {*state, "draining", "upgrading"}


def test_a_name_that_nobody_should_have_breaks_nothing() -> None:
    house = House()
    bad = "x\0y\ud800\n\N{SNOWMAN}"
    house.rows["clients"] = [ClientRow(id=1, user=bad, database=bad, application_name=bad)]
    house.rows["pools"] = [PoolRow(database=bad, user=bad)]
    desk = Desk(house=house)
    shown = "x\N{REPLACEMENT CHARACTER}y\N{REPLACEMENT CHARACTER}\n\N{SNOWMAN}"
    assert desk.table("SHOW CLIENTS")[0]["application_name"] == shown
    assert desk.table("SHOW POOLS")[0]["database"] == shown
    for name in SUBJECTS:
        assert kinds(desk.query(f"SHOW {name}"))[-1] == "Z"


def test_huge_numbers_do_not_break_the_row() -> None:
    house = House()
    house.rows["clients"] = [ClientRow(id=2**40, request_age=1e12)]
    (row,) = Desk(Flavour.PGBOUNCER, house=house).table("SHOW CLIENTS")
    assert (row["id"], row["wait"]) == (str(2**31 - 1), str(2**31 - 1))


def test_help_is_rows_here_and_a_notice_there() -> None:
    answer = Desk().query("SHOW HELP")
    lines = [str(texts(reply)[0]) for reply in answer if reply.kind == "D"]
    assert any("POOLS" in line for line in lines)
    assert "PAUSE [db]" in lines
    answer = Desk(Flavour.PGBOUNCER).query("SHOW HELP")
    assert kinds(answer) == "NCZ"
    fields = answer[0].fields()
    assert (fields["S"], fields["C"], fields["M"]) == ("NOTICE", "00000", "Console usage")
    assert fields["D"].startswith("\n\tSHOW ")
