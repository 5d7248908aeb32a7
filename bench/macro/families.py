"""What can be measured, by name."""

from dataclasses import dataclass
from enum import Enum, auto


class Kind(Enum):
    """How a family is measured."""

    PGBENCH = auto()
    RATIO = auto()
    IDLE = auto()
    STREAM = auto()


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of load. `protocol` and `reconnect` are pgbench's -M and -C."""

    name: str
    kind: Kind
    meaning: str
    protocol: str = "simple"
    reconnect: bool = False
    tls: bool = False


FAMILIES = {
    family.name: family
    for family in (
        Family("simple", Kind.PGBENCH, "simple queries"),
        Family("extended", Kind.PGBENCH, "unnamed extended queries", protocol="extended"),
        Family("prepared", Kind.PGBENCH, "named prepared statements", protocol="prepared"),
        Family("reconnect", Kind.PGBENCH, "a new connection for every query", reconnect=True),
        Family("tls", Kind.PGBENCH, "simple queries over TLS", tls=True),
        Family("tls-extended", Kind.PGBENCH, "unnamed extended queries over TLS", protocol="extended", tls=True),
        Family("tls-prepared", Kind.PGBENCH, "named prepared statements over TLS", protocol="prepared", tls=True),
        Family("tls-reconnect", Kind.PGBENCH, "a new TLS connection for every query", reconnect=True, tls=True),
        Family("ratio", Kind.RATIO, "throughput and tail from few to very many clients per backend"),
        Family("idle-memory", Kind.IDLE, "resident memory per logged-in idle client"),
        Family("idle-memory-tls", Kind.IDLE, "resident memory per logged-in idle TLS client", tls=True),
        Family("rows", Kind.STREAM, "large results of many 100-byte rows"),
        Family("wide-rows", Kind.STREAM, "large results of few 50 kB rows"),
        Family("copy-out", Kind.STREAM, "COPY ... TO STDOUT"),
        Family("copy-in", Kind.STREAM, "COPY ... FROM STDIN"),
    )
}

RATIO_STEPS = (0.5, 1.0, 1.1, 2.0, 10.0, 100.0)
"""Clients per backend of the ratio family. The two below 1.1 are there so that a peak without waiting is seen."""
