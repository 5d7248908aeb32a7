"""Trees with places: how paths and values are written in messages, and how files are merged."""

import datetime as dt

import pytest

from pgdoorman.config.document import Node, Path, Value, describe, find, merge, spell
from pgdoorman.config.toml_format import parse
from pgdoorman.errors import ConfigError


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), ""),
        (("general",), "general"),
        (("pools", "shop", "users", 0, "pool_size"), "pools.shop.users[0].pool_size"),
        (("pools", "my.db"), 'pools."my.db"'),
        (("pools", "my-db_2"), "pools.my-db_2"),
        (("pools", ""), 'pools.""'),
    ],
)
def test_paths(path: Path, text: str) -> None:
    assert spell(path) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({}, "a table"),
        ([], "a list"),
        (True, "true"),
        (12, "12"),
        (1.5, "1.5"),
        ("x", '"x"'),
        ("x" * 100, '"' + "x" * 57 + '..."'),
        (dt.date(2026, 1, 1), "a date or time"),
    ],
)
def test_values(value: Value, text: str) -> None:
    assert describe(value) == text


def _plain(node: Node) -> object:
    if isinstance(node.value, dict):
        return {name: _plain(item) for name, item in node.value.items()}
    if isinstance(node.value, list):
        return [_plain(item) for item in node.value]
    return node.value


def test_merging() -> None:
    base = parse("[a]\nx = 1\nl = [1]\n[b]\ny = 'old'\n", "base")
    other = parse("[a]\nx = 2\nl = [2, 3]\nz = true\n[c]\n", "other")
    merged = merge(base, other)
    assert _plain(merged) == {"a": {"x": 2, "l": [1, 2, 3], "z": True}, "b": {"y": "old"}, "c": {}}
    assert find(merged, ("a", "x")).place == "other:2"
    assert find(merged, ("a", "l", 0)).place == "base:3"
    assert find(merged, ("a", "l", 2)).place == "other:3"
    assert _plain(base) == {"a": {"x": 1, "l": [1]}, "b": {"y": "old"}}


@pytest.mark.parametrize(
    ("one", "other"),
    [("1", "'1'"), ("1", "true"), ("1", "1.5"), ("[]", "{}"), ("'x'", "[]"), ("1", "1979-05-27")],
)
def test_different_kinds_do_not_merge(one: str, other: str) -> None:
    with pytest.raises(ConfigError, match="cannot be merged over") as caught:
        merge(parse(f"[a]\nx = {one}\n", "base"), parse(f"\n[a]\nx = {other}\n", "other"))
    assert (caught.value.file, caught.value.line, caught.value.key) == ("other", 3, "a.x")
    assert "base:2" in caught.value.message


def test_what_is_missing_is_blamed_on_what_is_around_it() -> None:
    root = parse("[a]\n[a.b]\nl = [1]\n", "f")
    assert find(root, ("a", "b", "c", "d")).line == 2
    assert find(root, ("a", "b", "l", 7)).line == 3
    assert find(root, ("z",)).line == 1
