"""Changing one value in the text of a configuration file, so that all the rest of it stays as its owner wrote it: comments,
order, quotes, blank lines.

The lines at the key are exchanged, and what comes out is read again: it has to say what the old text said, but for the one
value. So nothing here has to know where a value ends; it tries until the file is right. What does not stand on lines
of its own (inline tables, flow mappings, anchors) is written anew by tomlkit or ruamel.yaml, which keep comments too, and
is held against the same measure. What fails it is refused: no file is left in doubt.
"""

import copy
import io
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any, Final

import tomlkit
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from tomlkit.exceptions import TOMLKitError

from pgdoorman.config import toml_format, yaml_format
from pgdoorman.config.document import Node, Path, find, spell
from pgdoorman.config.reference import file_value
from pgdoorman.errors import ConfigError

_MOST_LINES: Final = 2000  # that one value may take
_LINE: Final = re.compile(r"[^\n]*\n|[^\n]+")
_KEY: Final = {
    "toml": re.compile(r"""[ \t]*(?:[A-Za-z0-9_.\- \t]|"(?:\\.|[^"\\\n])*"|'[^'\n]*')+=[ \t]*"""),
    "yaml": re.compile(
        r"""[ ]*(?:-[ ]+)*(?:"(?:\\.|[^"\\\n])*"|'[^'\n]*'|[^"'#:\s\[\]{},&*!|>%@`][^#:\n]*?)[ ]*"""
        r""":(?:[ ]+|(?=\r?\n|$))"""
    ),
}  # fmt: skip
_PLAIN_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")


def language_of(file: str) -> str:
    """`toml` or `yaml`, by the file's ending."""
    return "yaml" if PurePath(file).suffix.lower() in (".yaml", ".yml") else "toml"


def read(text: str, file: str) -> Any:
    """What a text says: tables, lists and plain values. Raises ConfigError."""
    return _plain(_parse(text, file))


def with_value(text: str, file: str, path: Path, value: Any) -> str:
    """The text with `value` (a plain value, a list of such, or a table of such) at `path`, and the tables that lead there.

    Raises ConfigError if the text cannot be read, or what it says cannot be changed so without doing more.
    """
    editor = _Editor(text, file)
    return editor.chosen([_changed(editor.said, path, value)], editor.with_value(path, value), path)


def without_value(text: str, file: str, path: Path) -> str:
    """The text without the key at `path`, which is there. Raises ConfigError as `with_value` does."""
    editor = _Editor(text, file)
    expected = copy.deepcopy(editor.said)
    del _container(expected, path)[path[-1]]
    # A dotted key takes the table that it made with it.
    return editor.chosen([expected, _pruned(expected, path)], editor.without_value(path), path)


def _parse(text: str, file: str) -> Node:
    return yaml_format.parse(text, file) if language_of(file) == "yaml" else toml_format.parse(text, file)


def _plain(node: Node) -> Any:
    match node.value:
        case dict():
            return {name: _plain(item) for name, item in node.value.items()}
        case list():
            return [_plain(item) for item in node.value]
        case _:
            return node.value


def _changed(said: Any, path: Path, value: Any) -> Any:
    changed = copy.deepcopy(said)
    place = changed
    try:
        for step in path[:-1]:
            place = place.setdefault(step, {}) if isinstance(place, dict) else place[step]
        place[path[-1]] = value
    except (TypeError, LookupError):
        raise ConfigError("there is something else than a table in its place", key=spell(path)) from None
    return changed


def _container(said: Any, path: Path) -> Any:
    for step in path[:-1]:
        said = said[step]
    return said


def _pruned(said: Any, path: Path) -> Any:
    """Without the tables on the path that have nothing in them."""
    said = copy.deepcopy(said)
    for depth in range(len(path) - 1, 0, -1):
        outer = _container(said, path[:depth])
        if outer[path[depth - 1]] != {} or not isinstance(outer, dict):
            break
        del outer[path[depth - 1]]
    return said


def _there(said: Any, path: Path) -> bool:
    for step in path:
        if not (step in said if isinstance(said, dict) else isinstance(said, list) and step in range(len(said))):
            return False
        said = said[step]
    return True


