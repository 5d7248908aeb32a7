"""A configuration file in the making: what goes into it, and how it is written down with comments."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pgdoorman.config.document import Node
from pgdoorman.config.keys import Section, Since, keys_of
from pgdoorman.config.kinds import Refused
from pgdoorman.config.reference import file_value
from pgdoorman.config.references import Surroundings
from pgdoorman.config.units import format_duration

_WIDTH = 100


class DraftError(Exception):
    """A value that the key does not take. The text says why."""


@dataclass(slots=True)
class Entries:
    """The keys of one section in the order in which they are to stand; notes are comments at its end."""

    section: Section
    values: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    folder: Path = Path(".")

    def put(self, name: str, value: Any) -> None:
        """Have the key. Raises DraftError if this version does not have it, or if it does not take the value."""
        key = keys_of(self.section).get(name)
        if key is None or key.since is Since.LATER:
            raise DraftError(f"{name}: this version has no such setting")
        try:
            key.kind.read(_node(value), Surroundings({}, self.folder))
        except Refused as refused:
            raise DraftError(f"{name}: " + "; ".join(message for message, _ in refused.complaints)) from None
        self.values[name] = value

    def note(self, text: str) -> None:
        """A comment behind the keys."""
        self.notes.append(text)


def _node(value: Any) -> Node:
    if isinstance(value, list):
        return Node([_node(item) for item in value], "", 0)
    if isinstance(value, dict):
        return Node({name: _node(item) for name, item in value.items()}, "", 0)
    return Node(value, "", 0)


@dataclass(slots=True)
class PoolDraft:
    """One pool."""

    entries: Entries = field(default_factory=lambda: Entries(Section.POOL))
    auth_query: Entries | None = None
    users: list[Entries] = field(default_factory=list)

    def new_auth_query(self) -> Entries:
        """Its look-up, empty yet."""
        self.auth_query = Entries(Section.AUTH_QUERY)
        return self.auth_query

    def add_user(self) -> Entries:
        """One more user, empty yet."""
        self.users.append(Entries(Section.USER))
        return self.users[-1]


@dataclass(slots=True)
class Draft:
    """A whole file."""

    head: list[str] = field(default_factory=list)
    general: Entries = field(default_factory=lambda: Entries(Section.GENERAL))
    pools: dict[str, PoolDraft] = field(default_factory=dict)

    def text(self, language: str, *, comments: bool = True) -> str:
        """As `toml` or `yaml`."""
        writer = _Toml(comments) if language == "toml" else _Yaml(comments)
        return "\n".join(writer.lines(self)).strip("\n") + "\n"


def seconds(value: float) -> str:
    """A length of time as the file has it."""
    return format_duration(value)


class _Writer:
    """What both formats share. A key is explained where it stands for the first time."""

    def __init__(self, comments: bool) -> None:
        self._comments = comments
        self._explained: set[tuple[Section, str]] = set()

    def _remarks(self, texts: Iterable[str], indent: str) -> Iterator[str]:
        if self._comments:
            for text in texts:
                yield from textwrap.wrap(
                    text, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ", break_on_hyphens=False
                ) or [f"{indent}#"]

    def _entries(self, entries: Entries, indent: str, equals: str) -> Iterator[str]:
        for name, value in entries.values.items():
            key = keys_of(entries.section)[name]
            if (entries.section, name) not in self._explained:
                self._explained.add((entries.section, name))
                zero = f" 0: {key.zero}." if key.zero else ""
                yield from self._remarks([key.meaning + zero], indent)
            if isinstance(value, str) and value.endswith("\n"):
                yield from self._block(name, value.splitlines(), indent)
            else:
                yield f"{indent}{name}{equals}{self._value(value)}"
        yield from self._remarks(entries.notes, indent)

    def _value(self, value: Any) -> str:
        raise NotImplementedError

    def _block(self, name: str, lines: list[str], indent: str) -> Iterator[str]:
        """A text of several lines, none of which has a quote or a backslash in it."""
        raise NotImplementedError


class _Toml(_Writer):
    def lines(self, draft: Draft) -> Iterator[str]:
        yield from self._remarks(draft.head, "")
        yield from ("", "[general]", *self._entries(draft.general, "", " = "))
        if not draft.pools:
            yield from ("", "[pools]")
        for name, pool in draft.pools.items():
            path = f"pools.{_toml_key(name)}"
            yield from ("", f"[{path}]", *self._entries(pool.entries, "", " = "))
            if pool.auth_query is not None:
                yield from ("", f"[{path}.auth_query]", *self._entries(pool.auth_query, "", " = "))
            for user in pool.users:
                yield from ("", f"[[{path}.users]]", *self._entries(user, "", " = "))

    def _value(self, value: Any) -> str:
        return file_value(value, "toml")

    def _block(self, name: str, lines: list[str], indent: str) -> Iterator[str]:
        yield from (f"{indent}{name} = '''", *lines, "'''")


class _Yaml(_Writer):
    def lines(self, draft: Draft) -> Iterator[str]:
        yield from self._remarks(draft.head, "")
        yield from ("", "general:", *self._entries(draft.general, "  ", ": "))
        yield from ("", "pools:" if draft.pools else "pools: {}")
        for name, pool in draft.pools.items():
            yield from (f"  {file_value(name, 'yaml')}:", *self._entries(pool.entries, "    ", ": "))
            if pool.auth_query is not None:
                yield from ("    auth_query:", *self._entries(pool.auth_query, "      ", ": "))
            if pool.users:
                yield "    users:"
            for user in pool.users:
                # The dash has a line of its own: comments may come before the first key.
                yield from ("      -", *self._entries(user, "        ", ": "))

    def _value(self, value: Any) -> str:
        return file_value(value, "yaml")

    def _block(self, name: str, lines: list[str], indent: str) -> Iterator[str]:
        yield from (f"{indent}{name}: |", *(f"{indent}  {line}" for line in lines))


def _toml_key(name: str) -> str:
    plain = name.isascii() and name.replace("_", "").replace("-", "").isalnum()
    return name if plain else file_value(name, "toml")


def languages() -> Mapping[str, str]:
    """The format for each ending of a file's name."""
    return {".toml": "toml", ".yaml": "yaml", ".yml": "yaml"}
