"""What the verbs do, who may give them, and in whose words they are refused."""

import pytest

from pgdoorman.admin.commands import VERBS
from pgdoorman.admin.flavour import Flavour
from pgdoorman.admin.show import NAMES
from pgdoorman.control import NotSupported, ReloadOutcome, ShutdownMode
from pgdoorman.errors import ConfigError, ConfigErrors
from tests.support import wire
from tests.support.console import Desk, error, kinds, texts
from tests.support.control import SECRETS, House

PGDOORMAN, PGBOUNCER = Flavour.PGDOORMAN, Flavour.PGBOUNCER
FLAVOURS = pytest.mark.parametrize("flavour", list(Flavour), ids=lambda flavour: flavour.value)


def tag(answer: list[wire.Reply]) -> str:
    """The tag of an answer that is nothing but a tag."""
    assert kinds(answer) == "CZ", answer
    return answer[0].text()


# --- who may do what --------------------------------------------------------------------------------------------------

CHANGING = [
    "RELOAD", "PAUSE", "PAUSE shop", "RESUME", "RESUME shop", "RECONNECT", "RECONNECT shop", "WAIT_CLOSE",
    "WAIT_CLOSE shop", "KILL", "KILL shop", "KILL_CLIENT 12", "DISABLE shop", "ENABLE shop", "SUSPEND", "SHUTDOWN",
    "SHUTDOWN WAIT_FOR_SERVERS", "SHUTDOWN WAIT_FOR_CLIENTS", "UPGRADE", "SET server_lifetime = '5'",
    "SET log_level = 'debug'", "SET server_lifetime = DEFAULT", "RESET server_lifetime", "RESET log_level",
    "RESET INTERNER", "SHOW FDS", "SHOW INTERNER 5",
]  # fmt: skip
LOOKING = [f"SHOW {name}" for name in NAMES if name != "FDS"]
HARMLESS = ["BEGIN", "SET datestyle TO 'ISO'", "RESET ALL", "DISCARD ALL", "SELECT 1", "SELECT pools", ";"]


def test_the_table_knows_every_verb() -> None:
    assert set(VERBS) == {text.split()[0] for text in CHANGING} - {"SET", "RESET", "SHOW"}


@FLAVOURS
@pytest.mark.parametrize("text", CHANGING)
def test_a_stats_user_may_change_nothing(text: str, flavour: Flavour) -> None:
    desk = Desk(flavour, admin=False)
    fields = error(desk.query(text))
    expected = ("42501", "permission denied") if flavour is PGDOORMAN else ("08P01", "admin access needed")
    assert fields["C"] == expected[0]
    assert fields["M"].startswith(expected[1])
    assert desk.house.calls == []
    assert kinds(desk.query("SHOW VERSION")) == "TDCZ"  # the session goes on


@FLAVOURS
@pytest.mark.parametrize("text", CHANGING)
def test_a_stats_user_may_change_nothing_in_the_extended_protocol(text: str, flavour: Flavour) -> None:
    desk = Desk(flavour, admin=False)
    answer = desk.ask(wire.parse("", text), wire.bind(), wire.execute(), wire.sync())
    assert kinds(answer) == "12EZ"
    assert error(answer)["C"] == ("42501" if flavour is PGDOORMAN else "08P01")
    assert desk.house.calls == []


@FLAVOURS
@pytest.mark.parametrize("text", LOOKING + HARMLESS)
@pytest.mark.parametrize("admin", [True, False], ids=["admin", "stats"])
def test_everybody_may_look(text: str, admin: bool, flavour: Flavour) -> None:
    desk = Desk(flavour, admin=admin)
    answer = desk.query(text)
    assert "E" not in kinds(answer)
    assert kinds(answer).endswith("Z")
    assert desk.house.calls == []


# --- verbs ------------------------------------------------------------------------------------------------------------


@FLAVOURS
@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("RECONNECT", ("reconnect", None)),
        ("RECONNECT shop;", ("reconnect", "shop")),
        ("kill", ("kill", None)),
        ('KILL "shop"', ("kill", "shop")),
        ("KILL_CLIENT 12", ("kill_client", 12)),
        ("KILL_CLIENT #c12", ("kill_client", 12)),
        ("DISABLE 'shop'", ("disable", "shop")),
        ("ENABLE shop", ("enable", "shop")),
        ("WAIT_CLOSE", ("when_closed", None)),
        ("PAUSE", ("pause", None)),
        ("pause bank", ("pause", "bank")),
    ],
)
def test_a_verb_answers_with_its_own_name(text: str, call: tuple[object, ...], flavour: Flavour) -> None:
    desk = Desk(flavour)
    assert tag(desk.query(text)) == text.split(maxsplit=1)[0].upper().rstrip(";")
    assert desk.house.calls == [call]


