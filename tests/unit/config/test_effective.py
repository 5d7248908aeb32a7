"""What holds for a user of a pool: the user's setting, else the pool's, else the general one."""

from typing import Any

import pytest

from pgdoorman.config import Secret, Settings, load_text
from pgdoorman.config import keys as table
from pgdoorman.config.keys import KEYS, Key, Section, Since
from pgdoorman.config.kinds import Choice, Duration, Flag, Integer, ParameterTable, Text
from pgdoorman.config.settings import PoolMode, merge_parameters
from tests.unit.config import sample
from tests.unit.config.sample import configuration, effective

# Those about TLS and the fallback are gathered in one value each, and belong together: see the last tests.
CASCADING = [
    key
    for key in KEYS
    if len(key.sections) > 1
    and key.since is Since.AVAILABLE
    and not key.name.startswith(("server_tls", "patroni", "fallback"))
]


def _values(key: Key) -> tuple[Any, Any, Any]:
    """Three different values."""
    match key.kind:
        case Flag():
            return True, False, True
        case Integer():
            return 11, 12, 13
        case Duration():
            return "11s", "12s", "13s"
        case Text():
            return "a", "b", "c"
        case Choice():
            words = [str(word) for word in key.kind.words]
            return words[-1], words[-2], words[-1]
    raise AssertionError(key.kind)


def _load(key: Key, values: tuple[Any, ...]) -> Settings:
    """The key in general, in the pool and in the user; None leaves it out."""
    headers = {Section.GENERAL: "[general]", Section.POOL: "[pools.shop]", Section.USER: "[[pools.shop.users]]"}
    text = ""
    for place, (section, header) in enumerate(headers.items()):
        value = values[place] if place < len(values) and section in key.sections else None
        given = {key.name: value} if value is not None else {}
        lines = [f"{name} = {sample.toml(item)}" for name, item in (sample.REQUIRED.get(section, {}) | given).items()]
        text += "\n".join([header, *lines, ""])
    return load_text(text)


@pytest.mark.parametrize(
    "key", [key for key in CASCADING if not isinstance(key.kind, ParameterTable)], ids=lambda key: key.name
)
def test_the_nearest_setting_holds(key: Key) -> None:
    values = _values(key)
    for given in range(len(key.sections)):
        settings = _load(key, tuple(value if place <= given else None for place, value in enumerate(values)))
        wanted = getattr(_load(key, (values[given],)).general, key.name)
        assert getattr(effective(settings), key.name) == wanted


def test_the_names() -> None:
    values = effective(sample.load_with())
    assert values.identity == ("shop", "alice")
    assert (values.server_database, values.server_username) == ("shop", "alice")
    assert values.password == Secret("alice-secret")
    assert values.server_password is None
    settings = sample.load_with(Section.USER, server_username="role", server_password="x")
    assert (effective(settings).server_username, effective(settings).server_password) == ("role", Secret("x"))
    assert effective(sample.load_with(Section.POOL, server_database="real")).server_database == "real"


def test_sizes_of_caches_follow_the_nearest_pools() -> None:
    def sizes(settings: Settings) -> tuple[int, int, int]:
        values = effective(settings)
        return (
            values.prepared_statements_cache_size,
            values.server_prepared_statements_cache_size,
            values.client_anonymous_prepared_cache_size,
        )

    assert sizes(sample.load_with()) == (8192, 8192, 256)
    assert sizes(sample.load_with(Section.GENERAL, prepared_statements_cache_size=5)) == (5, 5, 256)
    assert sizes(sample.load_with(Section.POOL, prepared_statements_cache_size=6)) == (6, 6, 256)
    assert sizes(sample.load_with(Section.GENERAL, server_prepared_statements_cache_size=7)) == (8192, 7, 256)
    assert sizes(sample.load_with(Section.POOL, client_anonymous_prepared_cache_size=0)) == (8192, 8192, 0)


def _parameters(general: dict[str, str], pool: dict[str, str], **more: str) -> tuple[tuple[str, str], ...]:
    text = configuration(Section.POOL, startup_parameters=pool, **more)
    return effective(
        load_text(text.replace("[general]", f"[general]\nstartup_parameters = {sample.toml(general)}"))
    ).startup_parameters


def test_startup_parameters_are_merged_one_by_one() -> None:
    assert dict(_parameters({"work_mem": "1MB", "datestyle": "ISO"}, {"Work_Mem": "2MB", "search_path": "a"})) == {
        "application_name": "pgdoorman",
        "work_mem": "2MB",
        "DateStyle": "ISO",
        "search_path": "a",
    }


