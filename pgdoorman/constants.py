"""Global names of hot functions, bound once.

Free-threaded CPython 3.13 does not specialise bytecode once a second thread runs: each use of a global name is one or two
look-ups in dictionaries that other threads might be changing, some 30 ns, and a query passes nearly a hundred of them.
`bind_constants` turns those into constants of the function. 3.14 specialises again, and is left alone.
"""

import builtins
import dis
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType
from typing import Final

_APPLIES: Final = (
    sys.implementation.name == "cpython"
    # Earlier ones crash on constants of types that the compiler does not make (3.13.3 mended that).
    and (3, 13, 3) <= sys.version_info < (3, 14)
    and bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
)

_ASSIGNING: Final = (dis.opmap["DELETE_GLOBAL"], dis.opmap["STORE_GLOBAL"])
_EXTENDED_ARG: Final = dis.opmap["EXTENDED_ARG"]
_JUMP_FORWARD: Final = dis.opmap["JUMP_FORWARD"]
_LOAD_CONST: Final = dis.opmap["LOAD_CONST"]
_LOAD_GLOBAL: Final = dis.opmap["LOAD_GLOBAL"]
_NOP: Final = dis.opmap["NOP"]
_PUSH_NULL: Final = dis.opmap["PUSH_NULL"]

_UNITS: Final = 5  # code units of a LOAD_GLOBAL: itself and its cache, the room for what takes its place


def bind_constants(module_name: str) -> None:
    """Make every global or builtin name that the functions of a module use, and that exists by now, a constant of theirs.

    For the last line of a module, called with `__name__`. What is assigned to such a name later, by a test say, is not seen
    by them; names that a function declares `global` stay as they are, and so do those of values that cannot be hashed. The
    code keeps its length, so that jumps, line numbers and exception tables stay true.
    """
    if not _APPLIES:
        return
    names = vars(sys.modules[module_name])
    functions = list(_functions_of(names, module_name))
    assigned = {name for function in functions for name in _assigned_globals(function.__code__)}
    known = {name: value for name, value in {**vars(builtins), **names}.items() if name not in assigned}
    known = {name: value for name, value in known.items() if _is_hashable(value)}
    for function in functions:
        function.__code__ = _bound(function.__code__, known)


def _functions_of(names: Mapping[str, object], module_name: str) -> Iterator[FunctionType]:
    """The functions of a module, and the methods of its classes."""
    for value in list(names.values()):
        if getattr(value, "__module__", None) != module_name:
            continue
        if isinstance(value, FunctionType):
            yield value
        elif isinstance(value, type):
            yield from _functions_of(vars(value), module_name)


def _assigned_globals(code: CodeType) -> Iterator[str]:
    """Read from the bytecode itself: what `dis` tells about each instruction costs a fifth of the program's start."""
    raw = code.co_code
    extended = 0
    for operation, argument in zip(raw[::2], raw[1::2], strict=True):
        argument |= extended << 8  # noqa: PLW2901 - as the interpreter does
        extended = argument if operation == _EXTENDED_ARG else 0
        if operation in _ASSIGNING:
            yield code.co_names[argument]
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _assigned_globals(constant)


def _is_hashable(value: object) -> bool:
    try:
        hash(value)  # as the interpreter does with constants
    except TypeError:
        return False
    return True


def _bound(code: CodeType, known: Mapping[str, object]) -> CodeType:
    """The same code with constants for the names that are known."""
    constants = list(code.co_consts)
    raw = bytearray(code.co_code)
    position = extended = 0
    while position < len(raw):
        operation = raw[position]
        argument = extended << 8 | raw[position + 1]
        extended = argument if operation == _EXTENDED_ARG else 0
        if operation == _LOAD_GLOBAL and code.co_names[argument >> 1] in known:
            if argument > 255:
                raw[position - 2 : position] = bytes((_NOP, 0))
            raw[position : position + 2 * _UNITS] = _loading(len(constants), null=bool(argument & 1))
            constants.append(known[code.co_names[argument >> 1]])
            position += 2 * _UNITS
        else:
            position += 2
    return code.replace(co_code=bytes(raw), co_consts=tuple(constants))


def _loading(index: int, *, null: bool) -> bytes:
    """The constant, and below a call the NULL that it wants above its callable; padded to the size of a LOAD_GLOBAL. The
    padding is jumped over: each NOP would cost a dispatch of its own."""
    units = [(_EXTENDED_ARG, index >> 8)] if index > 255 else []
    units.append((_LOAD_CONST, index & 255))
    if null:
        units.append((_PUSH_NULL, 0))
    padding = _UNITS - len(units)
    if padding > 1:
        units.append((_JUMP_FORWARD, padding - 1))
        padding -= 1
    units += [(_NOP, 0)] * padding
    return bytes(byte for unit in units for byte in unit)
