"""The grammars of values: what may stand behind a key, in a file of either format.

A kind reads a node into a value, says what it allows in words (for messages and the reference page), writes a value
back as the operator would (SHOW CONFIG, the reference file), and describes itself as JSON Schema for editors.
"""

import difflib
import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from pgdoorman.config import units
from pgdoorman.config.document import Node, describe
from pgdoorman.config.references import Surroundings
from pgdoorman.config.settings import Network, Parameters, RulesText, Secret
from pgdoorman.config.startup_parameters import canonical_name, refuse_parameter

# A hundred years, in seconds: still exact in a float, and still a legal argument to every timer.
_LONGEST = 36_525 * 86_400.0


class Refused(Exception):
    """A value that its kind does not allow: each complaint with the node to blame, and whether it may be quoted."""

    def __init__(self, *complaints: tuple[str, Node]) -> None:
        super().__init__(*(message for message, _ in complaints))
        self.complaints = complaints


class Kind(Protocol):
    """What every grammar can do."""

    @property
    def allowed(self) -> str:
        """What may stand here, in words that follow "must be"."""

    @property
    def label(self) -> str:
        """The kind in a word or two, for the reference page."""

    def read(self, node: Node, at: Surroundings) -> Any:
        """The value. Raises Refused."""

    def show(self, value: Any) -> str:
        """The value as text that an operator may read; of a secret, only that there is one."""

    def plain(self, value: Any) -> Any:
        """The value as a number, text, list or table that a file may hold and `read` takes back."""

    def schema(self) -> dict[str, Any]:
        """JSON Schema of what may stand here."""


def wrong(kind: Kind, node: Node, reason: str = "") -> Refused:
    """The usual complaint."""
    return Refused((f"must be {kind.allowed}, not {describe(node.value)}" + (f" ({reason})" if reason else ""), node))


def human(kind: Kind, value: Any) -> str:
    """The value as a person would say it: durations and sizes with units, no secret shown."""
    return str(kind.plain(value)) if isinstance(kind, Duration | Size) else kind.show(value)


def suggest(word: str, words: Iterable[str]) -> str:
    """` (did you mean "x"?)` for the word that looks most like it, or nothing."""
    near = difflib.get_close_matches(word.lower(), list(words), n=1, cutoff=0.6)
    return f'; did you mean "{near[0]}"?' if near else ""


