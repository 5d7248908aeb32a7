"""What a reload has to do: which keys differ, which pools and users came and went, and how much each needs."""

import pytest

from pgdoorman.config import keys as table
from pgdoorman.config import load_text
from pgdoorman.config.changes import Changes, compare, compare_effective, in_force
from pgdoorman.config.keys import Change, Section
from tests.unit.config import sample
from tests.unit.config.sample import configuration, effective

BOB = '[[pools.shop.users]]\nusername = "bob"\npassword = "b"\npool_size = 2\n'
SECOND = '[pools.second]\n[[pools.second.users]]\nusername = "carol"\npassword = "c"\npool_size = 2\n'


def _compare(old: str, new: str) -> Changes:
    return compare(load_text(old), load_text(new))


def test_nothing() -> None:
    changes = _compare(configuration(), "# other\n" + configuration())
    assert not changes
    assert changes.lines() == ()
    assert changes.pools == {}


def test_users_come_and_go() -> None:
    changes = _compare(configuration() + BOB, configuration())
    assert changes
    assert changes.removed_users == (("shop", "bob"),)
    assert [*changes.added_users, *changes.added_pools, *changes.removed_pools, *changes.keys] == []
    assert changes.pools == {}
    assert changes.lines() == ("pools.shop: user bob removed",)
    assert _compare(configuration(), configuration() + BOB).added_users == (("shop", "bob"),)


def test_pools_come_and_go() -> None:
    changes = _compare(configuration(), configuration() + SECOND)
    assert changes.added_pools == ("second",)
    assert changes.added_users == (("second", "carol"),)
    assert changes.lines() == ("pools.second: added",)
    changes = _compare(configuration() + SECOND, configuration())
    assert changes.removed_pools == ("second",)
    assert changes.lines() == ("pools.second: removed",)
    renamed = _compare(configuration() + SECOND, configuration() + SECOND.replace("second", "third"))
    assert (renamed.added_pools, renamed.removed_pools) == (("third",), ("second",))


def test_only_pools_that_are_touched_are_named() -> None:
    text = configuration() + BOB + SECOND
    changes = _compare(text, text.replace('username = "bob"', 'username = "bob"\nidle_timeout = "1m"'))
    assert changes.pools == {("shop", "bob"): Change.NOTHING}
    changes = _compare(text, text.replace("[pools.second]", '[pools.second]\nserver_host = "other"'))
    assert changes.pools == {("second", "carol"): Change.NEW_BACKENDS}
    changes = _compare(text, text.replace("[general]", "[general]\nidle_timeout = 1"))
    assert set(changes.pools) == {("shop", "alice"), ("shop", "bob"), ("second", "carol")}


def test_a_general_change_does_not_touch_pools_that_override_it() -> None:
    text = configuration(Section.POOL, idle_timeout="1m") + SECOND
    changes = _compare(text, text.replace("[general]", "[general]\nidle_timeout = 1"))
    assert set(changes.pools) == {("second", "carol")}


@pytest.mark.parametrize(
    ("section", "keys", "need"),
    [
        (Section.GENERAL, {"query_wait_timeout": "1s"}, Change.NOTHING),
        (Section.GENERAL, {"tcp_no_delay": False}, Change.NEW_BACKENDS),
        (Section.GENERAL, {"application_name": "x"}, Change.NEW_BACKENDS),
        (Section.GENERAL, {"startup_parameters": {"work_mem": "1MB"}}, Change.NEW_BACKENDS),
        (Section.POOL, {"server_database": "x"}, Change.NEW_BACKENDS),
        (Section.POOL, {"prepared_statements": False}, Change.NEW_POOL),
        (Section.USER, {"server_username": "x"}, Change.NEW_BACKENDS),
        (Section.USER, {"pool_size": 11}, Change.NOTHING),
        (Section.USER, {"password": "other"}, Change.NEW_CLIENTS),
        (Section.USER, {"pool_size": 11, "server_username": "x"}, Change.NEW_BACKENDS),
    ],
)
def test_the_most_that_a_pool_needs(section: Section, keys: dict[str, object], need: Change) -> None:
    changes = compare(sample.load_with(), sample.load_with(section, **keys))
    assert changes.pools == {("shop", "alice"): need}
    assert compare_effective(effective(sample.load_with()), effective(sample.load_with(section, **keys))) is need


