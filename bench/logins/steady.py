"""`python -m bench.logins.steady PORT RATE CLIENTS SECONDS`: queries at a steady rate; prints the milliseconds of each.

The rate is kept whatever the answers take, so that a delay is seen by every query that was due in it.
"""

import os
import sys
import time
from contextlib import suppress
from threading import Thread

from bench.macro.options import Address
from bench.macro.wire import Connection


def _run_first() -> None:
    """Be woken at once, however busy the CPUs are; otherwise our own delay would be measured. Only root may."""
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


def _ask(connection: Connection, first: float, apart: float, end: float, taken: list[float]) -> None:
    _run_first()
    due = first
    while due < end:
        wait = due - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        connection.run("select 1")
        taken.append((time.monotonic() - due) * 1000)
        due += apart


def main(port: int, rate: float, clients: int, seconds: float) -> None:
    """Ask `rate` times a second in all, `clients` in turn."""
    connections = [Connection(Address("127.0.0.1", port)) for _ in range(clients)]
    for connection in connections:
        connection.run("select 1")
    begin = time.monotonic() + 0.2
    taken: list[list[float]] = [[] for _ in connections]
    threads = [
        Thread(target=_ask, args=(connection, begin + number / rate, clients / rate, begin + seconds, taken[number]))
        for number, connection in enumerate(connections)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for connection in connections:
        connection.close()
    print("\n".join(f"{value:.3f}" for values in taken for value in values), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
