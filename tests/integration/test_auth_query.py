"""auth_query: users that only the database knows, in pools of their own or in one for all."""

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.integration.conftest import StartDoorman
from tests.support.doorman import ADMIN_PASSWORD, Doorman, pool, stand_in, table, user
from tests.support.postgres import SECRET, Postgres
from tests.support.process import wait_until
from tests.support.wire import ServerError, WireError

pytestmark = pytest.mark.skipif(bool(stand_in()), reason="about pgdoorman's own way")

QUERY = "SELECT usename, passwd FROM pg_shadow WHERE usename = $1"
RULES = "host all all all md5\n"
HBA = "host pgdoorman all all md5\nhost all alice all trust\nhost all trusted all trust\nhost all all all md5\n"

ROLES = f"""
create role looker login superuser password 'looker-secret';
create role expired login password '{SECRET}' valid until '2001-01-01';
create role endless login password '{SECRET}' valid until 'infinity';
create role group_role password '{SECRET}';
create role trusted login;
create role owner_role login password 'owner-secret';
create schema evil;
grant usage on schema evil to public;
create table evil.pg_shadow as select usename, md5('x')::text as passwd from pg_catalog.pg_shadow where false;
insert into evil.pg_shadow select rolname, 'intruder' from pg_roles;
grant select on evil.pg_shadow to public;
alter role looker set search_path = evil, pg_catalog;
create table public.people (name text, password text, startup_parameters text);
insert into public.people values ('ann', '{SECRET}', '{{"work_mem": "7MB", "DateStyle": "SQL, DMY", "role": "alice"}}'),
    ('ben', '{SECRET}', null), ('bad', '{SECRET}', '[1]'), ('file', 'jwt-pkey-fpath:/etc/passwd', null),
    ('broken', 'SCRAM-SHA-256$4096:x', null), ('twice', '{SECRET}', null), ('twice', '{SECRET}', null);
"""


@pytest.fixture(scope="module")
def server(postgres: Postgres) -> Iterator[Postgres]:
    with postgres.connect() as wire:
        for statement in ROLES.strip().split(";\n"):
            wire.run(statement)
    yield postgres
    with postgres.connect() as wire:
        wire.run("drop table public.people")
        wire.run("drop schema evil cascade")
        for role in ("looker", "expired", "endless", "group_role", "trusted", "owner_role"):
            wire.run(f"drop role {role}")


@pytest.fixture
def house(server: Postgres, start_doorman: StartDoorman) -> Callable[..., Doorman]:
    def start(query: str = QUERY, general: dict[str, Any] | None = None, **section: Any) -> Doorman:
        section = {"query": query, "user": "looker", "password": "looker-secret", "database": "postgres", **section}
        settings = pool(server, user("alice", pool_size=2), auth_query=section)
        return start_doorman(pools={"app": settings}, general={"pg_hba": {"content": HBA}, **(general or {})})

    return start


def refusal(doorman: Doorman, name: str, password: str = SECRET, **parameters: str) -> tuple[str, str]:
    """SQLSTATE and text."""
    with pytest.raises(ServerError) as caught:
        doorman.connect("app", name, password, parameters).hang_up()
    return caught.value.sqlstate, caught.value.fields["M"]


def who(doorman: Doorman, name: str, password: str = SECRET) -> str:
    with doorman.connect("app", name, password) as wire:
        return str(wire.value("select current_user"))


def figures(doorman: Doorman) -> dict[str, int]:
    (row,) = doorman.show("auth_query")
    return {name: int(value or 0) for name, value in row.items() if name != "database"}


def wrong(name: str) -> tuple[str, str]:
    return "28P01", f'password authentication failed for user "{name}"'


def test_pass_through(house: Callable[..., Doorman]) -> None:
    """Each user has its own pool and is itself at the server, by md5 and by SCRAM; whoever may not log in may not."""
    doorman = house()
    for name in ("scram_user", "md5_user", "scram_user", "endless"):
        assert who(doorman, name) == name
        assert refusal(doorman, name, "wrong") == wrong(name)
    for name in ("nobody", "expired", "group_role", "x" * 64, "o'brien", "looker "):
        assert refusal(doorman, name) == wrong(name)
    assert who(doorman, "trusted", "") == "trusted"
    assert who(doorman, "alice", "") == "alice"
    assert {row["user"] for row in doorman.show("pools")} == {"alice", "scram_user", "md5_user", "endless", "trusted"}
    told = figures(doorman)
    assert told["auth_success"] == 5
    assert told["auth_failure"] == 10
    assert told["dynamic_pools_created"] == told["dynamic_pools_current"] == 4
    assert told["executor_queries"] == told["cache_misses"] == 9, "one look-up a name; 64 letters are nobody's"
    assert told["executor_errors"] == 0
    assert "secret" not in doorman.log()
    assert "SCRAM-SHA-256$" not in doorman.log()


