"""Every key of the table, one by one: default, bounds, refusals and their messages, and what a change of it needs."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from pgdoorman.config import keys as table
from pgdoorman.config import units
from pgdoorman.config.changes import compare
from pgdoorman.config.keys import (
    FEATURES,
    KEYS,
    REQUIRED,
    Derived,
    Feature,
    Key,
    Section,
    Since,
    keys_of,
)
from pgdoorman.config.kinds import (
    Choice,
    Duration,
    FilePath,
    Flag,
    Integer,
    ListOf,
    Mode,
    ParameterTable,
    Rules,
    SecretText,
    Size,
    Text,
)
from pgdoorman.config.references import Surroundings
from pgdoorman.config.settings import (
    AuthQuerySettings,
    GeneralSettings,
    PoolSettings,
    Secret,
    Settings,
    TalosSettings,
    UserPoolSettings,
    UserSettings,
    WebSettings,
)
from tests.unit.config import sample

CLASSES = {
    Section.GENERAL: GeneralSettings,
    Section.POOL: PoolSettings,
    Section.USER: UserSettings,
    Section.AUTH_QUERY: AuthQuerySettings,
    Section.WEB: WebSettings,
    Section.TALOS: TalosSettings,
}
PLACES = [(key, section) for key in KEYS for section in key.sections]
EVERY = [pytest.param(key, section, id=f"{section}.{key.name}") for key, section in PLACES]
# Another name is another user: that is not a change of a key.
CHANGEABLE = [case for case, (key, _) in zip(EVERY, PLACES, strict=True) if key.name != "username"]
LATER = [pytest.param(key, key.sections[0], id=key.name) for key in KEYS if key.since is Since.LATER]

# What a key needs beside it so that the file makes sense.
BESIDE: dict[str, dict[str, Any]] = {
    "tls_certificate": {"tls_private_key": "some.pem"},
    "tls_private_key": {"tls_certificate": "some.pem"},
    "server_tls_certificate": {"server_tls_private_key": "some.pem"},
    "server_tls_private_key": {"server_tls_certificate": "some.pem"},
    "server_tls_mode": {"server_tls_ca_cert": "some.pem"},
    "tls_crl": {"tls_ca_cert": "some.pem"},
    "tls_mode": {"tls_certificate": "some.pem", "tls_private_key": "some.pem", "tls_ca_cert": "some.pem"},
    "server_password": {"server_username": "role", "server_user": "role"},
    "prepared_statements_cache_size": {"prepared_statements": False},
    "min_pool_size": {"pool_size": table.ENDLESS},
}


@pytest.fixture
def every_feature(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever this version has, the table's rows for the rest are right already."""
    monkeypatch.setattr(table, "FEATURES", frozenset(Feature))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some.pem").write_text("x")
    (tmp_path / "other.pem").write_text("y")


def _beside(key: Key, section: Section) -> dict[str, Any]:
    known = keys_of(section)
    return {name: value for name, value in BESIDE.get(key.name, {}).items() if name in known}


def _load(key: Key, section: Section, value: Any) -> Any:
    """The key's value in a configuration where it is set to `value`."""
    return getattr(_section(sample.load_with(section, **_beside(key, section) | {key.name: value}), section), key.name)


def _section(settings: Settings, section: Section) -> Any:
    pool = settings.pools["shop"]
    match section:
        case Section.GENERAL:
            return settings.general
        case Section.POOL:
            return pool
        case Section.USER:
            return pool.users[0]
        case Section.AUTH_QUERY:
            return pool.auth_query
        case Section.WEB:
            return settings.web
        case Section.TALOS:
            return settings.talos


def _header(section: Section) -> str:
    return {Section.USER: "[[pools.shop.users]]"}.get(section, f"[{section.replace('NAME', 'shop')}]")


def _line(text: str, key: Key, section: Section) -> int:
    start = text.index(_header(section))
    return sample.line_of(text[start:], f"\n{key.name} = ") + sample.line_of(text, _header(section))


