"""Why a client is not listened to at the moment; any number of reasons at once."""

from typing import Final

WAITING: Final = 1  # for a backend
CARE: Final = 2  # we are talking to its backend ourselves
STALLED: Final = 4  # its next message depends on an answer that is still outstanding
CONGESTED: Final = 8  # it does not take what it was sent
BACKLOGGED: Final = 16  # the server does not take what was sent to it
GONE: Final = 32
HEARING: Final = 64  # its answer waits for the notifications that belong in front of it