def test_what_needs_a_restart() -> None:
    changes = compare(sample.load_with(), sample.load_with(Section.GENERAL, port=1, max_connections=5))
    assert [changed.key for changed in changes.need_restart] == ["general.port"]
    assert changes.pools == {}


def test_the_words() -> None:
    old = sample.load_with(Section.GENERAL, idle_timeout=90_000)
    new = sample.load_with(Section.GENERAL, port=7000, max_message_size="64MB", syslog_prog_name="x")
    assert compare(old, new).lines() == (
        "general.port: 6432 -> 7000 (needs restart)",
        "general.idle_timeout: 1m30s -> 10m",
        "general.max_message_size: 1GB -> 64MB",
        "general.syslog_prog_name: none -> x (needs restart)",
    )
    pool = compare(sample.load_with(), sample.load_with(Section.POOL, pool_mode="session"))
    assert pool.lines() == ("pools.shop.pool_mode: inherited -> session",)
    user = compare(sample.load_with(), sample.load_with(Section.USER, password="new"))
    assert user.lines() == ("pools.shop.users.alice.password: changed (needs new clients)",)


def test_auth_query(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "FEATURES", frozenset(table.Feature))
    without, with_it = sample.load_with(), sample.load_with(Section.AUTH_QUERY)
    other = sample.load_with(Section.AUTH_QUERY, pool_size=3)
    assert compare(without, with_it).auth_queries == ("shop",)
    assert compare(without, with_it).lines() == ("pools.shop.auth_query: none -> given (needs new pool)",)
    assert compare(with_it, without).lines() == ("pools.shop.auth_query: given -> none (needs new pool)",)
    assert compare(with_it, other).auth_queries == ("shop",)
    assert compare(with_it, other).lines() == ("pools.shop.auth_query.pool_size: 40 -> 3",)
    assert compare(with_it, with_it).auth_queries == ()


def test_needs_are_ordered() -> None:
    assert Change.NOTHING < Change.NEW_CLIENTS < Change.NEW_BACKENDS < Change.NEW_POOL < Change.RESTART
    assert Change.NEW_BACKENDS.words == "new backends"


RESTART = [
    (section, name)
    for section in (Section.GENERAL, Section.WEB)
    for name, key in table.keys_of(section).items()
    if key.change is Change.RESTART
]


def test_what_needs_a_restart_stays_as_it_is_until_then() -> None:
    old = sample.load_with(Section.GENERAL, port=6000, idle_timeout="5s", worker_threads=2)
    new = sample.load_with(Section.GENERAL, port=6001, idle_timeout="6s", worker_threads=3)
    now = in_force(old, new)
    assert (now.general.port, now.general.worker_threads, now.general.idle_timeout) == (6000, 2, 6.0)
    assert {changed.key for changed in compare(now, new).keys} == {"general.port", "general.worker_threads"}
    assert not compare(in_force(old, old), old)
    assert now.pools == new.pools


def test_every_key_that_needs_a_restart_is_kept() -> None:
    old, new = sample.load_with(), sample.load_with(Section.WEB, enabled=True, host="::1", port=1)
    now = in_force(old, new)
    assert now.web == old.web
    for section, name in RESTART:
        part = {Section.GENERAL: now.general, Section.WEB: now.web}[section]
        was = {Section.GENERAL: old.general, Section.WEB: old.web}[section]
        assert getattr(part, name) == getattr(was, name)
    assert {name for section, name in RESTART if section is Section.WEB} == {"enabled", "host", "port"}
