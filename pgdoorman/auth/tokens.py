"""What a token must look like, and the public keys by which it is judged (by `jwt`, which is imported for the first).

Keys come from a file or directory that its owner may change at any time; they are read again when it changed.
"""

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final

from pgdoorman.auth.oauth import issuer_name
from pgdoorman.errors import ConfigError, PgDoormanError

PUBLIC_KEY_PREFIX: Final = "jwt-pkey-fpath:"
"""A stored secret that begins so names the file of the key by which a client's token is judged."""
PRIVATE_KEY_PREFIX: Final = "jwt-priv-key-fpath:"
"""A server's password that begins so names the file of the key with which our tokens are signed."""

DEFAULT_CLAIM: Final = "preferred_username"
LEEWAY: Final = 0.0
"""Seconds by which clocks may differ."""


class TokenRefused(PgDoormanError):
    """A token that proves nothing. The message is for the log: it says what was wrong, and never shows the token."""

    sqlstate: ClassVar[str] = "28P01"


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What a token must look like. `keys` is the path of a PEM file (public key or certificate), of a JWKS file, or of
    a directory of PEM files called by their key id. With `audiences` or `issuer` the token must name one of them, and
    it must have all of `scopes`."""

    keys: str
    claim: str = DEFAULT_CLAIM
    audiences: tuple[str, ...] = ()
    issuer: str = ""
    scopes: tuple[str, ...] = ()
    leeway: float = LEEWAY

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> "TokenRules":
        """From the options of an HBA line. `key` and `jwks` mean the same: the file shows what it is."""
        audiences = tuple(options.get("audience", "").replace(",", " ").split())
        return cls(
            options.get("key") or options.get("jwks", ""),
            options.get("claim") or DEFAULT_CLAIM,
            audiences,
            issuer_name(options.get("issuer", "")),
            tuple(options.get("scope", "").split()),
        )


TALOS_USER: Final = "talos"
"""Who logs in under this name becomes the role that its token grants, where Talos is set up."""


@dataclass(frozen=True, slots=True)
class TalosRules:
    """Which keys may sign role tokens (paths of PEM files whose stems are the key ids), and under which names a token may
    speak of each database that clients ask for."""

    keys: tuple[str, ...]
    names: Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class TalosGrant:
    """What a role token grants."""

    role: str
    client_id: str


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key and the algorithms that go with it. `key_id` is "" for a key without one."""

    key_id: str
    algorithms: tuple[str, ...]
    key: Any = field(repr=False)


class TokenKeys:
    """The public keys of every path that was asked for, read anew when files change. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read: dict[str, tuple[object, tuple[PublicKey, ...]]] = {}

    def at(self, path: str, load: Callable[[str], tuple[PublicKey, ...]]) -> tuple[PublicKey, ...]:
        """The keys at a path, read by `load` if they changed. Raises ConfigError; but while what was changed cannot be
        read, the old keys stand."""
        stamp = _stamp(path)
        with self._lock:
            known = self._read.get(path)
        if known is not None and known[0] == stamp:
            return known[1]
        try:
            keys = load(path)
        except ConfigError:
            if known is None:
                raise
            return known[1]
        with self._lock:
            self._read[path] = (stamp, keys)
        return keys


def _stamp(path: str) -> object:
    """Something that differs when the files at a path do."""
    try:
        own = os.stat(path)
        if not Path(path).is_dir():
            return own.st_mtime_ns, own.st_size, own.st_ino
        entries = sorted((entry.name, entry.stat().st_mtime_ns, entry.stat().st_size) for entry in os.scandir(path))
    except OSError:
        return None
    return own.st_mtime_ns, tuple(entries)
