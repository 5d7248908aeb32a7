"""A small configuration that tests put keys into."""

import json
from pathlib import Path
from typing import Any

import pytest

from pgdoorman.config import Settings, UserPoolSettings, load_text
from pgdoorman.config.keys import Section
from pgdoorman.errors import ConfigError, ConfigErrors

REQUIRED: dict[Section, dict[str, Any]] = {
    Section.GENERAL: {"admin_username": "admin", "admin_password": "admin-secret"},
    Section.USER: {"username": "alice", "password": "alice-secret", "pool_size": 10},
    Section.AUTH_QUERY: {"query": "select $1", "user": "lookup"},
}


def toml(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(name)} = {toml(item)}" for name, item in value.items()) + "}"
    return json.dumps(value)


def configuration(section: Section | None = None, /, **keys: Any) -> str:
    """TOML with pool `shop` and user `alice`, and `keys` in one section; a key that is None is left out."""
    headers = {
        Section.GENERAL: "[general]",
        Section.POOL: "[pools.shop]",
        Section.USER: "[[pools.shop.users]]",
        Section.AUTH_QUERY: "[pools.shop.auth_query]",
        Section.WEB: "[web]",
        Section.TALOS: "[talos]",
    }
    always = (Section.GENERAL, Section.POOL, Section.USER)
    lines = []
    for place, header in headers.items():
        if place not in always and place is not section:
            continue
        values = REQUIRED.get(place, {}) | (keys if place is section else {})
        lines += [header, *(f"{name} = {toml(value)}" for name, value in values.items() if value is not None), ""]
    return "\n".join(lines)


def load_with(section: Section | None = None, /, **keys: Any) -> Settings:
    """The settings of `configuration`."""
    return load_text(configuration(section, **keys), environment={})


def effective(settings: Settings, user: str = "alice") -> UserPoolSettings:
    """What holds for a user of the pool `shop`."""
    pool = settings.pools["shop"]
    found = pool.user(user)
    assert found is not None
    return settings.effective(pool, found)


def errors_of(text: str, file: str = "pgdoorman.toml", folder: Path = Path()) -> tuple[ConfigError, ...]:
    """All that is wrong with a text. Fails if nothing is."""
    with pytest.raises(ConfigErrors) as caught:
        load_text(text, file=file, environment={}, folder=folder)
    return caught.value.errors


def error_of(text: str, file: str = "pgdoorman.toml", folder: Path = Path()) -> ConfigError:
    """The one thing that is wrong with a text."""
    errors = errors_of(text, file, folder)
    assert len(errors) == 1, "\n".join(map(str, errors))
    return errors[0]


def line_of(text: str, part: str) -> int:
    """The line, from 1, in which `part` stands first."""
    return text[: text.index(part)].count("\n") + 1
