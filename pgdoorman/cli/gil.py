"""Makes sure that the program runs without the GIL.

cffi does not declare itself safe without it, so importing OpenSSL would switch the lock back on unless the interpreter
was told not to (`-X gil=0`). That can only be said at its start: where it was not, the program starts itself anew.
"""

import os
import sys
import sysconfig


def is_free_threaded() -> bool:
    """Whether this interpreter was built without the GIL (PEP 703)."""
    return bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def ensure_gil_off(arguments: list[str]) -> None:
    """Replace this process by one with the GIL off for good, if that is needed and possible. Returns otherwise; on an
    interpreter that has a GIL the program runs too, slower, and says so."""
    if not is_free_threaded() or getattr(sys.flags, "gil", None) == 0 or os.environ.get("PYTHON_GIL") == "0":
        return
    environment = {**os.environ, "PYTHON_GIL": "0"}
    os.execve(sys.executable, [sys.executable, "-X", "gil=0", "-m", "pgdoorman", *arguments], environment)