def test_the_application_name_among_them_comes_first() -> None:
    assert dict(_parameters({}, {}, application_name="shop-app"))["application_name"] == "shop-app"
    assert dict(_parameters({"Application_Name": "g"}, {}, application_name="p"))["application_name"] == "g"
    assert dict(_parameters({"application_name": "g"}, {"application_name": "s"}))["application_name"] == "s"
    values = effective(sample.load_with(Section.POOL, startup_parameters={"application_name": "s"}))
    assert values.application_name == "s"


def test_merging_parameters() -> None:
    assert merge_parameters((("a", "1"), ("B", "2")), (("b", "3"), ("c", "4"))) == (("a", "1"), ("b", "3"), ("c", "4"))


def test_it_can_be_compared_and_hashed() -> None:
    one, other = effective(sample.load_with()), effective(sample.load_with())
    assert one == other
    assert hash(one) == hash(other)
    assert {one, other} == {one}
    assert effective(sample.load_with(Section.POOL, pool_mode="session")) != one


def test_every_user_of_every_pool() -> None:
    text = configuration() + '[pools.b]\n[[pools.b.users]]\nusername = "bob"\npassword = ""\npool_size = 1\n'
    pools = load_text(text).effective_pools()
    assert list(pools) == [("shop", "alice"), ("b", "bob")]
    assert pools["shop", "alice"].pool_mode is PoolMode.TRANSACTION


def test_settings_are_equal_wherever_they_stand() -> None:
    text = configuration()
    assert load_text(text) == load_text("# moved\n\n" + text, file="other.toml")
    rules = 'pg_hba = "host all all all trust"\n'
    moved = text.replace("[general]\n", f"[general]\n\n{rules}")
    assert load_text(text.replace("[general]\n", f"[general]\n{rules}")) == load_text(moved)
    assert load_text(text) != load_text(moved)


def test_pools_cannot_be_changed() -> None:
    pools: Any = sample.load_with().pools
    with pytest.raises(TypeError):
        pools["x"] = pools["shop"]


def test_addresses_to_listen_on() -> None:
    def hosts(text: str) -> tuple[str, ...]:
        return sample.load_with(Section.GENERAL, host=text).general.hosts

    assert hosts("0.0.0.0") == ("0.0.0.0",)
    assert hosts("127.0.0.1, ::1") == ("127.0.0.1", "::1")
    assert hosts("*") == ("0.0.0.0", "::")


def test_backlog() -> None:
    assert sample.load_with(Section.GENERAL, max_connections=77).general.listen_backlog == 77
    assert sample.load_with(Section.GENERAL, max_connections=77, backlog=5).general.listen_backlog == 5


def test_socket_options_are_gathered() -> None:
    general = sample.load_with(
        Section.GENERAL, tcp_user_timeout="90s", tcp_no_delay=False, tcp_keepalives_idle="1m"
    ).general
    assert (general.tcp.user_timeout, general.tcp.no_delay, general.tcp.keepalives_idle) == (90.0, False, 60)
    assert effective(sample.load_with()).tcp == sample.load_with().general.tcp


def test_users_that_auth_query_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "FEATURES", frozenset(table.Feature))
    settings = sample.load_with(
        Section.AUTH_QUERY, pool_size=3, min_pool_size=1, server_user="role", server_password="x"
    )
    pool = settings.pools["shop"]
    values = settings.effective(pool, pool.dynamic_user("found", Secret("md5...")))
    assert values.identity == ("shop", "found")
    assert (values.pool_size, values.min_pool_size) == (3, 1)
    assert (values.server_username, values.server_password) == ("role", Secret("x"))
    bare = sample.load_with().pools["shop"]
    with pytest.raises(ValueError, match="no auth_query"):
        bare.dynamic_user("found", Secret(""))


def test_fallback_and_tls_are_gathered(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(table, "FEATURES", frozenset(table.Feature))
    for name in ("general.pem", "pool.pem"):
        (tmp_path / name).write_text("x")
    text = configuration(
        Section.POOL,
        fallback_cooldown="7s",
        patroni_api_urls=["http://pool:1"],
        server_tls_certificate="pool.pem",
        server_tls_private_key="pool.pem",
    ).replace(
        "[general]",
        '[general]\npatroni_api_urls = ["http://general:1"]\nfallback_connect_timeout = "9s"\n'
        'server_tls_mode = "require"\n'
        'server_tls_certificate = "general.pem"\nserver_tls_private_key = "general.pem"',
    )
    values = effective(load_text(text, folder=tmp_path))
    assert values.fallback is not None
    assert values.fallback.patroni_api_urls == ("http://pool:1",)
    assert (values.fallback.cooldown, values.fallback.lifetime, values.fallback.connect_timeout) == (7.0, 7.0, 9.0)
    assert values.server_tls.mode == "require"
    assert values.server_tls.files.certificate == tmp_path / "pool.pem"
    assert effective(sample.load_with()).fallback is None
