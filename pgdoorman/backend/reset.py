"""What may be left on a backend when a client leaves it, and the cheapest statements that remove it.

Settings are not here: they are put right when the next client's differ (see `settings`).
"""

from random import SystemRandom
from typing import Final

_SOURCE: Final = SystemRandom()

# Reasons for a pin, as an audit names them, and what undoes each. DISCARD ALL would do for all but costs the plans and
# our prepared statements too, and cannot share a Query with anything.
UNDO: Final = {
    "prepared statement": "DEALLOCATE ALL",
    "cursor with hold": "CLOSE ALL",
    "temporary object": "DISCARD TEMP",
    "advisory lock": "SELECT pg_catalog.pg_advisory_unlock_all()",
    "listen": "UNLISTEN *",
}

RETIRES: Final = frozenset({"replication origin", "state of an extension"})
"""Reasons that nothing undoes: the backend is closed."""

LASTING_REASONS: Final = RETIRES | {"random seed"}
"""Reasons that no audit finds again: they hold until the client leaves."""

FORGETS_STATEMENTS: Final = frozenset({"prepared statement"})
"""Reasons whose undoing also deallocates the statements that we prepared."""

DISCARD_ALL: Final = "DISCARD ALL"
FORGET_SEQUENCES: Final = "DISCARD SEQUENCES"


def undo_sql(reasons: frozenset[str]) -> str:
    """One simple Query that undoes these; empty if there is nothing to do."""
    statements = [UNDO[reason] for reason in sorted(reasons) if reason in UNDO]
    if "random seed" in reasons:
        statements.append(reseed_sql())
    return "; ".join(statements)


def reseed_sql() -> str:
    """A statement after which nobody can tell from what was drawn before what random() will say."""
    return f"SELECT pg_catalog.setseed({_SOURCE.uniform(-1, 1):.15f})"
