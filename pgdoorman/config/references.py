"""Secrets that stand elsewhere: `${NAME}` for the environment, `file:/path` for a file.

Only keys that hold secrets may use them, and only as the whole value, so that a password with a dollar sign in it is
never taken for something else.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_FILE = "file:"

# More than any password or token; less than what somebody gets by pointing at a device or a log.
_LONGEST = 1024 * 1024


@dataclass(slots=True)
class Surroundings:
    """What a file refers to outside of itself: the environment, and other files, which are noted as they are read."""

    environment: Mapping[str, str]
    folder: Path
    files: list[Path] = field(default_factory=list)

    def find_file(self, text: str) -> Path:
        """A path in the configuration: absolute, else beside the main file, else in the working directory.

        Beside the file comes first because a daemon changes its working directory, and a reload must find what the
        start has found.
        """
        beside = self.folder / text
        return beside if beside.exists() or not Path(text).exists() else Path(text)

    def readable_file(self, text: str) -> Path:
        """A file that somebody else will read. Raises ValueError if nobody could."""
        path = self.find_file(text)
        try:
            with path.open("rb") as file:
                file.read(1)
        except OSError as error:
            raise ValueError(f"cannot read {path}: {error.strerror or error}") from None
        self.files.append(path)
        return path

    def read_file(self, text: str) -> tuple[str, Path]:
        """The text of a file that the configuration names, and its path. Raises ValueError with the reason."""
        path = self.find_file(text)
        try:
            with path.open("rb") as file:
                content = file.read(_LONGEST + 1)
            if len(content) > _LONGEST:
                raise ValueError(f"{path} is larger than {_LONGEST} bytes")
            self.files.append(path)
            return content.decode("utf-8-sig"), path
        except OSError as error:
            raise ValueError(f"cannot read {path}: {error.strerror or error}") from None
        except UnicodeDecodeError:
            raise ValueError(f"{path} is not UTF-8") from None

    def resolve_secret(self, text: str) -> str:
        """The secret that `text` means: itself, or what it refers to. Raises ValueError, which never holds a secret."""
        variable = _VARIABLE.fullmatch(text)
        if variable is not None:
            if variable[1] not in self.environment:
                raise ValueError(f"the environment variable {variable[1]} is not set")
            return self.environment[variable[1]]
        if text.startswith(_FILE):
            # One line end belongs to the file, as editors and `echo` write it, and not to the secret.
            return self.read_file(text.removeprefix(_FILE))[0].removesuffix("\n").removesuffix("\r")
        return text
