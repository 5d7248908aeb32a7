"""Makes sure that the program runs without the GIL.

cffi does not declare itself safe without it, so importing OpenSSL would switch the lock back on unless the interpreter
was told not to (`-X gil=0`). That can only be said at its start: where it was not, the program starts itself anew.
"""

import contextlib
import os
import sys
import sysconfig
from typing import Final

NO_ARENAS: Final = "MIMALLOC_ARENA_RESERVE"


def is_free_threaded() -> bool:
    """Whether this interpreter was built without the GIL (PEP 703)."""
    return bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def ensure_gil_off(arguments: list[str], *, serves: bool = False) -> None:
    """Replace this process by one with the GIL off for good, if that is needed and possible. Returns otherwise; on an
    interpreter that has a GIL the program runs too, slower, and says so.

    One that `serves` also has the allocator do without arenas, in which it would keep what was freed: a setting that, too,
    can only be made at the start of the interpreter. (A value of the owner's own is left alone.)
    """
    if not is_free_threaded():
        return
    environment = {NO_ARENAS: "0", **os.environ}
    if getattr(sys.flags, "gil", None) != 0 and os.environ.get("PYTHON_GIL") != "0":
        environment["PYTHON_GIL"] = "0"
        os.execve(sys.executable, [sys.executable, "-X", "gil=0", "-m", "pgdoorman", *arguments], environment)
    if serves and NO_ARENAS not in os.environ:
        with contextlib.suppress(OSError):  # more memory, that is all
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
