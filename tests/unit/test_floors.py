"""Imports go down the floors: which room may know which, checked over every import in the package.

In-function imports, imports under TYPE_CHECKING and `import_module("...")` count like any other: a room that hides what
it knows still knows it. Rooms of one floor are strangers to each other. A room that does not exist yet is no error; a
room that the table does not know is.
"""

import ast
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "pgdoorman"

FLOORS = (
    {"pgdoorman", "errors", "stats"},  # "pgdoorman" is the package's own __init__: its version
    {"protocol", "runtime", "config", "control", "logs"},
    {"transport", "auth", "prepared", "web"},
    {"backend", "patroni_proxy"},
    {"pool"},
    {"client"},
    {"admin", "upgrade"},
    {"doorman"},
    {"cli"},
    {"__main__"},
)
# The ground below all floors: what mends the interpreter for us, and knows nothing of ours.
GROUND = {"constants": -1}
FLOOR_OF = GROUND | {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

# Narrower than the floors: all that these may import of ours, beside their own room.
ONLY = {
    "stats": set[str](),
    "protocol": {"errors"},
    "config": {"errors"},
    "auth": {"errors", "protocol"},
}
# The pool's decisions are pure: the ledger and what it is made of know each other, the errors and nothing else of ours.
DECISIONS = {f"pgdoorman.pool.{name}" for name in ("ledger", "errands", "waiting_line", "patient_lock")}
DECISIONS_MAY_IMPORT = {"pgdoorman.errors", *DECISIONS}
# Libraries that one place wraps for all others.
WRAPPED = {"selectors2": "pgdoorman.runtime.poller", "OpenSSL": "pgdoorman.transport"}


@dataclass(frozen=True, slots=True)
class Import:
    importer: str
    imported: str
    place: str

    def __str__(self) -> str:
        return f"{self.place}: {self.importer} imports {self.imported}"


def _room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def _module_files(package: Path) -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for file in sorted(package.rglob("*.py")):
        parts = [package.name, *file.relative_to(package).with_suffix("").parts]
        if parts[-1] == "__init__":
            parts.pop()
        found[".".join(parts)] = file
    return found


def _targets(node: ast.AST, module: str, is_package: bool, modules: Iterable[str]) -> Iterator[str]:
    """The modules that one node of the syntax tree imports."""
    match node:
        case ast.Import(names=names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(module=origin, names=names, level=level):
            if level:
                parents = module.split(".")[: None if is_package and level == 1 else -(level - is_package)]
                origin = ".".join([*parents, *([origin] if origin else [])])
            for alias in names:
                submodule = f"{origin}.{alias.name}"
                yield submodule if submodule in modules else str(origin)
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[ast.Constant(value=str(target)), *_]):
            if name in {"import_module", "__import__"}:
                yield target


def imports_of(package: Path) -> list[Import]:
    """Every import in the package, also of other packages, in the order of the files."""
    modules = _module_files(package)
    found = []
    for module, file in modules.items():
        for node in ast.walk(ast.parse(file.read_text(), str(file))):
            for target in _targets(node, module, file.name == "__init__.py", modules):
                place = f"{file.relative_to(package.parent)}:{getattr(node, 'lineno', 0)}"
                found.append(Import(module, target, place))
    return found


def unknown_rooms(package: Path) -> set[str]:
    """Rooms that hold code and have no floor."""
    return {_room(module) for module in _module_files(package)} - FLOOR_OF.keys()


def _is_ours(edge: Import) -> bool:
    return edge.imported.split(".")[0] == edge.importer.split(".")[0]


def wrong_floors(edges: Iterable[Import]) -> list[str]:
    """Imports that go up, or from one room to another of the same floor."""
    complaints = []
    for edge in filter(_is_ours, edges):
        here, there = _room(edge.importer), _room(edge.imported)
        if here == there or not {here, there} <= FLOOR_OF.keys():
            continue
        if FLOOR_OF[there] >= FLOOR_OF[here]:
            way = "up" if FLOOR_OF[there] > FLOOR_OF[here] else "across"
            complaints.append(f"{edge} ({way}: floor {FLOOR_OF[here]} to floor {FLOOR_OF[there]})")
    return complaints


def wrong_neighbours(edges: Iterable[Import]) -> list[str]:
    """Imports that the floors allow and the narrower rules do not."""
    complaints = []
    for edge in edges:
        here, there = _room(edge.importer), _room(edge.imported)
        library = edge.imported.split(".")[0]
        if library in WRAPPED:
            wrong = not f"{edge.importer}.".startswith(f"{WRAPPED[library]}.")
        elif not _is_ours(edge) or there in GROUND:
            wrong = False
        elif edge.importer in DECISIONS:
            wrong = edge.imported not in DECISIONS_MAY_IMPORT
        else:
            wrong = here in ONLY and there != here and there not in ONLY[here]
        if wrong:
            complaints.append(str(edge))
    return complaints


def cycle(edges: Iterable[Import]) -> list[str]:
    """The rooms of one cycle of imports between rooms; empty if there is none."""
    graph: dict[str, set[str]] = defaultdict(set)
    for edge in filter(_is_ours, edges):
        if _room(edge.importer) != _room(edge.imported):
            graph[_room(edge.importer)].add(_room(edge.imported))
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        rooms: list[str] = error.args[1]
        return rooms
    return []


# --- the house itself


@pytest.fixture(scope="module")
def edges() -> list[Import]:
    return imports_of(PACKAGE)


def test_every_room_has_a_floor() -> None:
    assert unknown_rooms(PACKAGE) == set()


def test_imports_go_down(edges: list[Import]) -> None:
    assert wrong_floors(edges) == []


def test_rooms_have_no_cycle(edges: list[Import]) -> None:
    assert cycle(edges) == []


def test_narrow_rooms_stay_narrow(edges: list[Import]) -> None:
    assert wrong_neighbours(edges) == []


# --- the test's own eyes: each way to write an import is seen, in a small house of its own


def _build(root: Path, files: dict[str, str]) -> Path:
    package = root / "pgdoorman"
    for name, text in {"__init__.py": "", **files}.items():
        file = package / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
    return package


@pytest.mark.parametrize(
    "text",
    [
        "import pgdoorman.client.session",
        "import pgdoorman.client.session as s",
        "from pgdoorman.client import session",
        "from pgdoorman.client.session import Session",
        "from pgdoorman import client",
        "from ..client import session",
        "from ..client.session import Session",
        "from .. import client",
        "def f():\n    from pgdoorman.client import session",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pgdoorman.client",
        "try:\n    import pgdoorman.client\nexcept ImportError:\n    pass",
        "import importlib\nimportlib.import_module('pgdoorman.client')",
        "__import__('pgdoorman.client')",
    ],
)
def test_sees_an_upward_import(tmp_path: Path, text: str) -> None:
    house = _build(
        tmp_path, {"pool/__init__.py": "", "pool/pool.py": text, "client/__init__.py": "", "client/session.py": ""}
    )
    complaints = wrong_floors(imports_of(house))
    assert len(complaints) == 1
    assert "pgdoorman/pool/pool.py:" in complaints[0]
    assert "(up: floor 4 to floor 5)" in complaints[0]


def test_sees_a_relative_import_of_a_room_itself(tmp_path: Path) -> None:
    house = _build(tmp_path, {"pool/__init__.py": "from ..client import session", "client/__init__.py": ""})
    assert len(wrong_floors(imports_of(house))) == 1


def test_strangers_are_strangers(tmp_path: Path) -> None:
    house = _build(tmp_path, {"auth/scram.py": "from pgdoorman.transport import tls", "transport/tls.py": ""})
    assert "(across: floor 2 to floor 2)" in wrong_floors(imports_of(house))[0]


def test_downward_and_inner_imports_pass(tmp_path: Path) -> None:
    files = {
        "pool/pool.py": "from pgdoorman.pool import ledger\nfrom . import errands\nimport pgdoorman.errors",
        "pool/ledger.py": "from pgdoorman.pool.errands import Errands",
        "pool/errands.py": "import os",
        "errors.py": "from pgdoorman import __version__",
    }
    edges = imports_of(_build(tmp_path, files))
    # Floor 0 may not even ask for the version, which stands in the package's own __init__.
    assert [complaint.split(":")[0] for complaint in wrong_floors(edges)] == ["pgdoorman/errors.py"]
    assert wrong_neighbours(edges) == []
    assert cycle(edges) == []


def test_sees_an_unknown_room_and_no_missing_one(tmp_path: Path) -> None:
    assert unknown_rooms(_build(tmp_path, {"cellar/wine.py": "", "attic.py": "", "pool/pool.py": ""})) == {
        "cellar",
        "attic",
    }


def test_sees_a_cycle(tmp_path: Path) -> None:
    files = {"pool/a.py": "import pgdoorman.backend.b", "backend/b.py": "def f():\n    import pgdoorman.pool.a"}
    assert set(cycle(imports_of(_build(tmp_path, files)))) == {"pool", "backend"}


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("stats/rows.py", "import pgdoorman.errors"),
        ("auth/scram.py", "from pgdoorman.config import settings"),
        ("pool/ledger.py", "from pgdoorman.pool import pool"),
        ("pool/waiting_line.py", "from pgdoorman.config import settings"),
        ("client/session.py", "import selectors2"),
        ("runtime/worker.py", "from selectors2 import EpollSelector"),
        ("backend/connection.py", "from OpenSSL import SSL"),
    ],
)
def test_sees_a_wrong_neighbour(tmp_path: Path, file: str, text: str) -> None:
    files = {"config/settings.py": "", "pool/pool.py": "", "errors.py": "", file: text}
    assert len(wrong_neighbours(imports_of(_build(tmp_path, files)))) == 1