def test_pause_waits_in_one_flavour_and_answers_at_once_in_the_other() -> None:
    house = House()
    house.held = {"shop"}
    assert tag(Desk(PGDOORMAN, house=house).query("PAUSE shop")) == "PAUSE"
    house.resume("shop")

    desk = Desk(PGBOUNCER, house=house)
    assert desk.query("PAUSE shop") == []
    assert desk.last.pending is not None
    assert house.paused == {"shop"}
    house.pauses["shop"].finish(None)
    assert tag(desk.settle()) == "PAUSE"
    assert kinds(desk.query("SHOW VERSION")) == "TDCZ"


def test_pause_and_resume_twice() -> None:
    desk = Desk(PGDOORMAN)
    assert [tag(desk.query(text)) for text in ("RESUME", "PAUSE", "PAUSE", "RESUME", "RESUME")] == [
        "RESUME", "PAUSE", "PAUSE", "RESUME", "RESUME",
    ]  # fmt: skip
    desk = Desk(PGBOUNCER)
    assert error(desk.query("RESUME"))["M"] == "pooler is not paused/suspended"
    assert error(desk.query("RESUME shop"))["M"] == "database shop is not paused"
    desk.query("PAUSE shop")
    assert error(desk.query("PAUSE shop"))["M"] == "already suspended/paused"
    assert tag(desk.query("RESUME shop")) == "RESUME"


def test_a_resume_of_somebody_else_ends_the_pause_that_waits() -> None:
    house = House()
    house.held = {"shop"}
    desk = Desk(PGBOUNCER, house=house)
    desk.query("PAUSE shop")
    house.resume("shop")
    answer = desk.settle()
    assert kinds(answer) == "EZ"
    assert error(answer)["M"] == "database shop is not paused"


def test_a_cancel_request_takes_the_pause_back() -> None:
    house = House()
    house.held = {"shop"}
    desk = Desk(PGBOUNCER, house=house)
    desk.query("PAUSE shop")
    desk.console.cancel()
    assert house.paused == set()
    answer = desk.settle()
    assert kinds(answer) == "EZ"
    assert error(answer)["M"] == "canceling statement due to user request"
    desk.console.cancel()  # with nothing pending: nothing
    assert kinds(desk.query("SHOW VERSION")) == "TDCZ"


def test_a_cancel_request_that_comes_too_late_leaves_the_pause() -> None:
    house = House()
    house.held = {"shop"}
    desk = Desk(PGBOUNCER, house=house)
    desk.query("PAUSE shop")
    house.pauses["shop"].finish(None)
    desk.console.cancel()
    assert house.paused == {"shop"}
    assert tag(desk.settle()) == "PAUSE"


def test_a_session_that_goes_away_leaves_the_pause() -> None:
    house = House()
    house.held = {"shop"}
    desk = Desk(PGBOUNCER, house=house)
    desk.query("PAUSE shop")
    desk.console.close()
    assert house.paused == {"shop"}
    assert desk.settle() == []


def test_wait_close_waits() -> None:
    house = House()
    house.held = {"shop"}
    desk = Desk(house=house)
    assert desk.query("WAIT_CLOSE") == []
    house.closings[0].finish(None)
    assert tag(desk.settle()) == "WAIT_CLOSE"


# --- reload -----------------------------------------------------------------------------------------------------------


@FLAVOURS
def test_reload_tells_what_waits_for_a_restart(flavour: Flavour) -> None:
    desk = Desk(flavour)
    assert desk.query("RELOAD") == []
    outcome = ReloadOutcome(
        changed=("pools.shop",), restart_needed=("general.port",), warnings=(f"odd: password={SECRETS[0]}",)
    )
    desk.house.reloads[0].finish(outcome)
    answer = desk.settle()
    assert kinds(answer) == "NNNCZ"
    warning, change, notice = (reply.fields() for reply in answer[:3])
    assert (warning["S"], warning["M"]) == ("WARNING", "odd: password=********")
    assert change["M"] == "pools.shop"
    assert notice["M"] == "these settings wait for a restart: general.port"
    assert answer[3].text() == "RELOAD"


