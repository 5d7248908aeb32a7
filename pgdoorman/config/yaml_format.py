"""YAML 1.2 text to a tree with places."""

from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq, TaggedScalar
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.scalarbool import ScalarBoolean
from ruamel.yaml.scalarstring import FoldedScalarString, LiteralScalarString, ScalarString

from pgdoorman.config.document import MAX_DEPTH, Node, Value
from pgdoorman.errors import ConfigError

# Aliases can make a short text enormous. Without them there is less than one value for a character of text; honest ones
# repeat a handful of defaults.
_VALUES_PER_CHARACTER = 10


def parse(text: str, file: str) -> Node:
    """The document as a tree; nulls are left out, an empty document is an empty table.

    Raises ConfigError with the line of a syntax error. Its message never quotes the text, which may hold passwords.
    """
    try:
        document = YAML(typ="rt", pure=True).load(text)
    except DuplicateKeyError as error:
        # Its own text quotes both values.
        raise _syntax_error("this key stands twice in one mapping", error, file) from None
    except MarkedYAMLError as error:
        raise _syntax_error(error.problem or error.context or "cannot be read", error, file) from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError("YAML: a character that no text may hold", file=file, line=line) from None
    except (YAMLError, ValueError, AttributeError) as error:
        # AttributeError: of a mapping that is merged (<<) into itself.
        raise ConfigError(f"YAML: cannot be read ({type(error).__name__})", file=file) from None
    except RecursionError:
        raise ConfigError("nested too deeply", file=file) from None
    return _Tree(file, len(text)).node({} if document is None else document, 1, 1, 0)


def _syntax_error(problem: str, error: MarkedYAMLError, file: str) -> ConfigError:
    mark = error.problem_mark or error.context_mark
    return ConfigError(f"YAML: {problem}", file=file, line=mark.line + 1 if mark is not None else 0)


class _Tree:
    """Builds nodes out of ruamel's commented values."""

    def __init__(self, file: str, length: int) -> None:
        self._file = file
        self._left = 1000 + _VALUES_PER_CHARACTER * length

    def node(self, value: Any, line: int, value_line: int, depth: int) -> Node:
        self._left -= 1
        if depth > MAX_DEPTH or self._left < 0:
            raise ConfigError("nested too deeply, or aliases that repeat too much", file=self._file, line=line)
        block = isinstance(value, LiteralScalarString | FoldedScalarString)
        return Node(self._value(value, line, depth), self._file, line, value_line + block)

    def _value(self, value: Any, line: int, depth: int) -> Value:
        if isinstance(value, CommentedMap):
            return self._table(value, line, depth)
        if isinstance(value, CommentedSeq):
            return self._list(value, line, depth)
        if isinstance(value, TaggedScalar):
            return str(value.value)
        if isinstance(value, ScalarBoolean):
            return bool(value)
        if isinstance(value, ScalarString):
            return str(value)
        if isinstance(value, dict):
            return {}
        return value  # type: ignore[no-any-return]

    def _table(self, mapping: CommentedMap, line: int, depth: int) -> dict[str, Node]:
        table = {}
        places = mapping.lc.data or {}
        for key, item in mapping.items():
            if item is None:
                continue
            key_line, value_line = line, line
            if key in places:  # a key that came by a merge (<<) has no place of its own
                key_line, value_line = places[key][0] + 1, places[key][2] + 1
            if str(key) in table:  # 1 and "1" are two keys to YAML
                raise ConfigError(f'the key "{key}" stands twice in one mapping', file=self._file, line=key_line)
            table[str(key)] = self.node(item, key_line, value_line, depth + 1)
        return table

    def _list(self, sequence: CommentedSeq, line: int, depth: int) -> list[Node]:
        items = []
        places = sequence.lc.data or {}  # none for one with a tag
        for position, item in enumerate(sequence):
            if item is None:
                continue
            at = places[position][0] + 1 if position in places else line
            items.append(self.node(item, at, at, depth + 1))
        return items