def _values(key: Key) -> list[tuple[Any, Any]]:
    """What may stand behind the key, its bounds among it, and what it then means."""
    kind = key.kind
    match kind:
        case Flag():
            return [(True, True), (False, False)]
        case Integer(low=low, high=high):
            step = 100 if key.name == "tls_rate_limit_per_second" else 1
            pairs = [(low, low), (high - high % step, high - high % step)]
            return [*pairs, (f"{max(low, 1)}s", max(low, 1))] if kind.unit == "s" else pairs
        case Duration(low=low):
            scale = 1 if kind.bare_unit == "s" else 1000
            return [
                (units.format_duration(low), low),
                (round(low * scale) or 0, low),
                ("1h30m", 5400.0),
                ("1.5s", 1.5),
                (7 * scale, 7.0),
                ("36525d", 36_525 * 86_400.0),
            ]
        case Size(low=low, high=high):
            return [(low, low), (units.format_size(high), high), ("1.5MB", 3 * 2**19)]
        case Choice():
            return [(str(word).upper(), word) for word in kind.words]
        case Mode():
            return [("0", 0), ("0777", 0o777), ("0o660", 0o660)]
        case SecretText():
            return [("", Secret("")), ("$pass ${word}", Secret("$pass ${word}"))]
        case Text():
            value = "/a $1 b" if key.name != "host" else "::1"
            return [(value, value), *([("", "")] if kind.empty else [])]
        case FilePath():
            return [("other.pem", Path("other.pem"))]
        case ListOf() if kind.label == "list of networks":
            return [
                ([], ()),
                (
                    ["10.0.0.0/8", "::1/128"],
                    tuple(kind.read_item(t, Surroundings({}, Path())) for t in ("10.0.0.0/8", "::1/128")),
                ),
            ]
        case ListOf() if kind.label == "list of URLs":
            return [(["http://a:8008/cluster", "HTTPS://b"], ("http://a:8008/cluster", "HTTPS://b"))]
        case ListOf() if kind.label == "list of paths":
            return [([], ()), (["other.pem"], (Path("other.pem"),))]
        case ListOf():
            return [([], ()), (["a", "b"], ("a", "b"))]
        case ParameterTable():
            return [({}, ()), ({"Work_Mem": "64MB", "timezone": "UTC"}, (("work_mem", "64MB"), ("TimeZone", "UTC")))]
        case Rules():
            return []  # has tests of its own
    raise AssertionError(kind)


def _refused(key: Key) -> list[Any]:
    """What may not stand behind the key."""
    kind = key.kind
    match kind:
        case Flag():
            return ["true", 1, 0, []]
        case Integer(low=low, high=high):
            words = ["soon", "1.5s"] if kind.unit == "s" else ["1", "10s"]
            return [low - 1, high + 1, 1.5, True, {}, *words]
        case Duration(low=low):
            below = [0] if low else []
            return [-1, 1.5, True, "soon", "1h30", "", "-5s", "36526d", [], *below]
        case Size(low=low, high=high):
            return [low - 1, high + 1, 1.5, True, "much", "1.5", "1PB", {}]
        case Choice():
            return ["", "sometimes", True, 1]
        case Mode():
            return [600, "0999", "1777", "rw", True]
        case SecretText():
            return [1, True, [], "${PGDOORMAN_NO_SUCH_VARIABLE}", "file:no/such/file", "a\0b"]
        case Text():
            return [1, False, {}, "a\0b", *([] if kind.empty else [""])]
        case FilePath():
            return [1, "", "no/such/file", "."]
        case ListOf():
            beside = {"list of networks": ["10.0.0.0/33", "here"], "list of URLs": ["ftp://x", "http://", "x"]}
            items = [*beside.get(kind.label, []), "", 1, {}]
            return ["text", 1, *([item] for item in items), *([[]] if kind.at_least else [])]
        case ParameterTable():
            return ["x", [], {"a": 1}, {"user": "x"}, {"1a": "x"}, {"a": "x", "A": "y"}]
        case Rules():
            return [1, [], {}, {"file": "x"}, {"path": "no/such/file"}, {"path": 1}, {"content": ""}]
    raise AssertionError(kind)


@pytest.mark.parametrize("section", Section)
def test_the_values_have_the_tables_keys_and_no_others(section: Section) -> None:
    beside = {Section.POOL: {"name", "users", "auth_query"}}.get(section, set())
    assert {field.name for field in dataclasses.fields(CLASSES[section])} == {*keys_of(section), *beside}


def test_the_effective_value_has_every_key_of_pools_and_users() -> None:
    gathered = {"server_tls", "patroni", "fallback"}
    fields = {field.name for field in dataclasses.fields(UserPoolSettings)}
    for section in (Section.POOL, Section.USER):
        missing = {
            name for name in keys_of(section) if name not in fields and not any(name.startswith(g) for g in gathered)
        }
        assert not missing


def test_every_name_stands_once_in_a_section() -> None:
    for section in Section:
        names = [name for key in KEYS if section in key.sections for name in (key.name, *key.aliases)]
        assert len(names) == len(set(names))