@dataclass(frozen=True, slots=True)
class Flag:
    """true or false."""

    allowed = "true or false"
    label = "bool"

    def read(self, node: Node, at: Surroundings) -> bool:
        if not isinstance(node.value, bool):
            raise wrong(self, node)
        return node.value

    def show(self, value: bool) -> str:
        return "true" if value else "false"

    def plain(self, value: bool) -> bool:
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number from `low` to `high`. With `unit` s, also a human duration of whole seconds."""

    low: int
    high: int
    unit: str = ""

    @property
    def allowed(self) -> str:
        unit = ' seconds, or a text such as "10s" or "1m"' if self.unit == "s" else ""
        return f"an integer from {self.low} to {self.high}{unit}"

    @property
    def label(self) -> str:
        return "seconds" if self.unit == "s" else "integer"

    def read(self, node: Node, at: Surroundings) -> int:
        value = node.value
        if self.unit == "s" and isinstance(value, str):
            value = self._whole_seconds(value, node)
        if isinstance(value, bool) or not isinstance(value, int) or not self.low <= value <= self.high:
            raise wrong(self, node)
        return value

    def _whole_seconds(self, text: str, node: Node) -> int:
        try:
            seconds = units.parse_duration(text, "s")
        except ValueError:
            raise wrong(self, node) from None
        if seconds != int(seconds):
            raise wrong(self, node, "whole seconds only")
        return int(seconds)

    def show(self, value: int) -> str:
        return str(value)

    def plain(self, value: int) -> int:
        return value

    def schema(self) -> dict[str, Any]:
        number = {"type": "integer", "minimum": self.low, "maximum": self.high}
        return {"anyOf": [number, {"type": "string"}]} if self.unit == "s" else number


@dataclass(frozen=True, slots=True)
class Duration:
    """A length of time in seconds, from `low` to a hundred years. A bare integer counts in `bare_unit`."""

    low: float = 0.0
    bare_unit: str = "ms"

    @property
    def allowed(self) -> str:
        bare = "milliseconds" if self.bare_unit == "ms" else "seconds"
        least = "" if self.low == 0 else f", at least {units.format_duration(self.low)}"
        return f'a duration: an integer in {bare}, or a text such as "250ms", "1.5s", "1h30m"{least}'

    @property
    def label(self) -> str:
        return "duration"

    def read(self, node: Node, at: Surroundings) -> float:
        seconds = self._seconds(node)
        if not self.low <= seconds <= _LONGEST:
            raise wrong(self, node)
        return seconds

    def _seconds(self, node: Node) -> float:
        value = node.value
        if isinstance(value, bool) or not isinstance(value, int | str):
            reason = "a fraction needs a unit" if isinstance(value, float) else ""
            raise wrong(self, node, reason)
        if isinstance(value, int):
            return -1.0 if value < 0 else units.parse_duration(str(value), self.bare_unit)
        try:
            return units.parse_duration(value, self.bare_unit)
        except ValueError as error:
            raise wrong(self, node, str(error)) from None

    def show(self, value: float) -> str:
        return str(round(value * 1000)) if self.bare_unit == "ms" else f"{value:g}"

    def plain(self, value: float) -> str:
        return units.format_duration(value)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": r"^\s*\d"}]}


@dataclass(frozen=True, slots=True)
class Size:
    """A number of bytes from `low` to `high`."""

    low: int
    high: int

    @property
    def allowed(self) -> str:
        limits = f"from {units.format_size(self.low)} to {units.format_size(self.high)}"
        return f'a size: an integer in bytes, or a text such as "64KB" or "1.5GB", {limits}'

    @property
    def label(self) -> str:
        return "size"

    def read(self, node: Node, at: Surroundings) -> int:
        value = node.value
        if isinstance(value, str):
            try:
                value = units.parse_size(value)
            except ValueError:
                raise wrong(self, node) from None
        if isinstance(value, bool) or not isinstance(value, int) or not self.low <= value <= self.high:
            raise wrong(self, node)
        return value

    def show(self, value: int) -> str:
        return str(value)

    def plain(self, value: int) -> str | int:
        text = units.format_size(value)
        return value if text == str(value) else text

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"type": "integer", "minimum": self.low}, {"type": "string", "pattern": r"^\s*\d"}]}


@dataclass(frozen=True, slots=True)
class Text:
    """A text without NUL, empty only where `empty` says so."""

    empty: bool = False

    @property
    def allowed(self) -> str:
        return "a text" if self.empty else "a text that is not empty"

    @property
    def label(self) -> str:
        return "text"

    def read(self, node: Node, at: Surroundings) -> str:
        value = node.value
        if not isinstance(value, str) or "\0" in value or not (value or self.empty):
            raise wrong(self, node)
        return value

    def show(self, value: str) -> str:
        return value

    def plain(self, value: str) -> str:
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "string"} if self.empty else {"type": "string", "minLength": 1}


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words, in any case."""

    words: type[StrEnum]

    @property
    def allowed(self) -> str:
        return "one of " + ", ".join(self.words)

    @property
    def label(self) -> str:
        return " \\| ".join(self.words)

    def read(self, node: Node, at: Surroundings) -> StrEnum:
        value = node.value
        if not isinstance(value, str):
            raise wrong(self, node)
        try:
            return self.words(value.strip().lower())
        except ValueError:
            message = f"must be {self.allowed}, not {describe(value)}{suggest(value, list(self.words))}"
            raise Refused((message, node)) from None

    def show(self, value: StrEnum) -> str:
        return str(value)

    def plain(self, value: StrEnum) -> str:
        return str(value)

    def schema(self) -> dict[str, Any]:
        return {"enum": [str(word) for word in self.words]}


@dataclass(frozen=True, slots=True)
class Mode:
    """Permission bits in octal. A number is refused: 0600 means 600 to TOML and YAML 1.2, and 0o600 means 384."""

    allowed = 'permission bits in octal as a text, such as "0600", up to "0777"'
    label = "octal text"

    def read(self, node: Node, at: Surroundings) -> int:
        if not isinstance(node.value, str):
            raise wrong(self, node, "put it in quotes")
        try:
            return units.parse_mode(node.value)
        except ValueError:
            raise wrong(self, node) from None

    def show(self, value: int) -> str:
        return units.format_mode(value)

    def plain(self, value: int) -> str:
        return units.format_mode(value)

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": "^(0[oO])?[0-7]{1,4}$"}


@dataclass(frozen=True, slots=True)
class SecretText:
    """A secret, or a reference to one. It is never quoted in a message."""

    allowed = "a text, ${NAME} for an environment variable, or file:/path"
    label = "secret"

    def read(self, node: Node, at: Surroundings) -> Secret:
        if not isinstance(node.value, str):
            raise Refused((f"must be {self.allowed}", node))
        try:
            text = at.resolve_secret(node.value)
        except ValueError as error:
            raise Refused((str(error), node)) from None
        if "\0" in text:
            raise Refused(("a secret cannot hold a zero byte", node))
        if any(0xD800 <= ord(letter) < 0xE000 for letter in text):
            raise Refused(("a secret must be valid Unicode", node))
        return Secret(text)

    def show(self, value: Secret) -> str:
        return "***" if value else ""

    def plain(self, value: Secret) -> str:
        return value.reveal()

    def schema(self) -> dict[str, Any]:
        return {"type": "string"}


