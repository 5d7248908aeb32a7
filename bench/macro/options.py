"""The command line of `python -m bench.macro`."""

import argparse
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bench.macro.families import FAMILIES, Family, Kind


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """HOST:PORT. Raises ValueError."""
        host, colon, port = text.rpartition(":")
        if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError(f"{text!r} is not HOST:PORT")
        return cls(host, int(port))


@dataclass(frozen=True, slots=True)
class Peer:
    """A running pooler that somebody else started and stops. Without a pid there are no CPU and memory figures."""

    name: str
    address: Address
    pid: int | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """NAME=HOST:PORT[:PID]. Raises ValueError."""
        name, equals, place = text.partition("=")
        if not equals or not name:
            raise ValueError(f"{text!r} is not NAME=HOST:PORT[:PID]")
        parts = place.split(":")
        if len(parts) == 3 and parts[2].isdecimal():
            return cls(name, Address.parse(":".join(parts[:2])), int(parts[2]))
        return cls(name, Address.parse(place), None)


@dataclass(frozen=True, slots=True)
class Options:
    """Everything the operator may choose. `seconds` is the length of one run; `cpus` the CPUs that all processes share,
    empty for all."""

    clients: tuple[int, ...]
    families: tuple[Family, ...]
    pool: int
    rounds: int
    seconds: int
    peers: tuple[Peer, ...]
    direct: bool
    doorman: bool
    doorman_options: tuple[str, ...]
    pgbouncer: str | None
    workers: int
    cpus: int
    idle_clients: int
    ratio_pool: int
    streams: int
    server: Peer | None
    postgres_port: int
    patience: int
    json: Path | None

    @property
    def most_clients(self) -> int:
        """The largest number of clients that any chosen family connects."""
        most = max(self.clients)
        for family in self.families:
            if family.kind is Kind.RATIO:
                most = max(most, self.ratio_pool * 100)
            elif family.kind is Kind.IDLE:
                most = max(most, self.idle_clients)
        return most


def _numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(int(part) for part in text.split(","))
    if min(numbers) < 1:
        raise ValueError(text)
    return numbers


def _families(text: str) -> tuple[Family, ...]:
    unknown = [name for name in text.split(",") if name not in FAMILIES]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(FAMILIES)}")
    return tuple(FAMILIES[name] for name in text.split(","))


def _server(text: str) -> Peer:
    return Peer.parse(f"postgres={text}")


def _parser() -> argparse.ArgumentParser:
    known = "\n".join(f"  {family.name:16} {family.meaning}" for family in FAMILIES.values())
    parser = argparse.ArgumentParser(
        prog="python -m bench.macro",
        description="Measure poolers side by side, in alternating rounds, on one PostgreSQL.",
        epilog=f"families:\n{known}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--clients", type=_numbers, default=(40, 500), metavar="N,N", help="client counts (default 40,500)")
    add("--families", type=_families, default=_families("simple,extended,prepared,reconnect"), metavar="NAME,NAME")
    add("--pool", type=int, default=40, help="backends per pooler (default 40)")
    add("--rounds", type=int, default=2, help="rounds per family and count (default 2)")
    add("--seconds", type=int, default=5, help="length of one run, at least 3 (default 5)")
    add("--peer", type=Peer.parse, action="append", default=[], metavar="NAME=HOST:PORT[:PID]", dest="peers")
    add("--direct", action="store_true", help="measure PostgreSQL without a pooler, too")
    add("--no-doorman", action="store_false", dest="doorman", help="leave pgdoorman out")
    add(
        "--doorman-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="doorman_options",
        help="one more line for pgdoorman's [general], in TOML",
    )
    add(
        "--pgbouncer",
        default=shutil.which("pgbouncer"),
        metavar="PATH",
        help="the PgBouncer to compare with; '' for none (default: the one on PATH)",
    )
    add("--workers", type=int, default=2, help="pgdoorman's worker_threads (default 2)")
    add("--patience", type=int, default=0, metavar="N", help="repeat a disturbed run up to N times (default 0)")
    add("--cpus", type=int, default=2, help="CPUs for everything together, 0 for all (default 2)")
    add("--idle-clients", type=int, default=1000, help="clients of the idle-memory families (default 1000)")
    add("--ratio-pool", type=int, default=20, help="backends of the ratio family (default 20)")
    add("--streams", type=int, default=2, help="connections of the rows and copy families (default 2)")
    add("--server", type=_server, metavar="HOST:PORT[:PID]", help="use this PostgreSQL (user postgres, trust)")
    add("--postgres-port", type=int, default=0, help="port of the PostgreSQL that is started (default: a free one)")
    add("--json", type=Path, metavar="FILE", help="write every run to this file")
    return parser


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Read the command line; exits with a message and status 2 if it cannot be used."""
    parser = _parser()
    found = vars(parser.parse_args(arguments))
    for name, least in (("pool", 1), ("rounds", 1), ("seconds", 3), ("workers", 1), ("streams", 1), ("ratio_pool", 2)):
        if found[name] < least:
            parser.error(f"--{name.replace('_', '-')} is at least {least}")
    found["peers"] = tuple(found["peers"])
    found["doorman_options"] = tuple(found["doorman_options"])
    found["pgbouncer"] = found["pgbouncer"] or None
    return Options(**found)


def chosen_cpus(count: int) -> frozenset[int]:
    """The first `count` CPUs that this process may use; all of them for 0."""
    allowed = sorted(os.sched_getaffinity(0))
    return frozenset(allowed[:count] if count else allowed)
