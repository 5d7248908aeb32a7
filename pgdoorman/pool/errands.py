"""What a decision of the ledger asks its caller to do once the lock is released."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Errands[Entry, Waiter]:
    """Things to do outside the lock, in this order."""

    grants: list[tuple[Waiter, Entry]] = field(default_factory=list)
    closings: list[Entry] = field(default_factory=list)
    openings: int = 0
    refusals: list[tuple[Waiter, Any]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.grants or self.closings or self.openings or self.refusals)
