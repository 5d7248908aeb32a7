"""What a client is to do between two transactions that is no farewell, though it is asked for like one.

A detour stands in `Session.dismissed`, as a reason to be sent away does. Every place that has to look whether a client is to
leave looks there already, so what is asked of a client for once costs nobody else anything.
"""

from typing import TYPE_CHECKING, Final

from pgdoorman.errors import ShuttingDown

if TYPE_CHECKING:
    from pgdoorman.client.session import Session


class Detour(ShuttingDown):
    """Told by `Session.dismiss` each time that the client may be free for it."""

    def take(self, session: "Session") -> None:
        """Do it if that can be, or note in `dismissed` that it is to be done. On any thread."""
        raise NotImplementedError


class _Following(Detour):
    """Going over to the present settings of the client's pool."""

    def take(self, session: "Session") -> None:
        session.follow()


FOLLOW: Final = _Following("the settings have changed")
