"""Functions of OpenSSL that pyOpenSSL does not pass on, looked up in the very library that it uses.

They are reached where cryptography was built against the system's OpenSSL (as the set-up does for Python 3.13). A wheel
has OpenSSL inside of it and shows nobody its functions: there `set_num_tickets` changes nothing, `set_groups` refuses, and
nobody reads ahead.
"""

import ctypes
from functools import cache
from typing import Any, Final

import cryptography.hazmat.bindings._rust as _bindings
from OpenSSL import SSL

_SET_GROUPS_LIST: Final = 92  # SSL_CTRL_SET_GROUPS_LIST of openssl/ssl.h


class Unreachable(Exception):
    """OpenSSL is there, but this function of it is not."""


@cache
def _library() -> tuple[Any, Any] | None:
    """SSL_CTX_set_num_tickets and SSL_CTX_ctrl, None if they are hidden."""
    try:
        # Loaded already, so this only adds a reference. A symbol is looked for in it and in what it is linked with, which
        # is where the SSL_CTX that we hand over comes from; never in another OpenSSL that the process may have.
        library = ctypes.CDLL(_bindings.__file__)
        set_num_tickets, control = library.SSL_CTX_set_num_tickets, library.SSL_CTX_ctrl
    except (OSError, AttributeError):
        return None
    set_num_tickets.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    set_num_tickets.restype = ctypes.c_int
    control.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_char_p]
    control.restype = ctypes.c_long
    return set_num_tickets, control


def reading_ahead() -> tuple[Any, Any] | None:
    """SSL_has_pending(ssl) and SSL_set_read_ahead(ssl, yes) for pyOpenSSL's own SSL objects, None if they are hidden. By cffi:
    a call is 100 ns, half of what it is by ctypes."""
    try:
        from OpenSSL._util import ffi  # noqa: PLC0415

        library = ctypes.CDLL(_bindings.__file__)
        has_pending, set_read_ahead = library.SSL_has_pending, library.SSL_set_read_ahead
        return (
            ffi.cast("int(*)(SSL *)", ctypes.cast(has_pending, ctypes.c_void_p).value),
            ffi.cast("void(*)(SSL *, int)", ctypes.cast(set_read_ahead, ctypes.c_void_p).value),
        )
    except (ImportError, OSError, AttributeError):
        return None


def _address(context: SSL.Context) -> int | None:
    try:
        from OpenSSL._util import ffi  # noqa: PLC0415

        return int(ffi.cast("uintptr_t", context._context))  # noqa: SLF001
    except (ImportError, AttributeError):
        return None  # a later pyOpenSSL may have moved them


def set_num_tickets(context: SSL.Context, number: int) -> bool:
    """How many tickets a server sends behind a handshake of TLS 1.3. False if that could not be set."""
    library, address = _library(), _address(context)
    return library is not None and address is not None and bool(library[0](address, number))


def set_groups(context: SSL.Context, names: str) -> bool:
    """Which groups (curves) a key may be agreed on with, best first, as in X25519:prime256v1. False if OpenSSL does not take
    the list. Raises Unreachable."""
    library, address = _library(), _address(context)
    if library is None or address is None:
        raise Unreachable
    taken = bool(library[1](address, _SET_GROUPS_LIST, 0, names.encode()))
    if not taken:
        _forget_errors()
    return taken


def _forget_errors() -> None:
    """What OpenSSL has noted of the failure would otherwise be told of the next call that fails on this thread."""
    from OpenSSL._util import lib  # noqa: PLC0415

    lib.ERR_clear_error()
