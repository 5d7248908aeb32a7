"""A PAM service of the tests' own, judged by a shell script.

    with pam_service(folder, script) as name: ...     # name is that of the service

The script finds the password on its standard input, and PAM_USER, PAM_RHOST and others in its environment; it lets in by ending
with 0. `MISSING` says why there can be no service here, "" if there can.
"""

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pgdoorman.auth.pam import is_installed

SERVICES: Final = Path("/etc/pam.d")


def _missing() -> str:
    if os.geteuid() != 0 or not SERVICES.is_dir() or not is_installed():
        return "a PAM service can only be described by root"
    if not any(Path("/").glob("lib/*/security/pam_exec.so")):
        return "no pam_exec here"
    return ""


MISSING: Final = _missing()

_numbers = itertools.count()


@contextlib.contextmanager
def pam_service(folder: Path, script: str) -> Iterator[str]:
    """Described until the end of the block. The folder is made readable for everybody, as PAM's child may be anybody."""
    name = f"doorman-test-{os.getpid()}-{next(_numbers)}"
    judge = folder / f"judge-{name}"
    judge.write_text(script)
    judge.chmod(0o755)
    folder.chmod(0o755)
    described = SERVICES / name
    described.write_text(f"auth required pam_exec.so quiet expose_authtok {judge}\naccount required pam_permit.so\n")
    try:
        yield name
    finally:
        described.unlink()
