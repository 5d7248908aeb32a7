"""What a session may use of the house: one frozen value, given at login."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pgdoorman.client.budget import Budget
from pgdoorman.client.cancel_keys import CancelKeys
from pgdoorman.runtime.helpers import Helpers


@dataclass(frozen=True, slots=True)
class Services:
    """The same for all clients of a house."""

    helpers: Helpers
    cancel_keys: CancelKeys
    budget: Budget
    session_ended: Callable[[Any], Any]  # told once when a session is over
    pool_of: Callable[[str, str], Any]  # the present pool of (database, user), None if it was removed
    listen: Callable[[Any], None] | None = None  # make a session one that can have channels; None: LISTEN pins
