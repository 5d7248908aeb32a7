"""Everything that can be shown: for each name its columns in both flavours and where the rows come from.

Column names, their order and their types are compatibility: tools pick columns by name, some by position. The tests
hold the lists as the references print them. Where we have more to say, it stands behind the columns of the original.

Times are microseconds unless the column says otherwise, since both originals show them so.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pgdoorman.admin.connection_listings import (
    ACTIVE_SOCKETS,
    CLIENTS_PGBOUNCER,
    CLIENTS_PGDOORMAN,
    CONNECTIONS,
    SERVERS_PGBOUNCER,
    SERVERS_PGDOORMAN,
    SOCKETS_PGBOUNCER,
    SOCKETS_PGDOORMAN,
)
from pgdoorman.admin.flavour import Flavour, NotAllowed
from pgdoorman.admin.house_listings import (
    AUTH_QUERY,
    CONFIG_PGBOUNCER,
    CONFIG_PGDOORMAN,
    DATABASES_PGBOUNCER,
    DATABASES_PGDOORMAN,
    DNS_HOSTS,
    DNS_ZONES,
    INTERNER,
    LISTS_PGBOUNCER,
    LISTS_PGDOORMAN,
    LOG_LEVEL,
    MEMORY,
    PEER_POOLS,
    PEERS,
    PREPARED_STATEMENTS,
    STARTUP_PARAMETERS,
    STATE,
    STATUS,
    USERS_PGBOUNCER,
    USERS_PGDOORMAN,
    VERSION,
    interned,
)
from pgdoorman.admin.listing import Listing
from pgdoorman.admin.plans import Asker, Outcome, Plan
from pgdoorman.admin.pool_listings import (
    POOL_COORDINATOR,
    POOL_SCALING,
    POOLS_EXTENDED,
    POOLS_MEMORY,
    POOLS_PGBOUNCER,
    POOLS_PGDOORMAN,
    STATS_AVERAGES,
    STATS_PGBOUNCER,
    STATS_PGDOORMAN,
    STATS_TOTALS,
    TOTALS,
)
from pgdoorman.control import NotSupported
from pgdoorman.protocol import results
from pgdoorman.protocol.results import Column


@dataclass(frozen=True, slots=True)
class Subject:
    """What a name shows in either flavour."""

    pgdoorman: Listing
    pgbouncer: Listing

    def listing(self, flavour: Flavour) -> Listing:
        """The one for this flavour."""
        return self.pgbouncer if flavour is Flavour.PGBOUNCER else self.pgdoorman


def _same(listing: Listing) -> Subject:
    return Subject(listing, listing)


SUBJECTS: Final[dict[str, Subject]] = {
    "ACTIVE_SOCKETS": _same(ACTIVE_SOCKETS),
    "AUTH_QUERY": _same(AUTH_QUERY),
    "CLIENTS": Subject(CLIENTS_PGDOORMAN, CLIENTS_PGBOUNCER),
    "CONFIG": Subject(CONFIG_PGDOORMAN, CONFIG_PGBOUNCER),
    "CONNECTIONS": _same(CONNECTIONS),
    "DATABASES": Subject(DATABASES_PGDOORMAN, DATABASES_PGBOUNCER),
    "DNS_HOSTS": _same(DNS_HOSTS),
    "DNS_ZONES": _same(DNS_ZONES),
    "INTERNER": _same(INTERNER),
    "LISTS": Subject(LISTS_PGDOORMAN, LISTS_PGBOUNCER),
    "LOG_LEVEL": _same(LOG_LEVEL),
    "MEM": _same(MEMORY),
    "PEERS": _same(PEERS),
    "PEER_POOLS": _same(PEER_POOLS),
    "POOLS": Subject(POOLS_PGDOORMAN, POOLS_PGBOUNCER),
    "POOLS_EXTENDED": _same(POOLS_EXTENDED),
    "POOLS_MEMORY": _same(POOLS_MEMORY),
    "POOL_COORDINATOR": _same(POOL_COORDINATOR),
    "POOL_SCALING": _same(POOL_SCALING),
    "PREPARED_STATEMENTS": _same(PREPARED_STATEMENTS),
    "SERVERS": Subject(SERVERS_PGDOORMAN, SERVERS_PGBOUNCER),
    "SOCKETS": Subject(SOCKETS_PGDOORMAN, SOCKETS_PGBOUNCER),
    "STARTUP_PARAMETERS": _same(STARTUP_PARAMETERS),
    "STATE": _same(STATE),
    "STATUS": _same(STATUS),
    "STATS": Subject(STATS_PGDOORMAN, STATS_PGBOUNCER),
    "STATS_AVERAGES": _same(STATS_AVERAGES),
    "STATS_TOTALS": _same(STATS_TOTALS),
    "TOTALS": _same(TOTALS),
    "USERS": Subject(USERS_PGDOORMAN, USERS_PGBOUNCER),
    "VERSION": _same(VERSION),
}

ALIASES: Final = {"POOL_MEMORY": "POOLS_MEMORY", "MEMORY": "MEM"}

NAMES: Final = (*SUBJECTS, "FDS", "HELP")
"""Every name that SHOW knows, for completion and help."""


def show_plan(name: str, argument: str | None, flavour: Flavour) -> Plan | None:
    """What SHOW of this name will do; None if the name, or an argument behind it, is not known."""
    if name == "FDS" and argument is None:
        return Plan(_refuse_descriptors, verb="SHOW")
    if name == "INTERNER" and argument is not None:
        return _interner_plan(argument)
    subject = SUBJECTS.get(ALIASES.get(name, name))
    if subject is None or argument is not None:
        return None
    return _plan(subject.listing(flavour))


def _plan(listing: Listing, *, admin_only: bool = False) -> Plan:
    def run(asker: Asker) -> Outcome:
        if admin_only and not asker.admin:
            raise NotAllowed("permission denied: the texts of queries are shown to admin users only")
        return Outcome("SHOW", listing.rows(asker))

    return Plan(run, listing.columns, verb="SHOW")


def _interner_plan(argument: str) -> Plan | None:
    if not (argument.isascii() and argument.isdigit() and 0 < int(argument[:10]) <= 10_000):
        return None
    return _plan(interned(int(argument)), admin_only=True)


def _refuse_descriptors(asker: Asker) -> Outcome:
    if not asker.admin:
        raise NotAllowed("permission denied: SHOW FDS needs an admin user")
    raise NotSupported(
        "SHOW FDS is not supported: sockets are not handed over through the console",
        hint="Use UPGRADE, or `pgdoorman upgrade`, to change to a new process.",
    )


def help_plan(lines: Sequence[str], flavour: Flavour) -> Plan:
    """SHOW HELP: rows in one flavour, a notice in the other, as in the originals."""
    if flavour is Flavour.PGDOORMAN:
        return Plan(lambda _asker: Outcome("SHOW", [(line,) for line in lines]), (Column("item"),), verb="SHOW")
    detail = "".join(f"\n\t{line}" for line in lines)
    notice = results.notice_response("Console usage", detail=detail)
    return Plan(lambda _asker: Outcome("SHOW", notices=notice), verb="SHOW")
