"""Names bound as constants: the functions do what they did."""

import dis
import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

import pgdoorman
from pgdoorman import constants

SOURCE = (
    """
import math
TABLE = {"a": 1}
LIMIT = 3
counter = 0

def area(radius):
    return math.pi * pow(radius, 2)

def look(key):
    return TABLE[key] if key in TABLE else LIMIT

def count():
    global counter
    counter += 1
    return counter

def late():
    return defined_later()

def raises(value):
    try:
        return int(value)
    except ValueError as error:
        return str(error)
    finally:
        count()

def squares(number):
    for index in range(number):
        if index % LIMIT == 0:
            yield index * index

def nested(number):
    return sorted((LIMIT - each for each in range(number)), key=lambda each: abs(each - LIMIT))

class Thing:
    def double(self, value):
        return max(value, LIMIT) * 2

    @staticmethod
    def aside():
        return LIMIT

    @property
    def limit(self):
        return LIMIT

"""
    + "\n".join(f"NAME{number} = {number}.5" for number in range(300))
    + """

def many():
    return """
    + " + ".join(f"NAME{number}" for number in range(300))
    + """

def many_calls():
    return sum(["""
    + ", ".join(f"float(NAME{number})" for number in range(300))
    + """])
"""
)


def made(*, bound: bool) -> ModuleType:
    name = f"constants_{'bound' if bound else 'plain'}"
    module = ModuleType(name)
    sys.modules[name] = module
    exec(compile(SOURCE, name, "exec"), vars(module))
    if bound:
        constants.bind_constants(name)
    vars(module)["defined_later"] = lambda: "later"
    return module


@pytest.fixture
def modules() -> Iterator[tuple[ModuleType, ModuleType]]:
    pair = made(bound=False), made(bound=True)
    yield pair
    for module in pair:
        del sys.modules[module.__name__]


def test_they_do_what_they_did(modules: tuple[ModuleType, ModuleType]) -> None:
    plain, bound = modules
    for module in modules:
        assert module.area(2) == 4 * 3.141592653589793
        assert (module.look("a"), module.look("b")) == (1, 3)
        assert (module.count(), module.count()) == (1, 2)
        assert module.late() == "later"
        assert module.raises("7") == 7
        assert module.counter == 3
        assert list(module.squares(10)) == [0, 9, 36, 81]
        assert module.Thing().double(1) == 6
        assert module.Thing.aside() == module.Thing().limit == 3
    assert bound.raises("x") == plain.raises("x")
    assert bound.nested(9) == plain.nested(9)
    assert bound.many() == plain.many() == sum(number + 0.5 for number in range(300))
    assert bound.many_calls() == plain.many_calls() == bound.many()


def test_lines_in_tracebacks_stay_true(modules: tuple[ModuleType, ModuleType]) -> None:
    lines = []
    for module in modules:
        with pytest.raises(TypeError) as caught:
            module.area("wide")
        lines.append(caught.traceback[-1].lineno)
    assert lines[0] == lines[1]


def globals_left(function: FunctionType) -> set[str]:
    return {step.argval for step in dis.get_instructions(function) if step.opname == "LOAD_GLOBAL"}


def test_what_stays_a_name(modules: tuple[ModuleType, ModuleType]) -> None:
    """What cannot be hashed, what is assigned, and what was not there yet."""
    bound = modules[1]
    if not constants._APPLIES:
        assert globals_left(bound.area) == {"math", "pow"}
        return
    assert globals_left(bound.area) == set()
    assert globals_left(bound.look) == {"TABLE"}
    assert globals_left(bound.count) == {"counter"}
    assert globals_left(bound.late) == {"defined_later"}
    assert globals_left(bound.many) == set()
    assert globals_left(bound.Thing.double) == set()


def test_nobody_assigns_to_what_our_modules_have_bound() -> None:
    """A name that another module, or a function, binds anew would not be seen by the functions of its own module."""
    root = Path(inspect.getfile(pgdoorman)).parent
    bound = [path for path in root.rglob("*.py") if "\nbind_constants(__name__)" in path.read_text()]
    assert len(bound) > 5
    here = Path(__file__)
    others = [*root.rglob("*.py"), *(path for path in here.parents[1].rglob("*.py") if path != here)]
    everything = "\n".join(path.read_text() for path in others)
    for path in bound:
        name = ".".join(("pgdoorman", *path.relative_to(root).with_suffix("").parts))
        importlib.import_module(name)
        assert "\n    global " not in path.read_text(), f"{name} binds a global name anew"
        short = path.stem
        assert f"setattr({short}," not in everything
