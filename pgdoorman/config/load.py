"""Reading a configuration: the file, what it includes, all shapes of `users`, and then everything that can be wrong."""

import os
from collections.abc import Mapping
from pathlib import Path

from pgdoorman.config import toml_format, yaml_format
from pgdoorman.config import validate as rules
from pgdoorman.config.document import MAX_DEPTH, Node, describe, merge
from pgdoorman.config.findings import Findings
from pgdoorman.config.read import Reader
from pgdoorman.config.references import Surroundings
from pgdoorman.config.settings import Settings
from pgdoorman.errors import ConfigError, ConfigErrors

DEFAULT_PATH = Path("pgdoorman.toml")

_YAML = (".yaml", ".yml")


def load(
    path: Path, environment: Mapping[str, str] = os.environ, instead: Mapping[Path, str] | None = None
) -> Settings:
    """The settings in the file at `path` (TOML, or YAML if it ends in .yaml or .yml) and in the files that it includes.

    `environment` is what `${NAME}` refers to; `instead` has texts that are to be taken for those of files. Raises
    ConfigErrors with everything that is wrong.
    """
    instead = instead or {}
    try:
        text = instead[path] if path in instead else read_file(path)
    except ConfigError as error:
        raise ConfigErrors([error]) from None
    return load_text(text, file=str(path), environment=environment, folder=path.parent, instead=instead)


def parts(path: Path) -> dict[Path, str]:
    """The texts of the file at `path` and of those that it includes, in the order in which they are laid over each other.

    Raises ConfigErrors if one of them cannot be read.
    """
    findings = Findings([str(path)])
    try:
        texts = {path: read_file(path)}
        include = _sections(_parse(texts[path], str(path))).get("include")
        at = Surroundings({}, path.parent)
        for item in [] if include is None else _included(include, findings):
            included = at.find_file(str(item.value))
            texts[included] = read_file(included)
            _parse(texts[included], str(included))
    except ConfigError as error:
        raise ConfigErrors([error]) from None
    findings.finish()
    return texts


def load_text(
    text: str,
    file: str = "pgdoorman.toml",
    environment: Mapping[str, str] = os.environ,
    folder: Path = Path("."),
    instead: Mapping[Path, str] | None = None,
) -> Settings:
    """The settings in a text, as if it stood in `file` (whose ending decides the format) in `folder`.

    Raises ConfigErrors with everything that is wrong.
    """
    at = Surroundings(environment, folder, [folder / Path(file).name])
    names = [file]
    findings = Findings(names)
    try:
        root = _parse(text, file)
    except ConfigError as error:
        raise ConfigErrors([error]) from None
    root = _include(root, at, findings, names, instead or {})
    findings.finish()  # what follows would complain of what an unreadable file was to bring
    findings.stand_on(root)
    settings = Reader(root, at, findings).settings()
    rules.validate(settings, findings)
    findings.finish()
    return Settings(
        general=settings.general,
        pools=settings.pools,
        web=settings.web,
        talos=settings.talos,
        warnings=tuple(findings.warnings),
        files=tuple(at.files),
    )


def read_file(path: Path) -> str:
    """The text of a file, without a byte order mark. Raises ConfigError."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror or error}", file=str(path)) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError("is not UTF-8", file=str(path), line=line) from None


def _parse(text: str, file: str) -> Node:
    if "\0" in text:
        raise ConfigError("holds a zero byte", file=file, line=text.count("\n", 0, text.index("\0")) + 1)
    if file.lower().endswith(".ini"):
        message = "looks like PgBouncer's file; convert it with pgdoorman generate --from-pgbouncer"
        raise ConfigError(message, file=file)
    root = (yaml_format if file.lower().endswith(_YAML) else toml_format).parse(text, file)
    if not isinstance(root.value, dict):
        raise ConfigError(f"must be a table of sections, not {describe(root.value)}", file=file, line=1)
    _check_shape(root, 0)
    return _list_users(root)


def _check_shape(node: Node, depth: int) -> None:
    """Nothing nested beyond reason, and no text that could not be written: YAML can spell half a character."""
    if depth > MAX_DEPTH:
        raise ConfigError("nested too deeply", file=node.file, line=node.line)
    match node.value:
        case dict():
            children = list(node.value.values())
            texts = list(node.value)
        case list():
            children, texts = node.value, []
        case str():
            children, texts = [], [node.value]
        case _:
            return
    if any("\ud800" <= letter <= "\udfff" for text in texts for letter in text):
        raise ConfigError("holds a surrogate, which is no character", file=node.file, line=node.line)
    for child in children:
        _check_shape(child, depth + 1)


def _include(root: Node, at: Surroundings, findings: Findings, names: list[str], instead: Mapping[Path, str]) -> Node:
    """The main file with the included ones merged over it, in the order of the list."""
    include = _sections(root).get("include")
    if include is None:
        return root
    for item in _included(include, findings):
        path = at.find_file(str(item.value))
        names.append(str(path))
        at.files.append(path)
        try:
            root = merge(root, _parse_included(path, item, instead.get(path)))
        except ConfigError as error:
            findings.add(error)
    return root


def _parse_included(path: Path, item: Node, text: str | None) -> Node:
    try:
        text = read_file(path) if text is None else text
    except ConfigError as error:
        message = f"{path} {error.message}"
        raise ConfigError(message, file=item.file, line=item.line, key="include.files") from None
    root = _parse(text, str(path))
    nested = _sections(root).get("include")
    if nested is not None:
        message = "only the main file may include others"
        raise ConfigError(message, file=nested.file, line=nested.line, key="include")
    return root


def _sections(root: Node) -> dict[str, Node]:
    # _parse has seen to it that a file is a table.
    return root.value if isinstance(root.value, dict) else {}


def _included(include: Node, findings: Findings) -> list[Node]:
    table = include.value
    if not isinstance(table, dict) or set(table) != {"files"}:
        findings.refuse(("include",), 'must be a table with the one key "files"', include)
        return []
    files = table["files"]
    if not isinstance(files.value, list):
        findings.refuse(("include", "files"), f"must be a list of paths, not {describe(files.value)}", files)
        return []
    wrong = [item for item in files.value if not isinstance(item.value, str) or not item.value]
    for item in wrong:
        findings.refuse(("include", "files"), f"must be a list of paths; {describe(item.value)} is none", item)
    return [item for item in files.value if item not in wrong]


def _list_users(root: Node) -> Node:
    """The tree with every `[pools.NAME.users.0]` turned into an item of a list.

    Done before merging, so that files of both shapes can be merged. Raises ConfigError.
    """
    sections = _sections(root)
    pools = sections.get("pools")
    if pools is None or not isinstance(pools.value, dict):
        return root
    changed = {name: _list_users_of(name, pool) for name, pool in pools.value.items()}
    return Node(sections | {"pools": Node(changed, pools.file, pools.line)}, root.file, root.line)


def _list_users_of(name: str, pool: Node) -> Node:
    if not isinstance(pool.value, dict) or "users" not in pool.value:
        return pool
    users = pool.value["users"]
    if not isinstance(users.value, dict):
        return pool
    for word, node in users.value.items():
        if not (word.isdecimal() and word.isascii()):
            message = f'"{word}" is not a number: users are a list, or tables with numbers for names'
            raise ConfigError(message, file=node.file, line=node.line, key=f"pools.{name}.users")
    items = [users.value[word] for word in sorted(users.value, key=int)]
    return Node(pool.value | {"users": Node(items, users.file, users.line)}, pool.file, pool.line)