def test_sections_of_a_key_go_from_general_to_user() -> None:
    order = list(Section)
    for key in KEYS:
        assert sorted(key.sections, key=order.index) == list(key.sections)


def test_every_key_says_what_it_means() -> None:
    for key in KEYS:
        assert key.meaning[0].isupper()
        assert key.meaning.endswith(".")
        assert not key.zero.endswith(".")


@pytest.mark.usefixtures("every_feature")
@pytest.mark.parametrize(("key", "section"), EVERY)
def test_default(key: Key, section: Section) -> None:
    if key.default is REQUIRED:
        required = sample.REQUIRED[section][key.name]
        error = sample.error_of(sample.configuration(section, **{key.name: None}))
        assert "is required" in error.message
        assert error.key.endswith(key.name)
        assert getattr(_section(sample.load_with(section), section), key.name) in (required, Secret(str(required)))
        return
    value = getattr(_section(sample.load_with(section), section), key.name)
    if key.inherits(section):
        assert value is None or value == ()
    elif isinstance(key.default, Derived):
        assert value == key.default.find()
    else:
        assert value == key.default


@pytest.mark.usefixtures("every_feature")
@pytest.mark.parametrize(("key", "section"), EVERY)
def test_what_is_allowed(key: Key, section: Section) -> None:
    for given, meant in _values(key):
        assert _load(key, section, given) == meant


@pytest.mark.usefixtures("every_feature")
@pytest.mark.parametrize(("key", "section"), EVERY)
def test_what_is_refused(key: Key, section: Section) -> None:
    for value in _refused(key):
        text = sample.configuration(section, **_beside(key, section) | {key.name: value})
        error = sample.error_of(text)
        assert error.line == _line(text, key, section)
        assert error.key.endswith(key.name)
        assert error.file == "pgdoorman.toml"
        if not isinstance(key.kind, SecretText | ListOf | FilePath | Rules | ParameterTable):
            assert key.kind.allowed in error.message


@pytest.mark.usefixtures("every_feature")
@pytest.mark.parametrize(("key", "section"), CHANGEABLE)
def test_what_a_change_needs(key: Key, section: Section) -> None:
    pairs = _values(key) or [("host all all all trust", None), ("host all all all md5", None)]
    beside = _beside(key, section)
    whole = isinstance(key.kind, FilePath)  # a certificate without its key is no configuration
    old = sample.load_with(section, **beside | ({key.name: "some.pem"} if whole else {}))
    new = next(
        changed for given, _ in pairs if (changed := sample.load_with(section, **beside | {key.name: given})) != old
    )
    changes = compare(old, new)
    assert [changed.key.rpartition(".")[2] for changed in changes.keys] == [key.name]
    assert changes.keys[0].needs is key.change
    assert changes
    assert not compare(new, new)


@pytest.mark.usefixtures("every_feature")
@pytest.mark.parametrize(("key", "section"), EVERY)
def test_what_is_written_reads_back(key: Key, section: Section) -> None:
    for given, meant in _values(key):
        plain = key.kind.plain(_load(key, section, given))
        assert _load(key, section, plain) == meant


@pytest.mark.parametrize(("key", "section"), LATER)
def test_keys_of_later_features_are_refused(key: Key, section: Section) -> None:
    given = key.example if key.example is not None else key.kind.plain(key.default)
    text = sample.configuration(section, **{key.name: given})
    error = sample.error_of(text)
    assert "not available in this version" in error.message
    assert key.feature is not None
    if all(other.since is Since.LATER for other in keys_of(section).values()):
        assert error.line == sample.line_of(text, _header(section))
    else:
        assert key.feature.value in error.message
        assert error.line == _line(text, key, section)


def test_each_feature_is_switched_on_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    for feature in Feature:
        monkeypatch.setattr(table, "FEATURES", frozenset({feature}))
        assert all((key.since is Since.AVAILABLE) == (key.feature in (None, feature)) for key in KEYS)
    assert set(Feature) >= FEATURES


@pytest.mark.parametrize("key", [key for key in KEYS if key.ignored], ids=lambda key: key.name)
def test_ignored_keys_are_accepted_with_a_warning(key: Key) -> None:
    settings = sample.load_with(Section.GENERAL, **{key.name: key.example})
    assert len(settings.warnings) == 1
    assert f"general.{key.name}: has no effect" in settings.warnings[0]
    assert settings.warnings[0].startswith("pgdoorman.toml:4: ")
