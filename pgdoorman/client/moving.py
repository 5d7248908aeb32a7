"""A client goes over to another process: how its session becomes a record, and a record a session again.

It goes between two transactions, when nothing but the record and the socket belongs to it:

- it has no backend: one that is pinned keeps its own until what pins it is gone, and in session pooling until it leaves;
- we are not asking a server anything on its behalf;
- it has taken all that it was told;
- its connection is not encrypted: the keys are in OpenSSL's hands, which does not give them away;
- it listens to no channel: what is notified while it is on its way would be lost, or heard twice.

A client that waits for a backend gives up its place and takes its request along. So does one in the middle of sending:
what has come is part of the record. Whoever cannot go at once is asked again at the end of each transaction.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from pgdoorman.auth.secrets import secret_text
from pgdoorman.backend.connection import next_number
from pgdoorman.backend.settings import reported_of, settings_of
from pgdoorman.client.cancel_keys import CancelKey
from pgdoorman.client.detours import Detour
from pgdoorman.client.holds import GONE, WAITING
from pgdoorman.client.records import ClientRecord, StatementRecord
from pgdoorman.client.services import Services
from pgdoorman.client.session import Session
from pgdoorman.pool.pool import Pool
from pgdoorman.prepared.client_names import ClientNames
from pgdoorman.prepared.statement import Carried


class Removal(Detour):
    """The way out that all clients of a house take. `pass_on` is given what makes the record's bytes, and the socket, which
    is its from then on; `left` is told of the session. Both are called on the session's worker and must not block."""

    def __init__(
        self, pass_on: Callable[[Callable[[], bytes], Any], Any], left: Callable[[Session], Any], message: str
    ) -> None:
        super().__init__(message)
        self._pass_on = pass_on
        self._left = left

    def take(self, session: Session) -> None:
        if session.held & GONE or session.tls:
            return
        if not session.worker.is_current:
            session.worker.post(partial(session.dismiss, self))
            return
        if session.held & WAITING and not self._leave_line(session):
            return
        session.dismissed = self
        session.fast = 0
        if _may_go(session):
            record = record_of(session)
            self._pass_on(record.to_bytes, session.detach())
            self._left(session)

    def _leave_line(self, session: Session) -> bool:
        """Have it wait no longer, and take along what was to be asked. False if it cannot go yet: that is noted, or it is
        asked again."""
        ours = False

        def look() -> bool:
            nonlocal ours
            ours = session.worker.is_current
            if ours:
                session.dismissed = self
                session.waits_plainly = 0
            return ours and _may_go(session)

        if session.ledger.while_waiting(session, look):
            session.held &= ~WAITING
            return True
        if not ours:
            # A grant or a refusal is on its way, or somebody has taken it along.
            session.worker.post(partial(session.dismiss, self))
        return False


def _may_go(session: Session) -> bool:
    """Whether the record and the socket are all that there is of it."""
    names = session.names
    return not (
        session.held & ~WAITING
        or session.backend is not None
        or session.out
        or session.hearing is not None
        or (names is not None and (names.held_up or not names.is_settled))
    )


def record_of(session: Session) -> ClientRecord:
    """What is to be known of a session that is about to go. On its worker's thread."""
    key = session.cancel_key
    assert key is not None
    gathered = session.gathered
    pool = session.pool
    found = pool.found
    keys, password = pool.learnt
    return ClientRecord(
        database=pool.database,
        user=pool.user,
        peer=session.address,
        version=session.version,
        process_id=key.process_id,
        secret=key.secret,
        application_name=session.application_name,
        connected_at=session.connected_at,
        heard_at=session.heard_at,
        startup_settings=session.startup_settings.by_name,
        settings=session.wanted.by_name,
        told=session.told.by_name,
        statements=_statements_of(session),
        input=session.input if gathered is None else bytes(gathered),
        passing=session.passing,
        skipping=session.skipping,
        begin=session.begin,
        ahead=session.ahead,
        custom_names=tuple(session.custom_names),
        queries=session.queries,
        singles=session.singles,
        transactions=session.transactions,
        errors=session.errors,
        found_secret=None if found is None else secret_text(found.secret),
        found_parameters=() if found is None else found.parameters,
        keys=keys,
        password=password,
    )


def _statements_of(session: Session) -> tuple[StatementRecord, ...]:
    if session.names is None:
        return ()
    book, planning = session.pool.book, session.wanted.planning
    return tuple(
        StatementRecord(
            name, statement.tail, statement.parameters, statement.name, book.is_current(statement, planning)
        )
        for name, statement in session.names.names.items()
    )


def session_of(record: ClientRecord, sock: Any, pool: Pool, services: Services, carried: Carried) -> Session:
    """The session that goes on with what a record says; to be given a worker. `carried` is the same for all records of one
    predecessor."""
    session = Session(
        next_number(),
        sock,
        record.peer,
        pool,
        services,
        told=reported_of(record.told),
        settings=settings_of(record.startup_settings),
        version=record.version,
        application_name=record.application_name,
    )
    session.wanted = settings_of(record.settings)
    session.connected_at, session.heard_at = record.connected_at, record.heard_at
    session.passing, session.skipping, session.begin = record.passing, record.skipping, record.begin
    session.ahead = record.ahead
    session.custom_names = set(record.custom_names)
    session.queries, session.singles = record.queries, record.singles
    session.transactions, session.errors = record.transactions, record.errors
    session.cancel_key = CancelKey(record.process_id, record.secret)
    if record.statements:
        session.names = _names_of(record, session, carried)
        session.remaps = True  # they are known to the server by names of ours
    return session


def _names_of(record: ClientRecord, session: Session, carried: Carried) -> ClientNames:
    names = ClientNames(session.pool.settings.client_anonymous_prepared_cache_size)
    for told in record.statements:
        shared = session.pool.book.find(told.tail, session.wanted.planning) if told.is_current else None
        if shared is None or not names.is_free(shared, told.name):
            shared = carried.find(told.origin, told.tail)
        if shared.parameters is None:
            shared.parameters = told.parameters
        names.adopt(told.name, shared)
    return names
