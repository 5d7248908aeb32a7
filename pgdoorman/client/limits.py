"""Time limits of clients: found by the janitor, enforced on the client's own thread.

The janitor reads a session's clocks from outside and may misjudge; so it only asks the session's worker to look again
(`enforce`), which decides. Sessions keep no timers, and a query costs nothing more for being limited.

    query_timeout               a query runs longer
    transaction_timeout         a transaction lasts longer
    idle_transaction_timeout    a client in a transaction says nothing for longer
    client_idle_timeout         a client outside of a transaction says nothing for longer
    proxy_copy_data_timeout     a client does not take what it was sent, and so keeps its backend, for longer
"""

from time import monotonic
from typing import TYPE_CHECKING, ClassVar

from pgdoorman.client.holds import GONE, WAITING
from pgdoorman.errors import PgDoormanError
from pgdoorman.protocol import codes

if TYPE_CHECKING:
    from pgdoorman.client.session import Session


class TimeLimit(PgDoormanError):
    """A time limit of the owner's was passed. `code` is the SQLSTATE that PostgreSQL uses for its own of the kind."""

    sqlstate: ClassVar[str] = "57014"


class TransactionTooLong(TimeLimit):
    sqlstate = "25P04"


class IdleInTransaction(TimeLimit):
    sqlstate = "25P03"


class IdleSession(TimeLimit):
    sqlstate = "57P05"


class TakesNothing(TimeLimit):
    sqlstate = "08006"


def passed_limit(session: "Session", now: float) -> TimeLimit | None:
    """The limit that a client has passed at `now` (monotonic seconds), None if it has not."""
    settings = session.pool.settings
    backend = session.backend
    if backend is None:
        limit = settings.client_idle_timeout
        if limit and not session.held & WAITING and now - session.heard_at > limit:
            return IdleSession("terminating connection due to idle-session timeout (client_idle_timeout)")
        return None
    if session.out and session.stuck_since and now - session.stuck_since > settings.proxy_copy_data_timeout:
        return TakesNothing("the client takes no data (proxy_copy_data_timeout)")
    busy = bool(backend.exchange.entries)
    if settings.query_timeout and busy and session.query_began and now - session.query_began > settings.query_timeout:
        return TimeLimit("canceling statement due to statement timeout (query_timeout)")
    if backend.status != codes.IDLE or busy:
        limit = settings.transaction_timeout
        if limit and now - session.transaction_began > limit:
            return TransactionTooLong("terminating connection due to transaction timeout (transaction_timeout)")
        limit = settings.idle_transaction_timeout
        if limit and not busy and now - session.heard_at > limit:
            return IdleInTransaction(
                "terminating connection due to idle-in-transaction timeout (idle_transaction_timeout)"
            )
    elif settings.client_idle_timeout and now - session.heard_at > settings.client_idle_timeout:
        return IdleSession("terminating connection due to idle-session timeout (client_idle_timeout)")
    return None


def enforce(session: "Session") -> None:
    """Send the client away if it has passed a limit; on its worker's thread."""
    if not session.held & GONE:
        passed = passed_limit(session, monotonic())
        if passed is not None:
            session.expel(passed)