class _Editor:
    """One text, and the ways to say something else in it."""

    def __init__(self, text: str, file: str) -> None:
        self._text = text
        self._file = file
        self._language = language_of(file)
        self._root = _parse(text, file)
        self.said = _plain(self._root)
        self._lines: list[str] = _LINE.findall(text)
        self._end = "\r\n" if text.partition("\n")[0].endswith("\r") else "\n"

    def chosen(self, expected: list[Any], texts: Iterator[str], path: Path) -> str:
        """The first of these texts that says something of what is expected."""
        for text in texts:
            if self._says(text) in expected and self._keeps_comments(text):
                return text
        place = find(self._root, path)
        message = "cannot be changed by a command as the file has it; change it by hand"
        raise ConfigError(message, file=self._file, line=place.line, key=spell(path))

    def _keeps_comments(self, text: str) -> bool:
        """ruamel.yaml loses some that stand behind a block of text."""
        lost = _remarks(self._text) - _remarks(text)
        return not lost or all(self._is_text(remark) for remark in lost)

    def _is_text(self, line: str) -> bool:
        """Whether a line that looks like a comment is part of a value."""
        without = self._says(self._text.replace(line, ""))
        return bool(without != self.said)

    def _says(self, text: str) -> Any:
        try:
            return read(text, self._file)
        except ConfigError:
            return None

    def with_value(self, path: Path, value: Any) -> Iterator[str]:
        """Texts with the value, the ones that change least first."""
        if _there(self.said, path):
            yield from self._replaced(find(self._root, path).line, value)
        elif _there(self.said, path[:-1]):
            yield from self._inserted(path[:-1], str(path[-1]), value)
            yield from self._appended(path, value)
        else:
            yield from self._appended(path, value)
            table: Any = value
            depth = len(path) - 1
            while depth > 0 and not _there(self.said, path[:depth]):
                table = {path[depth]: table}
                depth -= 1
            yield from self._inserted(path[:depth], str(path[depth]), table)
        yield from self._rewritten(path, value, removed=False)

    def without_value(self, path: Path) -> Iterator[str]:
        """Texts without the key, the ones that change least first."""
        start = find(self._root, path).line - 1
        for end in range(start + 1, self._last(start) + 1):
            yield "".join(self._lines[:start] + self._lines[end:])
        yield from self._rewritten(path, None, removed=True)

    def _last(self, start: int) -> int:
        return min(len(self._lines), start + _MOST_LINES)

    # Line by line.

    def _replaced(self, line: int, value: Any) -> Iterator[str]:
        start = line - 1
        head = _KEY[self._language].match(self._lines[start])
        if head is None:
            return
        before, after = self._lines[:start], self._lines
        words = head[0] if head[0][-1] in " \t" else head[0] + " "
        for end in range(start + 1, self._last(start) + 1):
            last = after[end - 1]
            for tail in self._tails(end - 1):
                text = words + file_value(value, self._language) + tail
                yield "".join([*before, text, *after[end:]])
            if last is after[start] and not last.endswith("\n"):
                return

    def _tails(self, number: int) -> Iterator[str]:
        """What may stand behind the value on its last line: a comment, the line's end."""
        line = self._lines[number]
        end = line[len(line.rstrip("\r\n")) :]
        for found in re.finditer(r"[ \t]*#", line):
            shorter = line[: found.start()] + end
            # It is a comment if the file says the same without it.
            if self._says("".join([*self._lines[:number], shorter, *self._lines[number + 1 :]])) == self.said:
                yield line[found.start() :]
        yield end

    def _inserted(self, parent: Path, name: str, value: Any) -> Iterator[str]:
        table = find(self._root, parent)
        if not isinstance(table.value, dict):
            return
        simple = [
            node.line
            for node in table.value.values()
            if not isinstance(node.value, dict) and not _is_list_of_tables(node) and node.file == table.file
        ]
        start = max(simple, default=table.line)
        model = self._lines[start - 1] if start <= len(self._lines) else ""
        indent = self._indent(model, below=not simple)
        if self._language == "toml":
            line = f"{indent}{_toml_key(name)} = {file_value(value, 'toml')}{self._end}"
        else:
            line = f"{indent}{_yaml_key(name)}: {file_value(value, 'yaml')}{self._end}"
        for position in range(start, self._last(start) + 1):
            before = self._lines[:position]
            if before and not before[-1].endswith("\n"):
                before[-1] += self._end
            yield "".join([*before, line, *self._lines[position:]])

    def _indent(self, model: str, *, below: bool) -> str:
        indent = re.match(r"[ \t]*(?:-[ ]+)*", model)
        text = re.sub("-", " ", indent[0]) if indent else ""
        return text + "  " if below and self._language == "yaml" else text

    def _appended(self, path: Path, value: Any) -> Iterator[str]:
        """A section of its own at the end of the file."""
        text = self._text + ("" if self._text.endswith("\n") or not self._text else self._end)
        gap = self._end if text.strip() else ""
        *section, name = map(str, path)
        if not section:
            return
        if self._language == "toml":
            head = f"[{'.'.join(map(_toml_key, section))}]"
            yield f"{text}{gap}{head}{self._end}{_toml_key(name)} = {file_value(value, 'toml')}{self._end}"
        elif len(section) == 1:
            pair = f"  {_yaml_key(name)}: {file_value(value, 'yaml')}{self._end}"
            yield f"{text}{gap}{_yaml_key(section[0])}:{self._end}{pair}"

    # As a whole.

    def _rewritten(self, path: Path, value: Any, *, removed: bool) -> Iterator[str]:
        try:
            yield (_by_ruamel if self._language == "yaml" else _by_tomlkit)(self._text, path, value, removed)
        except (TOMLKitError, YAMLError, LookupError, TypeError, ValueError, AttributeError):
            return  # neither library says what it may raise for what it cannot do