def test_role_that_is_not_there_is_refused_by_trust(house: Callable[..., Doorman]) -> None:
    doorman = house(general={"pg_hba": {"content": "host all all all trust\n"}})
    assert refusal(doorman, "nobody") == ("28000", 'role "nobody" does not exist')
    assert refusal(doorman, "group_role") == ("28000", 'role "group_role" does not exist')
    assert refusal(doorman, "looker ") == ("28000", 'role "looker " does not exist')


def test_what_clients_send_does_not_reach_the_query(house: Callable[..., Doorman]) -> None:
    """CVE-2025-12819: search_path in the start-up packet. Nor does what the asking role has set for itself."""
    doorman = house()
    for name in ("scram_user", "md5_user", "nobody"):
        told = refusal(doorman, name, "intruder", search_path="evil, pg_catalog", options="-c search_path=evil")
        assert told == wrong(name)
    with doorman.connect("app", "scram_user", SECRET, {"search_path": "evil"}) as wire:
        assert wire.value("select current_user") == "scram_user"


def test_unqualified_names_fail_with_a_hint(house: Callable[..., Doorman]) -> None:
    doorman = house("SELECT name, password FROM people WHERE name = $1")
    assert refusal(doorman, "ann") == ("58000", "Authentication service unavailable. Please try again later.")
    wait_until(lambda: "search_path" in doorman.log(), 10, "the reason stands in the log")
    assert figures(doorman)["executor_errors"] == 1


def test_own_table(house: Callable[..., Doorman]) -> None:
    """Names that are no roles; parameters of their own; rows that mean nothing."""
    doorman = house(
        "SELECT startup_parameters, password FROM public.people WHERE name = $1",
        server_user="owner_role",
        server_password="owner-secret",
    )
    assert who(doorman, "ann") == who(doorman, "ben") == who(doorman, "bad") == "owner_role"
    for name in ("file", "broken", "owner_role", "carl"):
        assert refusal(doorman, name) == wrong(name)
    assert refusal(doorman, "twice")[0] == "58000"
    wait_until(lambda: "expected 0 or 1 row, got 2" in doorman.log(), 10, "the reason stands in the log")
    assert {row["user"] for row in doorman.show("pools")} == {"alice", "owner_role"}
    assert sum(int(row["sv_idle"] or 0) for row in doorman.show("pools") if row["user"] == "owner_role") == 1
    assert figures(doorman)["dynamic_pools_created"] == 0


def test_parameters_of_a_user(server: Postgres, house: Callable[..., Doorman]) -> None:
    server.run("create role ann login password 'secret'", "create role ben login password 'secret'")
    try:
        doorman = house(
            "SELECT s.passwd, p.startup_parameters FROM pg_shadow s, public.people p WHERE usename = $1 AND name = $1"
        )
        with doorman.connect("app", "ann", SECRET) as wire:
            assert wire.value("show work_mem") == "7MB"
            assert wire.value("show datestyle") == "SQL, DMY"
            assert wire.value("select current_user") == "ann", "role is not for users to set"
        with doorman.connect("app", "ben", SECRET) as wire:
            assert wire.value("show work_mem") != "7MB"
        rows = {row["parameter"]: row["source"] for row in doorman.show("startup_parameters") if row["user"] == "ann"}
        assert rows["work_mem"] == "auth_query"
        server.run(
            f"update public.people set startup_parameters = '{json.dumps({'work_mem': '9MB'})}' where name = 'ann'"
        )
        doorman.pools["app"]["auth_query"]["query"] += " LIMIT 1"  # another query: what is remembered is forgotten
        doorman.reload()

        def changed() -> bool:
            with doorman.connect("app", "ann", SECRET) as wire:
                return wire.value("show work_mem") == "9MB"

        wait_until(changed, 15, "the new parameters")
    finally:
        server.run("drop role ann", "drop role ben")


