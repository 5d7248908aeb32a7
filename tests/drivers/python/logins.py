"""Logins of libpq (18, as psycopg's wheels bring it): reads connection strings, a line each, and prints for each of them who it
is there, or the refusal. TOKEN in the environment is what libpq's hook answers when a token is asked for.
"""

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

import psycopg

_BEARER_TOKEN = 1  # PQAUTHDATA_OAUTH_BEARER_TOKEN
_Hook = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class _Request(ctypes.Structure):
    """PGoauthBearerRequest of libpq-fe.h."""

    _fields_ = (
        ("openid_configuration", ctypes.c_char_p),
        ("scope", ctypes.c_char_p),
        ("go_on", ctypes.c_void_p),
        ("clean_up", ctypes.c_void_p),
        ("token", ctypes.c_char_p),
        ("user", ctypes.c_void_p),
    )


def answer_with(token: bytes) -> Any:
    """Set the hook. What is returned has to be kept as long as it may be called."""

    def give(kind: int, _connection: int | None, data: int | None) -> int:
        if kind != _BEARER_TOKEN:
            return 0
        ctypes.cast(data or 0, ctypes.POINTER(_Request)).contents.token = token
        return 1

    loaded = [line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/libpq" in line]
    hook = _Hook(give)
    ctypes.CDLL(loaded[0]).PQsetAuthDataHook(hook)
    return hook


def log_in(target: str) -> str:
    """One login."""
    try:
        with psycopg.connect(target) as connection:
            row = connection.execute("select current_user").fetchone()
            assert row is not None
            return f"in as {row[0]} by {connection.pgconn.full_protocol_version}"
    except psycopg.OperationalError as refused:
        return "refused: " + " ".join(str(refused).splitlines())


def main() -> None:
    """A line for each line."""
    if psycopg.pq.version() < 180000:
        sys.stdout.write("old\n")
        return
    token = os.environ.get("TOKEN", "")
    kept = answer_with(token.encode()) if token else None
    for target in sys.stdin.read().splitlines():
        sys.stdout.write(log_in(target) + "\n")
    del kept


if __name__ == "__main__":
    main()
