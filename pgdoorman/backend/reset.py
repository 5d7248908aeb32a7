"""What may be left on a backend when a client leaves it, and the cheapest statements that remove it.

Settings are not here: they are put right when the next client's differ (see `settings`).
"""

from typing import Final

# Reasons for a pin, as an audit names them, and what undoes each. DISCARD ALL would do for all but costs the plans and
# our prepared statements too, and cannot share a Query with anything.
UNDO: Final = {
    "prepared statement": "DEALLOCATE ALL",
    "cursor with hold": "CLOSE ALL",
    "temporary object": "DISCARD TEMP",
    "advisory lock": "SELECT pg_catalog.pg_advisory_unlock_all()",
    "listen": "UNLISTEN *",
}

FORGETS_STATEMENTS: Final = frozenset({"prepared statement"})
"""Reasons whose undoing also deallocates the statements that we prepared."""

DISCARD_ALL: Final = "DISCARD ALL"
FORGET_SEQUENCES: Final = "DISCARD SEQUENCES"


def undo_sql(reasons: frozenset[str]) -> str:
    """One simple Query that undoes these; empty if there is nothing to do."""
    return "; ".join(UNDO[reason] for reason in sorted(reasons) if reason in UNDO)
