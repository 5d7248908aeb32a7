"""What a query text may do to its session, seen from its bytes. No parser: a few words, looked for cheaply.

A wrong suspicion costs one look at the backend's state after the transaction (see `backend.settings.audit_sql`), never a
wrong answer. What no word shows (a SET inside the body of a function) is found by the functions called.
"""

import re
from typing import Final

from pgdoorman.constants import bind_constants

SETTINGS: Final = 1  # may change settings in a way that no command tag tells
PINS: Final = 2  # may leave something that cannot be moved
READS_SEQUENCES: Final = 4  # asks for the session's last sequence values
SET_LOCAL: Final = 8  # is one SET LOCAL: its tag says SET, but nothing outlives the transaction
CALLS: Final = 16  # DO or CALL: anything
USES_SEQUENCES: Final = 32  # calls nextval or setval
SETS: Final = 64  # may hold a SET or RESET that is not LOCAL
SPEAKS_OF_NAMES: Final = 128  # a statement of the protocol that is DEALLOCATE or EXECUTE of another

LOADS: Final = 512  # a statement of the protocol that is LOAD
RESETS: Final = 256  # a statement of the protocol that may return a parameter to its default

# Longer texts are simply suspected: looking at the backend afterwards costs less than looking through them.
LONGEST_SCANNED: Final = 65536
EVERYTHING: Final = {b""}

_TEMPORARY: Final = re.compile(rb"\btemp(?:orary)?\b|pg_temp")
_SET_LOCAL: Final = re.compile(rb"\s*+set\s++local\s[^;]*+;?\s*+\Z")
# At the beginning of a statement; where there are comments every "set" counts, for they can stand anywhere.
_SETS: Final = re.compile(rb"(?:\A|;)\s*+(?:re)?set\b(?!\s++local\b)")
_HOLD: Final = re.compile(rb"\bwith\s+hold\b")


def scan(text: bytes) -> int:
    """The flags of a query text (any case), without a message header."""
    if len(text) > LONGEST_SCANNED:
        return SETTINGS | PINS | CALLS | USES_SEQUENCES | SETS
    low = text.lower()
    flags = 0
    if low.find(b"set_config") >= 0 or low.find(b"pg_settings") >= 0:
        flags = SETTINGS
    if low.find(b"advisory") >= 0:
        flags |= PINS
    if low.find(b"val") >= 0:
        if low.find(b"currval") >= 0 or low.find(b"lastval") >= 0:
            flags |= READS_SEQUENCES
        if low.find(b"nextval") >= 0 or low.find(b"setval") >= 0:
            flags |= USES_SEQUENCES
    if low.find(b"temp") >= 0 and _TEMPORARY.search(low):
        flags |= PINS
    if low.find(b"hold") >= 0 and _HOLD.search(low):
        flags |= PINS
    if low.find(b"set") >= 0:
        if _SET_LOCAL.match(low):
            flags |= SET_LOCAL
        elif low.find(b"--") >= 0 or low.find(b"/*") >= 0 or _SETS.search(low):
            flags |= SETS
    return flags


# What stands before a parenthesis or a comment; keywords and types as well, which turn out to be nobody's functions. Of a
# quoted name that is more than a word it is the last word. Possessive, and only from the beginning of a word: the search
# must stay linear whatever a client sends. The class first: it sorts out nearly all words at the cost of one look.
_CALLED: Final = re.compile(
    rb"(?<![\w$\x80-\xff])([a-z_\x80-\xff][\w$\x80-\xff]*+)[\"\s]*+[(&/-](?:(?<=\()|(?<=-)-|(?<=/)\*|(?<=&)\")"
)

LASTING: Final[dict[bytes, str]] = {
    b"setseed": "random seed",
    b"pg_replication_origin_session_setup": "replication origin",
    b"dblink_connect": "state of an extension",
    b"dblink_connect_u": "state of an extension",
    b"isn_weak": "state of an extension",
}
"""Functions after which something is left in the session that no catalogue shows, and what that is."""

NEVER_HARMLESS: Final = frozenset(LASTING) | frozenset(
    b"u set_limit ts_stat ts_rewrite crosstab crosstab2 crosstab3 crosstab4 connectby xpath_table query_to_xml"
    b" query_to_xmlschema query_to_xml_and_xmlschema table_to_xml table_to_xml_and_xmlschema schema_to_xml"
    b" schema_to_xml_and_xmlschema database_to_xml database_to_xml_and_xmlschema cursor_to_xml".split()
)
"""What a pool must not learn to be harmless, though its source has no sign: functions in C that run what they are given as a
text or set a parameter; and `U&"..."`, behind which any name may be hidden."""

_SEED: Final = re.compile(rb"\bset\s++(?:session\s++)?\"?seed\b", re.IGNORECASE)


def sets_seed(text: bytes) -> bool:
    """Whether a text that may hold a SET sets the seed of random()."""
    return _SEED.search(text) is not None


def names_called(text: bytes) -> set[bytes]:
    """Every name in a text that could be that of a function it calls, in lower case; of quoted names the last word. Texts
    that are too long to be looked through call `EVERYTHING`."""
    if len(text) > LONGEST_SCANNED:
        return EVERYTHING
    return set(_CALLED.findall(text.lower()))


bind_constants(__name__)
