"""Damaged files: whatever stands in one, reading it ends in settings or in errors with places, and in nothing else."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgdoorman.config import keys as table
from pgdoorman.config import load_text
from pgdoorman.config.keys import KEYS, Feature
from pgdoorman.config.reference import reference_file
from pgdoorman.errors import ConfigErrors
from tests.unit.config import sample

NAMES = sorted({key.name for key in KEYS} | {"users", "auth_query", "shop", "0", "general", "pools", "web", "include"})
SCALARS = st.one_of(
    st.integers(-(2**40), 2**40),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.sampled_from(["", "1h30m", "1.5GB", "transaction", "0600", "file:x", "${HOME}", "md5", "/", "\0", "10.0.0.0/8"]),
    st.text(max_size=8),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=6,
)
TABLES = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6)
SLOW = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture(autouse=True)
def every_feature(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(table, "FEATURES", frozenset(Feature))
    monkeypatch.chdir(tmp_path)


def _read(text: str, file: str) -> None:
    try:
        loaded = load_text(text, file, environment={})
    except ConfigErrors as refused:
        for error in refused.errors:
            assert error.file
            assert error.message
            assert error.key or error.message.startswith(("TOML: ", "YAML: ", "holds", "must be", "nested", "the key"))
    else:
        hash(tuple(loaded.effective_pools().values()))


@SLOW
@given(general=TABLES, pool=TABLES, users=st.lists(TABLES, max_size=2) | VALUES)
def test_anything_behind_any_key(general: dict[str, Any], pool: dict[str, Any], users: Any) -> None:
    document = {"general": general, "pools": {"shop": pool | {"users": users}}}
    text = "".join(f"{name} = {sample.toml(value)}\n" for name, value in document.items())
    with contextlib.suppress(UnicodeEncodeError):
        _read(text, "a.toml")
        _read(json.dumps(document), "a.yaml")


@SLOW
@given(data=st.data(), language=st.sampled_from(["toml", "yaml"]))
def test_cut_and_stained_files(data: st.DataObject, language: str) -> None:
    text = (
        sample.configuration()
        if language == "toml"
        else (Path(__file__).parents[3] / "config/minimal.yaml").read_text()
    )
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 20)))
    stain = data.draw(st.text(alphabet="[]{}=:\"'#-,.&*!|>%@`\\ \n\tax0", max_size=5))
    _read(text[:start] + stain + text[end:], f"a.{language}")


@pytest.mark.parametrize("language", ["toml", "yaml"])
def test_every_line_of_the_reference_missing_once(language: str) -> None:
    lines = [
        line for line in reference_file(language).splitlines() if line.strip() and not line.strip().startswith("#")
    ]
    for position in range(len(lines)):
        _read("\n".join(lines[:position] + lines[position + 1 :]), f"a.{language}")


@pytest.mark.parametrize(
    ("file", "text", "complaint"),
    [
        ("a.toml", "[general]\nport = " + "9" * 5000, "a.toml:2: TOML: a number with too many digits"),
        ("a.yaml", "general: !!python/object/apply:os.system ['true']", "a.yaml:1: general: must be a table"),
        ("a.yaml", "general: !x {port: 1}\npools: {}", "a.yaml:1: general.admin_username: this key is required"),
        ("a.yaml", "general: &x\n  <<: *x\n  port: 1", "a.yaml: YAML: cannot be read"),
        ("a.yaml", 'general:\n  host: "\\ud800"', "a.yaml:2: holds a surrogate"),
        ("a.yaml", '"\\ud800": 1', "a.yaml:1: holds a surrogate"),
        ("a.yaml", "general:\n  host: \x01", "a.yaml:2: YAML: a character that no text may hold"),
        ("pgbouncer.ini", "[databases]\nx =\n", "pgbouncer.ini: looks like PgBouncer's file"),
    ],
)
def test_what_has_hurt_before(file: str, text: str, complaint: str) -> None:
    with pytest.raises(ConfigErrors) as refused:
        load_text(text, file)
    assert complaint in str(refused.value)
