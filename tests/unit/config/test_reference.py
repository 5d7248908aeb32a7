"""The texts made from the table are up to date, and every example in the tree means what it says."""

import json
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from ruamel.yaml import YAML

from pgdoorman.config import keys as table
from pgdoorman.config import load, load_text
from pgdoorman.config.keys import KEYS, REQUIRED, Derived, Feature, Key, Section, Since
from pgdoorman.config.kinds import SecretText
from pgdoorman.config.reference import reference_file, settings_page, texts, write
from pgdoorman.config.schema import json_schema
from pgdoorman.errors import ConfigErrors
from tests.unit.config import sample

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {
    "PGDOORMAN_ADMIN_PASSWORD": "a",
    "PGDOORMAN_AUTH_PASSWORD": "b",
    "SHOP_PASSWORD": "c",
    "SHOP_OWNER_PASSWORD": "d",
    "PGDOORMAN_KEY_PASSPHRASE": "e",
    "PGDOORMAN_SERVER_KEY_PASSPHRASE": "f",
}
EXAMPLES = sorted(path for path in (ROOT / "config").iterdir() if path.suffix in (".toml", ".yaml"))


@pytest.mark.parametrize("name", texts())
def test_up_to_date(name: str) -> None:
    hint = "run: python -m pgdoorman.config.reference ."
    assert (ROOT / name).read_text(encoding="utf-8") == texts()[name], hint


