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
        self._owners: dict[int, tuple[bytes, Any]] = {}

    def issue(self, owner: Any, secret_length: int) -> CancelKey:
        """A new key for `owner`. Unguessable: the secret comes from the system's generator, and the process id, which is
        no secret, is random too. (It is never a real one: a client of session pooling gets its backend at its first
        query, long after it was told its key.)"""
        secret = secrets.token_bytes(secret_length)
        process_id = 0
        with self._lock:
            while not process_id or process_id in self._owners:
                process_id = secrets.randbelow(0x7FFFFFFE) + 1
            self._owners[process_id] = (secret, owner)
        return CancelKey(process_id, secret)

    def assign(self, key: CancelKey, owner: Any) -> None:
        """Give an issued key to another owner."""
        with self._lock:
            self._owners[key.process_id] = (key.secret, owner)

    def find(self, process_id: int, secret: bytes) -> Any | None:
        """The client that has this key, if there is one. The comparison takes the same time wherever it fails."""
        with self._lock:
            found = self._owners.get(process_id)
        if found is None or not compare_digest(found[0], secret):
            return None
        return found[1]

    def withdraw(self, key: CancelKey) -> None:
        """The client is gone."""
        with self._lock:
            self._owners.pop(key.process_id, None)

    def __len__(self) -> int:
        return len(self._owners)