@pytest.mark.parametrize(
    ("flavour", "text"),
    [
        (PGDOORMAN, "RELOAD failed, the settings in force are unchanged"),
        (PGBOUNCER, "RELOAD failed, see logs for additional details"),
    ],
)
def test_a_bad_file_is_reported_with_every_error(flavour: Flavour, text: str) -> None:
    desk = Desk(flavour)
    desk.query("RELOAD")
    desk.house.reloads[0].fail(
        ConfigErrors(
            [
                ConfigError("not a size", file="x.toml", line=7, key="general.max_memory_usage"),
                ConfigError(f"bad url postgres://a:{SECRETS[0]}@b", file="x.toml", line=9),
            ]
        )
    )
    fields = error(desk.settle())
    assert (fields["S"], fields["C"], fields["M"]) == ("ERROR", "F0000", text)
    assert fields["D"] == "x.toml:7: general.max_memory_usage: not a size\nx.toml:9: bad url postgres://a:********@b"
    assert kinds(desk.query("SHOW VERSION")) == "TDCZ"


# --- going down -------------------------------------------------------------------------------------------------------


def test_shutdown_of_pgbouncer_closes_without_a_word() -> None:
    desk = Desk(PGBOUNCER)
    assert desk.query("SHUTDOWN") == []
    assert desk.closed
    assert desk.house.calls == [("shutdown", ShutdownMode.AT_ONCE)]


def test_shutdown_of_pgdoorman_is_graceful_and_answers_a_row() -> None:
    desk = Desk(PGDOORMAN)
    answer = desk.query("SHUTDOWN")
    assert kinds(answer) == "TDCZ"
    assert (answer[0].column_names(), texts(answer[1]), answer[2].text()) == (["success"], ["t"], "SHUTDOWN")
    assert not desk.closed
    assert desk.house.calls == [("shutdown", ShutdownMode.GRACEFUL)]
    assert kinds(desk.query("SHUTDOWN IMMEDIATE")) == ""
    assert desk.closed


@FLAVOURS
@pytest.mark.parametrize("name", ["WAIT_FOR_SERVERS", "WAIT_FOR_CLIENTS"])
def test_a_shutdown_that_waits_answers_at_once(flavour: Flavour, name: str) -> None:
    desk = Desk(flavour)
    assert tag(desk.query(f"shutdown {name.lower()}")) == "SHUTDOWN"
    assert desk.house.calls == [("shutdown", ShutdownMode[name])]


def test_another_argument_of_shutdown_is_no_command() -> None:
    assert error(Desk(PGBOUNCER).query("SHUTDOWN now"))["M"] == "invalid command 'SHUTDOWN now', use SHOW HELP;"
    assert error(Desk(PGBOUNCER).query("SHUTDOWN IMMEDIATE"))["C"] == "08P01"
    # Before the question of rights, as in PgBouncer.
    assert error(Desk(PGBOUNCER, admin=False).query("SHUTDOWN now"))["M"].startswith("invalid command")


@FLAVOURS
def test_upgrade_answers_when_the_new_process_is_ready(flavour: Flavour) -> None:
    desk = Desk(flavour)
    assert desk.query("UPGRADE") == []
    desk.house.upgrades[0].finish(None)
    answer = desk.settle()
    assert kinds(answer) == ("TDCZ" if flavour is PGDOORMAN else "CZ")

    desk.query("UPGRADE")
    desk.house.upgrades[1].fail(NotSupported("no listener to hand over"))
    answer = desk.settle()
    assert kinds(answer) == "EZ"
    assert error(answer)["M"] == "no listener to hand over"


# --- settings ---------------------------------------------------------------------------------------------------------


def test_set_and_its_tags() -> None:
    desk = Desk(PGBOUNCER)
    assert tag(desk.query("SET server_lifetime = 60")) == "SET server_lifetime=60"
    assert tag(desk.query(f"SET admin_password = '{SECRETS[0]}'")) == "SET"  # nothing secret in an answer
    desk = Desk(PGDOORMAN)
    assert tag(desk.query("SET server_lifetime TO '1h 30m'")) == "SET"
    assert desk.house.settings["server_lifetime"] == "1h 30m"
    assert tag(desk.query("RESET server_lifetime")) == "RESET"
    assert tag(desk.query("SET server_lifetime = DEFAULT")) == "SET"
    assert desk.house.calls[-2:] == [("reset_setting", "server_lifetime")] * 2


def test_set_that_fails() -> None:
    fields = error(Desk(PGBOUNCER).query("SET nonsense = 1"))
    assert (fields["C"], fields["M"], fields["D"]) == ("08P01", "SET failed", "there is no setting 'nonsense'")
    fields = error(Desk(PGDOORMAN).query("SET nonsense = 1"))
    assert (fields["C"], fields["M"]) == ("22023", "there is no setting 'nonsense'")
    assert "D" not in fields