@dataclass(frozen=True, slots=True)
class FilePath:
    """A file; a relative path is looked for beside the configuration file, then in the working directory."""

    allowed = "the path of a file that can be read"
    label = "path"

    def read(self, node: Node, at: Surroundings) -> Path:
        if not isinstance(node.value, str) or not node.value or "\0" in node.value:
            raise wrong(self, node)
        try:
            return at.readable_file(node.value)
        except ValueError as error:
            raise Refused((str(error), node)) from None

    def show(self, value: Path) -> str:
        return str(value)

    def plain(self, value: Path) -> str:
        return str(value)

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "minLength": 1}


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list; each item is read by `read_item`, which raises ValueError."""

    label: str
    items: str
    read_item: Callable[[str, Surroundings], Any]
    at_least: int = 0

    @property
    def allowed(self) -> str:
        return f"a list of {self.items}" + (" that is not empty" if self.at_least else "")

    def read(self, node: Node, at: Surroundings) -> tuple[Any, ...]:
        if not isinstance(node.value, list) or len(node.value) < self.at_least:
            raise wrong(self, node)
        values, complaints = [], []
        for item in node.value:
            try:
                values.append(self._item(item, at))
            except ValueError:
                complaints.append((f"must be {self.allowed}; {describe(item.value)} is none", item))
        if complaints:
            raise Refused(*complaints)
        return tuple(values)

    def _item(self, item: Node, at: Surroundings) -> Any:
        if not isinstance(item.value, str) or not item.value or "\0" in item.value:
            raise ValueError("not a text")
        return self.read_item(item.value, at)

    def show(self, value: tuple[Any, ...]) -> str:
        return ", ".join(str(item) for item in value)

    def plain(self, value: tuple[Any, ...]) -> list[str]:
        return [str(item) for item in value]

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": {"type": "string"}, "minItems": self.at_least}


@dataclass(frozen=True, slots=True)
class ParameterTable:
    """Parameters for a backend's StartupMessage."""

    allowed = "a table of parameter names and texts"
    label = "table"

    def read(self, node: Node, at: Surroundings) -> Parameters:
        if not isinstance(node.value, dict):
            raise wrong(self, node)
        parameters: list[tuple[str, str]] = []
        complaints = []
        for name, item in node.value.items():
            problem = refuse_parameter(name, item.value, [known for known, _ in parameters])
            if problem:
                complaints.append((problem, item))
            else:
                parameters.append((canonical_name(name), str(item.value)))
        if complaints:
            raise Refused(*complaints)
        return tuple(parameters)

    def show(self, value: Parameters) -> str:
        return ", ".join(f"{name}={text}" for name, text in value)

    def plain(self, value: Parameters) -> dict[str, str]:
        return dict(value)

    def schema(self) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": {"type": "string"}}


@dataclass(frozen=True, slots=True)
class Rules:
    """Host-based rules: the rules themselves, {content = "rules"}, or {path = "file"}; content beats path."""

    allowed = 'rules as a text, {path = "file"} or {content = "rules"}'
    label = "text or table"

    def read(self, node: Node, at: Surroundings) -> RulesText:
        value = node.value
        if isinstance(value, str):
            return RulesText(value, node.file, node.text_line)
        if not isinstance(value, dict) or not value:
            raise wrong(self, node)
        complaints = []
        for name, item in value.items():
            if name not in ("path", "content"):
                complaints.append((f'unknown key "{name}", must be {self.allowed}', item))
            elif not isinstance(item.value, str) or not item.value:
                complaints.append((f"{name} must be a text that is not empty", item))
        if complaints:
            raise Refused(*complaints)
        if "content" in value:
            return RulesText(str(value["content"].value), node.file, value["content"].text_line)
        return self._read_file(value["path"], at)

    def _read_file(self, node: Node, at: Surroundings) -> RulesText:
        try:
            text, path = at.read_file(str(node.value))
        except ValueError as error:
            raise Refused((str(error), node)) from None
        return RulesText(text, str(path))

    def show(self, value: RulesText) -> str:
        return f"{len(value.text.splitlines())} lines of {value.file} from line {value.first_line}"

    def plain(self, value: RulesText) -> str:
        return value.text

    def schema(self) -> dict[str, Any]:
        names = {"path": {"type": "string"}, "content": {"type": "string"}}
        table = {"type": "object", "properties": names, "additionalProperties": False, "minProperties": 1}
        return {"anyOf": [{"type": "string"}, table]}


def _network(text: str, _at: Surroundings) -> Network:
    return ipaddress.ip_network(text, strict=False)


def _url(text: str, _at: Surroundings) -> str:
    if re.fullmatch(r"https?://[^\s/?#]+[^\s]*", text, re.IGNORECASE) is None:
        raise ValueError("not an http or https address")
    parts = urlsplit(text)
    if "@" in parts.netloc:
        raise ValueError("not an address without user and password")
    _ = parts.port  # raises ValueError for what is none
    return text


def _text(text: str, _at: Surroundings) -> str:
    return text


def _path(text: str, at: Surroundings) -> Path:
    return at.readable_file(text)


NETWORKS = ListOf("list of networks", 'networks such as "10.0.0.0/8" or "::1/128"', _network)
URLS = ListOf("list of URLs", "http or https addresses without user and password", _url, at_least=1)
TEXTS = ListOf("list of texts", "texts", _text)
PATHS = ListOf("list of paths", "paths of files that can be read", _path)