@pytest.mark.parametrize("kind", ["md5", "scram-sha-256"])
def test_changed_password(server: Postgres, house: Callable[..., Doorman], kind: str) -> None:
    """What is remembered does not fit any more: the truth is asked for, but not more often than is allowed."""
    server.run("create role changing login", f"set password_encryption = '{kind}'")

    def change(password: str) -> None:
        with server.connect() as wire:
            wire.run(f"set password_encryption = '{kind}'")
            wire.run(f"alter role changing password '{password}'")

    try:
        change("first")
        doorman = house(min_interval="500ms")
        assert refusal(doorman, "changing", "wrong") == wrong("changing")
        assert who(doorman, "changing", "first") == "changing"
        change("second")
        wait_until(lambda: _admits(doorman, "changing", "second"), 15, "the new password is taken", pause=0.1)
        assert refusal(doorman, "changing", "first") == wrong("changing")
        told = figures(doorman)
        assert told["cache_refetches"] >= 1
        assert told["cache_rate_limited"] >= 1
        change("third")
        wait_until(lambda: _is_refused(doorman, "changing", "second"), 15, "the old password is refused", pause=0.3)
    finally:
        server.run("drop role changing")


def _admits(doorman: Doorman, name: str, password: str = SECRET) -> bool:
    try:
        return bool(who(doorman, name, password))
    except ServerError:
        return False


def _is_refused(doorman: Doorman, name: str, password: str) -> bool:
    """With a cache an old password holds until somebody comes with another one."""
    with pytest.raises(ServerError):
        doorman.connect("app", name, "no password of anybody")
    try:
        doorman.connect("app", name, password).hang_up()
    except ServerError:
        return True
    return False


def test_password_that_expires_while_it_is_remembered(server: Postgres, house: Callable[..., Doorman]) -> None:
    """CVE-2025-2291, and the hour for which a secret may be remembered."""
    server.run("create role ending login password 'secret'")
    try:
        doorman = house(min_interval=0)
        for seconds in (2, 10, 30):  # so long that a log-in is quick enough, on whatever machine
            end = f"alter role ending valid until %L', now() + '{seconds} seconds'"
            server.run(f"do $$ begin execute format('{end}); end $$")
            if _admits(doorman, "ending") or _admits(doorman, "ending"):
                break
        else:
            pytest.fail("it was never let in")
        with server.connect() as wire:
            question = "select rolvaliduntil < now() from pg_roles where rolname = 'ending'"
            wait_until(lambda: wire.value(question) == "t", 60, "the end", pause=0.2)
        assert refusal(doorman, "ending") == wrong("ending")
    finally:
        server.run("drop role ending")