def _remarks(text: str) -> Counter[str]:
    return Counter(line.strip() for line in text.splitlines() if line.lstrip().startswith("#"))


def _by_tomlkit(text: str, path: Path, value: Any, removed: bool) -> str:
    document = tomlkit.parse(text)
    _put(document, path, value, removed)
    return tomlkit.dumps(document)


def _by_ruamel(text: str, path: Path, value: Any, removed: bool) -> str:
    yaml = YAML(typ="rt", pure=True)
    yaml.preserve_quotes = True
    yaml.width = 10_000
    step = re.search(r"^[^#\s-][^\n]*:[ \t]*(?:#[^\n]*)?\n(?:[ ]*(?:#[^\n]*)?\n)*([ ]+)[^\s#-]", text, re.MULTILINE)
    dash = re.search(r"^([ ]*)[^#\s-][^\n]*:[ \t]*(?:#[^\n]*)?\n(?:[ ]*(?:#[^\n]*)?\n)*([ ]*)-[ ]+", text, re.MULTILINE)
    offset = len(dash[2]) - len(dash[1]) if dash else 2
    yaml.indent(mapping=len(step[1]) if step else 2, sequence=offset + 2, offset=offset)
    yaml.explicit_start = text.lstrip().startswith("---")
    document = yaml.load(text)
    _put(document, path, value, removed)
    out = io.StringIO()
    yaml.dump(document, out)
    return out.getvalue()


def _put(document: Any, path: Path, value: Any, removed: bool) -> None:
    place = document
    for step in path[:-1]:
        if isinstance(step, str) and step not in place:
            place[step] = {}
        place = place[step]
    if removed:
        del place[path[-1]]
    else:
        place[path[-1]] = value


def _is_list_of_tables(node: Node) -> bool:
    return isinstance(node.value, list) and any(isinstance(item.value, dict) for item in node.value)


def _toml_key(name: str) -> str:
    return name if _PLAIN_KEY.fullmatch(name) else file_value(name, "toml")


def _yaml_key(name: str) -> str:
    return name if _PLAIN_KEY.fullmatch(name) and not name.isdecimal() else file_value(name, "yaml")