def test_a_setting_error_with_its_place_is_not_taken_for_a_reload() -> None:
    class Strict(House):
        def set_log_level(self, filter_text: str) -> None:
            raise ConfigError(f"no such log level: {filter_text!r}", key="log_level")

    assert error(Desk(PGDOORMAN, house=Strict()).query("SET log_level = loud"))["M"] == "no such log level: 'loud'"
    fields = error(Desk(PGBOUNCER, house=Strict()).query("SET log_level = loud"))
    assert (fields["M"], fields["D"]) == ("SET failed", "log_level: no such log level: 'loud'")


def test_log_level() -> None:
    desk = Desk()
    assert tag(desk.query("set log_level = 'info,pool=debug'")) == "SET"
    assert desk.table("show log_level") == [{"log_level": "info,pool=debug"}]
    assert error(desk.query("SET log_level = garbage"))["M"] == "no such level: garbage"
    for text in ("SET log_level = 'default'", "SET log_level = default", "RESET log_level"):
        desk.query("SET log_level = debug")
        desk.query(text)
        assert desk.table("show log_level") == [{"log_level": "info"}]


def test_reset_all_of_a_pool_of_connections_undoes_nothing() -> None:
    desk = Desk()
    assert tag(desk.query("RESET ALL")) == "RESET"
    assert desk.house.calls == []
    assert tag(desk.query("RESET INTERNER")) == "RESET"
    assert desk.house.calls == [("reset_interner",)]


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code", "pgdoorman", "pgbouncer"),
    [
        ("PAUSE nope", "3D000", 'No pool for database "nope"', "no such database: nope"),
        ("RESUME nope", "3D000", 'No pool for database "nope"', "no such database: nope"),
        ("WAIT_CLOSE nope", "3D000", 'No pool for database "nope"', "no such database: nope"),
        ("KILL nope", "3D000", 'No pool for database "nope"', "no such database: nope"),
        ("PAUSE pgbouncer", "42809", "pgbouncer is the console", "cannot pause admin db: pgbouncer"),
        ("WAIT_CLOSE pgbouncer", "42809", "pgbouncer is the console", "cannot wait in admin db: pgbouncer"),
        ("DISABLE pgbouncer", "42809", "pgbouncer is the console", "cannot disable admin db: pgbouncer"),
        ("DISABLE", "22023", "a database is required", "a database is required"),
        ("ENABLE", "22023", "a database is required", "a database is required"),
        ("KILL_CLIENT 999", "42704", "no client 999", "client not found"),
        ("KILL_CLIENT x", "22023", "invalid client pointer supplied", "invalid client pointer supplied"),
        ("KILL_CLIENT 12x", "22023", "invalid client pointer supplied", "invalid client pointer supplied"),
        ("KILL_CLIENT", "22023", "a client id is required", "a client id is required"),
    ],
)  # fmt: skip
def test_refusals_in_either_flavour(text: str, code: str, pgdoorman: str, pgbouncer: str) -> None:
    for flavour, expected in ((PGDOORMAN, (code, pgdoorman)), (PGBOUNCER, ("08P01", pgbouncer))):
        desk = Desk(flavour)
        answer = desk.query(text)
        assert kinds(answer) == "EZ"
        fields = error(answer)
        assert (fields["S"], fields["V"], fields["C"], fields["M"]) == ("ERROR", "ERROR", *expected)
        assert kinds(desk.query("SHOW VERSION")) == "TDCZ"


@pytest.mark.parametrize(
    "text", ["nonsense", "SHOW", "SHOW nope", "SHOW POOLS 5", "SHOW INTERNER x", "RELOAD now", "PAUSE a b", "RESET a b"]
)
def test_what_is_no_command(text: str) -> None:
    fields = error(Desk(PGBOUNCER).query(text))
    assert (fields["C"], fields["M"]) == ("08P01", f"invalid command '{text}', use SHOW HELP;")
    fields = error(Desk(PGDOORMAN).query(text))
    kind = {"SHOW": "SHOW query", "RESE": "RESET query"}.get(text[:4], "query")
    assert (fields["C"], fields["M"]) == ("42601", f"Unsupported {kind} against the admin database")
    assert fields["H"].startswith("Use ")


@FLAVOURS
@pytest.mark.parametrize("text", ["SUSPEND", "SHOW FDS"])
def test_what_there_is_not_says_what_to_do_instead(flavour: Flavour, text: str) -> None:
    fields = error(Desk(flavour).query(text))
    assert "not supported" in fields["M"]
    assert "UPGRADE" in fields["H"]


def test_a_long_command_is_not_echoed_at_full_length() -> None:
    fields = error(Desk(PGBOUNCER).query("x" * 10_000))
    assert len(fields["M"]) < 500
