"""Whose query a cancel request means: (process id, secret) of every client that was given a key."""

import secrets
from dataclasses import dataclass, field
from hmac import compare_digest
from threading import Lock
from typing import Any


@dataclass(frozen=True, slots=True)
class CancelKey:
    """What a client was given in BackendKeyData. The secret has 4 bytes in protocol 3.0, 32 in 3.2."""

    process_id: int
    secret: bytes = field(repr=False)


class CancelKeys:
    """Keys of connected clients. Touched at login, logout and by cancel requests, never per query."""

    def __init__(self) -> None:
        self._lock = Lock()
        # Several clients may have one process id: real ones are those of several servers, and may be drawn by chance too.
        self._owners: dict[int, dict[bytes, Any]] = {}

    def issue(self, owner: Any, secret_length: int, process_id: int = 0) -> CancelKey:
        """A new key for `owner`. Unguessable: the secret comes from the system's generator. `process_id` is that of the
        backend, if the client has one for good; 0 draws one that nobody has."""
        drawn = secrets.token_bytes(secret_length + 4)  # one system call, and not under the lock
        secret = drawn[4:]
        number = process_id or int.from_bytes(drawn[:4]) & 0x7FFFFFFF
        with self._lock:
            while not process_id and (not number or number in self._owners):
                number = secrets.randbits(31)
            self._owners.setdefault(number, {})[secret] = owner
        return CancelKey(number, secret)

    def assign(self, key: CancelKey, owner: Any) -> None:
        """Give an issued key to another owner."""
        with self._lock:
            self._owners.setdefault(key.process_id, {})[key.secret] = owner

    def find(self, process_id: int, secret: bytes) -> Any | None:
        """The client that has this key, if there is one. The comparison takes the same time wherever it fails."""
        with self._lock:
            candidates = list(self._owners.get(process_id, {}).items())
        found = None
        for issued, owner in candidates:
            if compare_digest(issued, secret):
                found = owner
        return found

    def withdraw(self, key: CancelKey) -> None:
        """The client is gone."""
        with self._lock:
            of_process = self._owners.get(key.process_id, {})
            of_process.pop(key.secret, None)
            if not of_process:
                self._owners.pop(key.process_id, None)

    def __len__(self) -> int:
        return sum(map(len, self._owners.values()))
