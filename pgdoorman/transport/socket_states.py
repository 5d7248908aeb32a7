"""In which states this process's sockets are, as the kernel tells it in /proc (Linux)."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

# By the kernel's numbers (include/net/tcp_states.h), which begin with 1.
TCP_STATES: Final = (
    "established",
    "syn_sent",
    "syn_recv",
    "fin_wait1",
    "fin_wait2",
    "time_wait",
    "close",
    "close_wait",
    "last_ack",
    "listen",
    "closing",
    "new_syn_recv",
    "bound_inactive",
)
# By the kernel's numbers (include/uapi/linux/net.h), which begin with 0; of stream sockets only.
UNIX_STATES: Final = ("free", "unconnected", "connecting", "connected", "disconnecting")
_UNIX_DATAGRAM: Final = 2
_UNIX_PACKETS: Final = 5

COUNTS: Final = (
    *(f"tcp_{state}" for state in TCP_STATES),
    *(f"tcp6_{state}" for state in TCP_STATES),
    *(f"unix_{state}" for state in UNIX_STATES),
    "unix_dgram",
    "unix_seq_packet",
    "unknown",
)


def count_sockets(proc: Path = Path("/proc/self")) -> Mapping[str, int]:
    """How many sockets of the process are in which state, by the names of `COUNTS`. What is in no table of the kernel's
    (a TCP socket that is not connected yet, other kinds) is `unknown`.

    Reads one line for each socket of the network namespace, and one link for each open descriptor: some milliseconds
    with a thousand of each. Raises OSError where /proc does not tell.
    """
    own = set(_inodes(proc / "fd"))
    counts = Counter(name for inode, name in _known(proc / "net") if inode in own)
    counts["unknown"] += max(0, len(own) - counts.total())  # not below 0: some may have come since
    return counts


def _inodes(folder: Path) -> Iterator[str]:
    for entry in os.scandir(folder):
        try:
            target = os.readlink(entry)
        except OSError:
            continue  # closed meanwhile
        if target.startswith("socket:["):
            yield target[8:-1]


def _known(folder: Path) -> Iterator[tuple[str, str]]:
    """Inodes and states. A table that is missing (no IPv6) has no sockets in it."""
    for table in ("tcp", "tcp6"):
        for fields in _lines(folder / table):
            state = int(fields[3], 16)
            yield fields[9], f"{table}_{TCP_STATES[state - 1]}" if 0 < state <= len(TCP_STATES) else "unknown"
    for fields in _lines(folder / "unix"):
        yield fields[6], _unix_state(int(fields[4], 16), int(fields[5], 16))


def _lines(path: Path) -> Iterator[list[str]]:
    try:
        with path.open(encoding="utf-8", errors="replace") as table:
            next(table, "")
            for line in table:
                yield line.split(maxsplit=10)
    except FileNotFoundError:
        return


def _unix_state(kind: int, state: int) -> str:
    if kind == _UNIX_DATAGRAM:
        return "unix_dgram"
    if kind == _UNIX_PACKETS:
        return "unix_seq_packet"
    return f"unix_{UNIX_STATES[state]}" if state < len(UNIX_STATES) else "unknown"
