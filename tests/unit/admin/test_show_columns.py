"""The columns of every SHOW, word for word as the references of both originals print them."""

import pytest

from pgdoorman.admin.commands import plan
from pgdoorman.admin.flavour import Flavour
from pgdoorman.admin.grammar import Show
from pgdoorman.admin.show import SUBJECTS
from pgdoorman.protocol.results import BYTEA, INT4, INT8, NUMERIC, TEXT

TYPES = {"t": TEXT, "i": INT4, "q": INT8, "n": NUMERIC, "b": BYTEA}

# name, letter of the type; a list without letters after a colon has that type throughout.
SOCKET = """type t, user t, database t, replication t, state t, addr t, port i, local_addr t, local_port i,
    connect_time t, request_time t, wait i, wait_us i, close_needed i, ptr t, link t, remote_pid i, tls t,
    application_name t, prepared_statements i, id i"""
BUFFERS = """, recv_pos i, pkt_pos i, pkt_remain i, send_pos i, send_remain i, pkt_avail i, send_avail i"""

PGBOUNCER = {
    "DATABASES": """name t, host t, port i, database t, force_user t, pool_size i, min_pool_size i, reserve_pool_size i,
        server_lifetime i, pool_mode t, load_balance_hosts t, max_connections i, current_connections i,
        max_client_connections i, current_client_connections i, paused i, disabled i""",
    "POOLS": """database t, user t, cl_active i, cl_waiting i, cl_active_cancel_req i, cl_waiting_cancel_req i,
        sv_active i, sv_active_cancel i, sv_being_canceled i, sv_idle i, sv_used i, sv_tested i, sv_login i, maxwait i,
        maxwait_us i, pool_mode t, load_balance_hosts t""",
    "PEERS": "peer_id i, host t, port i, pool_size i",
    "PEER_POOLS": "peer_id i, cl_active_cancel_req i, cl_waiting_cancel_req i, sv_active_cancel i, sv_login i",
    "USERS": """name t, pool_size t, reserve_pool_size t, pool_mode t, max_user_connections i, current_connections i,
        max_user_client_connections i, current_client_connections i""",
    "CLIENTS": SOCKET,
    "SERVERS": SOCKET,
    "SOCKETS": SOCKET + BUFFERS,
    "ACTIVE_SOCKETS": SOCKET + BUFFERS,
    "LISTS": "list t, items i",
    "CONFIG": "key t, value t, default t, changeable t",
    "STATE": "key t, value t",
    "VERSION": "version t",
    "MEM": "name t, size i, used i, free i, memtotal i",
    "DNS_HOSTS": "hostname t, ttl q, addrs t",
    "DNS_ZONES": "zonename t, serial q, count i",
    "STATS": """database t, total_server_assignment_count n, total_xact_count n, total_query_count n, total_received n,
        total_sent n, total_xact_time n, total_query_time n, total_wait_time n, total_client_parse_count n,
        total_server_parse_count n, total_bind_count n, total_client_login_count n, avg_server_assignment_count n,
        avg_xact_count n, avg_query_count n, avg_recv n, avg_sent n, avg_xact_time n, avg_query_time n, avg_wait_time n,
        avg_client_parse_count n, avg_server_parse_count n, avg_bind_count n, avg_client_login_count n""",
    "STATS_TOTALS": """database t, server_assignment_count n, xact_count n, query_count n, bytes_received n,
        bytes_sent n, xact_time n, query_time n, wait_time n, client_parse_count n, server_parse_count n, bind_count n,
        client_login_count n""",
    "STATS_AVERAGES": """database t, server_assignment_count n, xact_count n, query_count n, bytes_received n,
        bytes_sent n, xact_time n, query_time n, wait_time n, avg_client_parse_count n, avg_server_parse_count n,
        avg_bind_count n, avg_client_login_count n""",
    "TOTALS": "name t, value n",
    "client_encoding": "client_encoding t",
    "DATESTYLE": "datestyle t",
    "TimeZone": "timezone t",
    "default_transaction_isolation": "default_transaction_isolation t",
    "standard_conforming_strings": "standard_conforming_strings t",
}

TCP = """established syn_sent syn_recv fin_wait1 fin_wait2 time_wait close close_wait last_ack listen closing
    new_syn_recv bound_inactive"""
UNIX = "free unconnected connecting connected disconnecting dgram seq_packet"
COUNTS = [
    *(f"{kind}_{state}" for kind in ("tcp", "tcp6") for state in TCP.split()),
    *(f"unix_{state}" for state in UNIX.split()),
    "unknown",
]

