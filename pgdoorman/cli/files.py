"""Writing a file so that whoever reads it sees the old one or the new one, and never a part."""

import contextlib
import os
import secrets
from pathlib import Path


def create_file(path: Path, text: str) -> None:
    """A new file that only we may read: it may hold passwords. Raises FileExistsError, and OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(text.encode())


def replace_file(path: Path, content: bytes, before: bytes | None = None) -> None:
    """Put other content in the place of a file, with the mode, the owner and the extended attributes that it has; through a
    symbolic link, the file that it leads to.

    `before` is what the file must still hold. Raises OSError; then the file is as it was.
    """
    path = path.resolve()
    old = path.stat()
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(descriptor, old.st_uid, old.st_gid)
            _copy_attributes(path, descriptor)
            os.fchmod(descriptor, old.st_mode & 0o7777)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        _check_unchanged(path, before)
        new.rename(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def _copy_attributes(path: Path, descriptor: int) -> None:
    with contextlib.suppress(OSError):  # a file system without them
        for name in os.listxattr(path):
            with contextlib.suppress(OSError):  # security labels, which the system sets by itself
                os.setxattr(descriptor, name, os.getxattr(path, name))


def _check_unchanged(path: Path, before: bytes | None) -> None:
    if before is not None and path.read_bytes() != before:
        raise OSError(0, "somebody else has changed it meanwhile")