def test_many_first_log_ins_at_once(server: Postgres, house: Callable[..., Doorman]) -> None:
    """Forty new users, each with five clients that come at the same moment: one look-up a user, nobody left out."""
    names = [f"crowd{number}" for number in range(40)]
    with server.connect() as wire:
        wire.run("set password_encryption = 'md5'")
        for name in names:
            wire.run(f"create role {name} login password 'secret'")
    doorman = house(workers=3)
    got: list[str] = []
    failures: list[object] = []
    start = threading.Barrier(20)

    def come(part: int) -> None:
        start.wait(30)
        for name in names[part % 4 :: 4]:
            try:
                with doorman.connect("app", name, SECRET, patience=60) as wire:
                    got.append(f"{name} {wire.value('select current_user')}")
            except (ServerError, WireError, OSError) as error:
                failures.append(error)

    threads = [threading.Thread(target=come, args=(part,)) for part in range(20)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(90)
        assert not failures, f"{failures[:3]}\n{doorman.log_tail(20)}"
        assert sorted(got) == sorted(f"{name} {name}" for name in names for _ in range(5))
        assert figures(doorman)["executor_queries"] == 40
    finally:
        doorman.kill()
        with server.connect() as wire:
            for name in names:
                wire.run(f"drop role {name}")


def test_a_database_where_nobody_has_come_yet_is_listed(server: Postgres, start_doorman: StartDoorman) -> None:
    section = {"query": QUERY, "user": "looker", "password": "looker-secret"}
    doorman = start_doorman(pools={"app": pool(server, auth_query=section)}, general={"pg_hba": {"content": RULES}})
    for _ in range(2):
        with doorman.connect("pgbouncer", "admin", ADMIN_PASSWORD) as console:
            (row,) = table(console, "SHOW DATABASES")
        assert (row["name"], row["host"], row["database"]) == ("app", "127.0.0.1", "app")
        assert who(doorman, "scram_user") == "scram_user"


def test_unused_pools_go(house: Callable[..., Doorman]) -> None:
    doorman = house(general={"retain_connections_time": "300ms", "idle_timeout": "500ms"})
    staying = doorman.connect("app", "md5_user", SECRET)
    assert who(doorman, "scram_user") == "scram_user"
    wait_until(
        lambda: {row["user"] for row in doorman.show("pools")} == {"alice", "md5_user"}, 20, "an unused pool goes"
    )
    assert staying.value("select current_user") == "md5_user", "a pool with a client stays"
    staying.hang_up()
    wait_until(lambda: {row["user"] for row in doorman.show("pools")} == {"alice"}, 20, "the other one goes")
    told = figures(doorman)
    assert told["dynamic_pools_destroyed"] == 2
    assert told["dynamic_pools_current"] == 0
    assert who(doorman, "scram_user") == "scram_user"


def test_database_that_cannot_be_asked(own_postgres: Postgres, start_doorman: StartDoorman) -> None:
    """Who is known stays known, strangers hear of it at once, and when the database is back so is everybody."""
    section = {"query": QUERY, "user": "alice"}
    settings = pool(own_postgres, user("bob"), auth_query=section)
    doorman = start_doorman(pools={"app": settings}, general={"pg_hba": {"content": HBA}, "query_wait_timeout": "3s"})
    assert who(doorman, "scram_user") == "scram_user"
    own_postgres.stop()
    told = refusal(doorman, "md5_user")
    assert told == ("58000", "Authentication service unavailable. Please try again later.")
    assert refusal(doorman, "scram_user", "wrong") == wrong("scram_user")
    assert figures(doorman)["executor_errors"] >= 1
    own_postgres.start()
    wait_until(lambda: _admits(doorman, "md5_user"), 30, "the database is asked again")


def test_pause_and_disable_hold_for_pools_that_are_made_later(house: Callable[..., Doorman]) -> None:
    doorman = house(general={"query_wait_timeout": "700ms"})
    with doorman.admin() as console:
        console.run("PAUSE app")
        assert refusal(doorman, "scram_user")[0] == "57014"
        console.run("RESUME app")
        assert who(doorman, "scram_user") == "scram_user"
        console.run("DISABLE app")
        assert refusal(doorman, "md5_user")[0] == "55000"
        console.run("ENABLE app")
    assert who(doorman, "md5_user") == "md5_user"


def test_reload(house: Callable[..., Doorman]) -> None:
    """A user of the file wins over the database; without auth_query those that it has found are sent away."""
    doorman = house()
    staying = doorman.connect("app", "scram_user", SECRET)
    assert staying.value("select 1") == "1"
    doorman.reload()  # nothing has changed
    another = user("md5_user", "another", server_username="clear_user", server_password=SECRET)
    doorman.pools["app"]["users"].append(another)
    doorman.reload()

    wait_until(lambda: _admits(doorman, "md5_user", "another"), 15, "the password of the file is in force")
    assert staying.value("select current_user") == "scram_user"
    before = figures(doorman)
    assert who(doorman, "scram_user") == "scram_user"
    assert figures(doorman)["executor_queries"] == before["executor_queries"] >= 1, "it remembers across a reload"
    del doorman.pools["app"]["auth_query"]
    doorman.reload()
    wait_until(lambda: not doorman.show("auth_query"), 15, "no look-ups any more")
    assert refusal(doorman, "scram_user") == wrong("scram_user")
    with pytest.raises((ServerError, WireError)):
        staying.rows("select 1; select 1")


def test_connections_that_ask_are_few_and_replaced(server: Postgres, house: Callable[..., Doorman]) -> None:
    doorman = house(workers=1)
    for name in ("scram_user", "md5_user", "nobody", "expired"):
        try:
            doorman.connect("app", name, SECRET).hang_up()
        except ServerError:
            continue
    count = "select count(*) from pg_stat_activity where application_name = 'pgdoorman auth_query'"
    with server.connect() as wire:
        assert wire.value(count) == "1"
        wire.run(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'pgdoorman auth_query'"
        )
        assert who(doorman, "endless") == "endless", "a connection that has died is replaced"
        assert wire.value(count) == "1"