def test_writing_them(tmp_path: Path) -> None:
    write(tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")} == set(texts())


def test_there_are_examples() -> None:
    assert {path.name for path in EXAMPLES} >= {
        "minimal.toml",
        "minimal.yaml",
        "reference.toml",
        "reference.yaml",
        "tls.toml",
        "auth_query.toml",
    }


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_loads(path: Path, tmp_path: Path) -> None:
    for name in ("server.crt", "server.key", "servers-ca.crt", "clients-ca.crt", "pg_hba.conf"):
        (tmp_path / name).write_text("")
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    try:
        settings = load(copy, ENVIRONMENT)
    except ConfigErrors as refused:
        # An example of a feature that this version lacks may say nothing else that is wrong.
        assert all("not available in this version" in error.message for error in refused.errors)  # noqa: PT017
        assert path.name in ("tls.toml", "auth_query.toml")
        assert set(Feature) - table.FEATURES
    else:
        assert settings.warnings == ()
        assert "shop" in settings.pools


@pytest.mark.parametrize(
    "path", [path for path in EXAMPLES if path.name in ("tls.toml", "auth_query.toml")], ids=lambda p: p.name
)
def test_examples_of_later_features_are_right(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "FEATURES", frozenset(Feature))
    test_every_example_loads(path, tmp_path)


@pytest.mark.parametrize("features", [table.FEATURES, frozenset(Feature)], ids=["this version", "every feature"])
@pytest.mark.parametrize("language", ["toml", "yaml"])
def test_the_reference_file_means_the_defaults(
    language: str, features: frozenset[Feature], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "FEATURES", features)
    settings = load_text(reference_file(language), f"reference.{language}", ENVIRONMENT)
    minimal = load(ROOT / "config/minimal.toml", ENVIRONMENT)
    assert settings.general == minimal.general
    assert settings.pools["shop"].users == minimal.pools["shop"].users
    assert settings.web == minimal.web
    assert settings.talos == minimal.talos
    assert settings.warnings == ()


@pytest.mark.parametrize("language", ["toml", "yaml"])
def test_the_reference_file_has_every_key_in_every_section(language: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "FEATURES", frozenset(Feature))
    text = reference_file(language)
    equals = {"toml": " = ", "yaml": ": "}[language]
    for key in KEYS:
        lines = [line for line in text.splitlines() if line.strip().removeprefix("# ").startswith(key.name + equals)]
        same_name = [other for other in KEYS if other.name == key.name]
        assert len(lines) == (0 if key.ignored else sum(len(other.sections) for other in same_name))


def test_lines_are_short() -> None:
    for language in ("toml", "yaml"):
        assert max(map(len, reference_file(language).splitlines())) <= 120


def test_editors_keep_its_comments() -> None:
    toml = reference_file("toml")
    assert tomlkit.dumps(tomlkit.parse(toml)) == toml
    assert YAML().load(reference_file("yaml"))["general"]["port"] == 6432


@pytest.mark.parametrize("key", [key for key in KEYS if key.example is not None], ids=lambda key: key.name)
def test_every_example_of_a_key_is_allowed(key: Key, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(table, "FEATURES", frozenset(Feature))
    for name in (
        "server.crt",
        "server.key",
        "clients-ca.crt",
        "servers-ca.crt",
        "clients.crl",
        "servers.crl",
        "pgdoorman.crt",
        "pgdoorman.key",
        "sso.pem",
        "talos-1.pem",
        "dh2048.pem",
    ):
        (tmp_path / name).write_text("")
    pairs: dict[str, dict[str, Any]] = {
        "tls_mode": {"tls_certificate": "server.crt", "tls_private_key": "server.key"},
        "tls_certificate": {"tls_private_key": "server.key"},
        "tls_crl": {"tls_ca_cert": "clients-ca.crt"},
        "tls_private_key": {"tls_certificate": "server.crt"},
        "server_tls_certificate": {"server_tls_private_key": "pgdoorman.key"},
        "server_tls_private_key": {"server_tls_certificate": "pgdoorman.crt"},
        "server_password": {"server_username": "x"} if Section.USER in key.sections else {"server_user": "x"},
    }
    text = sample.configuration(key.sections[0], **pairs.get(key.name, {}) | {key.name: key.example})
    settings = load_text(text, environment=ENVIRONMENT, folder=tmp_path)
    assert settings.warnings == () or key.ignored


def test_keys_whose_default_shows_nothing_have_an_example() -> None:
    for key in KEYS:
        if key.default in (None, REQUIRED) or isinstance(key.default, Derived):
            assert key.example is not None, key.name


def test_the_page_has_every_key() -> None:
    page = settings_page()
    for key in KEYS:
        line = f"| `{key.name}` |" if key.since is Since.AVAILABLE else f"`{key.name}`"
        assert line in page
        if key.since is Since.AVAILABLE:
            assert key.meaning.replace("|", "\\|") in page
        if not isinstance(key.kind, SecretText):
            continue
        assert "secret" in next(row for row in page.splitlines() if f"`{key.name}`" in row) or key.since is Since.LATER


def test_the_schema_has_every_key_and_no_others() -> None:
    schema = json_schema()
    general = schema["properties"]["general"]
    pool = schema["properties"]["pools"]["additionalProperties"]
    user = pool["properties"]["users"]["anyOf"][0]["items"]
    for section, part, beside in (
        (Section.GENERAL, general, set()),
        (Section.POOL, pool, {"users", "auth_query"}),
        (Section.USER, user, set()),
    ):
        wanted = {
            name
            for key in table.keys_of(section).values()
            if key.since is Since.AVAILABLE
            for name in (key.name, *key.aliases)
        }
        assert set(part["properties"]) - beside == wanted
        assert part["additionalProperties"] is False
    assert general["required"] == ["admin_username", "admin_password"]
    assert user["required"] == ["username", "password", "pool_size"]
    assert general["properties"]["port"] == {
        "type": "integer",
        "minimum": 0,
        "maximum": 65_535,
        "description": table.keys_of(Section.GENERAL)["port"].meaning,
        "default": 6432,
    }
    assert json.loads(json.dumps(schema)) == schema


def test_the_schema_grows_with_the_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "FEATURES", frozenset(Feature))
    sections = json_schema()["properties"]
    assert set(sections) == {"include", "general", "pools", "web", "prometheus", "talos"}
    assert "auth_query" in sections["pools"]["additionalProperties"]["properties"]
    assert "tls_mode" in sections["general"]["properties"]
