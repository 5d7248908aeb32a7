"""A configuration file as a tree that remembers where everything stands, whatever format it was written in."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass

from pgdoorman.errors import ConfigError

type Value = str | int | float | bool | dt.date | dt.time | list[Node] | dict[str, Node]
type Path = tuple[str | int, ...]

# What follows a key in a message; a table with thousands of users nests four deep.
MAX_DEPTH = 32


@dataclass(frozen=True, slots=True)
class Node:
    """One value and its place. `line` is 1-based and is the key's (for a list item: the item's);
    `text_line` is the line on which the text of a string begins, which is the next one for block strings."""

    value: Value
    file: str
    line: int
    text_line: int = 0

    @property
    def place(self) -> str:
        """`file:line`, for messages that point from one place to another."""
        return f"{self.file}:{self.line}"


def spell(path: Path) -> str:
    """A path as an operator would write it: `pools.shop.users[0].password`, quoted where a dot would mislead."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
            continue
        plain = step.replace("-", "").replace("_", "").isalnum()
        text += ("." if text else "") + (step if plain else f'"{step}"')
    return text


def describe(value: Value) -> str:
    """A value as a message names it: short, and never more than the value's beginning."""
    match value:
        case dict():
            return "a table"
        case list():
            return "a list"
        case bool():
            return "true" if value else "false"
        case str():
            return f'"{value[:57]}..."' if len(value) > 60 else f'"{value}"'
        case int() | float():
            return str(value)
        case _:
            return "a date or time"


def find(root: Node, path: Path) -> Node:
    """The node at `path`, or its nearest ancestor that is there: the place to blame for something missing."""
    node = root
    for step in path:
        value = node.value
        if isinstance(value, dict) and step in value:
            node = value[str(step)]
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            node = value[step]
        else:
            return node
    return node


def merge(base: Node, other: Node, path: Path = ()) -> Node:
    """`other` laid over `base`: tables merge deeply, lists are appended, of two scalars of one type the later wins.

    Raises ConfigError where the two are of different kinds.
    """
    if isinstance(base.value, dict) and isinstance(other.value, dict):
        return Node(_merge_tables(base.value, other.value, path), base.file, base.line)
    if isinstance(base.value, list) and isinstance(other.value, list):
        return Node(base.value + other.value, base.file, base.line)
    if _sort(base.value) != _sort(other.value):
        message = f"{_sort(other.value)} cannot be merged over {_sort(base.value)} at {base.place}"
        raise ConfigError(message, file=other.file, line=other.line, key=spell(path))
    return other


def _merge_tables(base: Mapping[str, Node], other: Mapping[str, Node], path: Path) -> dict[str, Node]:
    merged = dict(base)
    for name, node in other.items():
        merged[name] = merge(base[name], node, (*path, name)) if name in base else node
    return merged


def _sort(value: Value) -> str:
    """What kind of thing a value is, for merging; 1 and 1.5 differ, as they do in the files."""
    match value:
        case dict():
            return "a table"
        case list():
            return "a list"
        case bool():
            return "true or false"
        case str():
            return "text"
        case int():
            return "an integer"
        case float():
            return "a fraction"
        case _:
            return "a date or time"