PGDOORMAN = {
    "HELP": "item t",
    "VERSION": "version t",
    "LOG_LEVEL": "log_level t",
    "LISTS": "list t, items i",
    "CONFIG": "key t, value t, default t, changeable t",
    "DATABASES": """name t, host t, port t, database t, force_user t, pool_size i, min_pool_size i, reserve_pool i,
        pool_mode t, max_connections i, current_connections i""",
    "USERS": "name t, pool_mode t",
    "POOLS": """database t, user t, pool_mode t, cl_idle n, cl_active n, cl_waiting n, cl_cancel_req n, sv_active n,
        sv_idle n, sv_used n, sv_login n, pool_size n, maxwait n, maxwait_us n, avg_xact_time n, paused t,
        fallback_active t, oldest_active_age_ms n""",
    "POOLS_EXTENDED": """database t, user t, cl_active n, cl_waiting n, sv_active n, sv_idle n, sv_used n, sv_login n,
        pool_size n, maxwait n, maxwait_us n, pool_mode t, bytes_recieved n, bytes_sent n, query_0.99 n,
        transaction_0.99 n, query_0.95 n, transaction_0.95 n, query_0.5 n, transaction_0.5 n""",
    "POOLS_MEMORY": """database t, user t, pool_prepared_count n, pool_prepared_bytes n, client_prepared_count n,
        client_prepared_bytes n, client_named_count n, client_anonymous_count n, client_anonymous_evictions_alive n,
        async_clients n""",
    "POOL_MEMORY": """database t, user t, pool_prepared_count n, pool_prepared_bytes n, client_prepared_count n,
        client_prepared_bytes n, client_named_count n, client_anonymous_count n, client_anonymous_evictions_alive n,
        async_clients n""",
    "STATS": """database t, user t, total_xact_count n, total_query_count n, total_received n, total_sent n,
        total_xact_time n, total_query_time n, total_wait_time n, total_errors n, avg_xact_count n, avg_query_count n,
        avg_recv n, avg_sent n, avg_errors n, avg_xact_time n, avg_query_time n, avg_wait_time n""",
    # `pinned` is ours, behind what PgDoorman has.
    "CLIENTS": """client_id t, database t, user t, application_name t, addr t, tls t, state t, wait t,
        transaction_count n, query_count n, error_count n, age_seconds n, pinned t""",
    "SERVERS": """server_id t, server_process_id t, database_name t, user t, application_name t, tls t, state t, wait t,
        transaction_count n, query_count n, bytes_sent n, bytes_received n, age_seconds n, prepare_cache_hit n,
        prepare_cache_miss n, prepare_cache_size n""",
    "CONNECTIONS": "total n, errors n, tls n, plain n, cancel n",
    "PREPARED_STATEMENTS": "pool t, hash n, name t, query t, count_used n, kind t",
    "INTERNER": "kind t, entries n, bytes n",
    "INTERNER 5": "hash t, kind t, bytes n, idle_ms n, query t",
    "AUTH_QUERY": """database t, cache_entries n, cache_hits n, cache_misses n, cache_refetches n, cache_rate_limited n,
        auth_success n, auth_failure n, executor_queries n, executor_errors n, dynamic_pools_current n,
        dynamic_pools_created n, dynamic_pools_destroyed n""",
    "POOL_SCALING": """user t, database t, inflight n, creates n, gate_waits n, gate_budget_ex n, antic_notify n,
        antic_timeout n, create_fallback n, replenish_def n""",
    "POOL_COORDINATOR": """database t, max_db_conn n, current n, reserve_size n, reserve_used n, evictions n,
        reserve_acq n, exhaustions n""",
    "STARTUP_PARAMETERS": "user t, database t, parameter t, value t, source t, state t",
    "SOCKETS": ", ".join(f"{name} n" for name in COUNTS),
    "STATE": "key t, value t",
    "STATUS": "key t, value t",
    "PEERS": PGBOUNCER["PEERS"],
    "PEER_POOLS": PGBOUNCER["PEER_POOLS"],
    "ACTIVE_SOCKETS": PGBOUNCER["ACTIVE_SOCKETS"],
    "MEM": PGBOUNCER["MEM"],
    "DNS_HOSTS": PGBOUNCER["DNS_HOSTS"],
    "DNS_ZONES": PGBOUNCER["DNS_ZONES"],
    "STATS_TOTALS": PGBOUNCER["STATS_TOTALS"],
    "STATS_AVERAGES": PGBOUNCER["STATS_AVERAGES"],
    "TOTALS": PGBOUNCER["TOTALS"],
}

CASES = [
    pytest.param(flavour, name, columns, id=f"{flavour.value}-{name}")
    for flavour, table in ((Flavour.PGBOUNCER, PGBOUNCER), (Flavour.PGDOORMAN, PGDOORMAN))
    for name, columns in table.items()
]


@pytest.mark.parametrize(("flavour", "name", "columns"), CASES)
def test_columns_are_those_of_the_original(flavour: Flavour, name: str, columns: str) -> None:
    expected = []
    for item in columns.split(","):
        column, letter = item.split()
        expected.append((column, TYPES[letter]))
    subject, _, argument = name.upper().partition(" ")

    found = plan(Show(f"SHOW {name}", subject, argument or None), flavour)

    assert found.columns is not None
    assert [(column.name, column.type_oid) for column in found.columns] == expected


def test_every_name_is_in_the_lists_above() -> None:
    assert set(SUBJECTS) <= set(PGDOORMAN)
    # What only PgDoorman has can be shown in the other console too, with its own columns.
    assert set(SUBJECTS) - set(PGBOUNCER) == {
        "AUTH_QUERY", "CONNECTIONS", "INTERNER", "LOG_LEVEL", "POOLS_EXTENDED", "POOLS_MEMORY", "POOL_COORDINATOR",
        "POOL_SCALING", "PREPARED_STATEMENTS", "STARTUP_PARAMETERS", "STATUS",
    }  # fmt: skip
