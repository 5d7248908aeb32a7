"""Message type bytes and request codes of the PostgreSQL frontend/backend protocol, version 3.

Types are integers, since indexing bytes yields integers. Names are those of the protocol chapter, section
"Message Formats".
"""

from typing import Final

# What a client says.
BIND: Final = 0x42  # B
CLOSE: Final = 0x43  # C
COPY_FAIL: Final = 0x66  # f
DESCRIBE: Final = 0x44  # D
EXECUTE: Final = 0x45  # E
FLUSH: Final = 0x48  # H
FUNCTION_CALL: Final = 0x46  # F
PARSE: Final = 0x50  # P
PASSWORD: Final = 0x70  # p, also SASLInitialResponse and SASLResponse
QUERY: Final = 0x51  # Q
SYNC: Final = 0x53  # S
TERMINATE: Final = 0x58  # X

# What both say.
COPY_DATA: Final = 0x64  # d
COPY_DONE: Final = 0x63  # c

# What a server says.
AUTHENTICATION: Final = 0x52  # R
BACKEND_KEY_DATA: Final = 0x4B  # K
BIND_COMPLETE: Final = 0x32  # 2
CLOSE_COMPLETE: Final = 0x33  # 3
COMMAND_COMPLETE: Final = 0x43  # C
COPY_BOTH_RESPONSE: Final = 0x57  # W
COPY_IN_RESPONSE: Final = 0x47  # G
COPY_OUT_RESPONSE: Final = 0x48  # H
DATA_ROW: Final = 0x44  # D
EMPTY_QUERY_RESPONSE: Final = 0x49  # I
ERROR_RESPONSE: Final = 0x45  # E
FUNCTION_CALL_RESPONSE: Final = 0x56  # V
NEGOTIATE_PROTOCOL_VERSION: Final = 0x76  # v
NO_DATA: Final = 0x6E  # n
NOTICE_RESPONSE: Final = 0x4E  # N
NOTIFICATION_RESPONSE: Final = 0x41  # A
PARAMETER_DESCRIPTION: Final = 0x74  # t
PARAMETER_STATUS: Final = 0x53  # S
PARSE_COMPLETE: Final = 0x31  # 1
PORTAL_SUSPENDED: Final = 0x73  # s
READY_FOR_QUERY: Final = 0x5A  # Z
ROW_DESCRIPTION: Final = 0x54  # T

# The first packet of a connection has no type byte but a code behind its length.
PROTOCOL_3_0: Final = 0x0003_0000
PROTOCOL_3_2: Final = 0x0003_0002
CANCEL_REQUEST: Final = 80877102
SSL_REQUEST: Final = 80877103
GSSENC_REQUEST: Final = 80877104

# Transaction status in ReadyForQuery.
IDLE: Final = 0x49  # I
IN_TRANSACTION: Final = 0x54  # T
FAILED: Final = 0x45  # E

# Authentication requests (the number behind an 'R').
AUTH_OK: Final = 0
AUTH_CLEARTEXT: Final = 3
AUTH_MD5: Final = 5
AUTH_SASL: Final = 10
AUTH_SASL_CONTINUE: Final = 11
AUTH_SASL_FINAL: Final = 12

SYNC_MESSAGE: Final = b"S\0\0\0\4"
FLUSH_MESSAGE: Final = b"H\0\0\0\4"
PARSE_COMPLETE_MESSAGE: Final = b"1\0\0\0\4"
CLOSE_COMPLETE_MESSAGE: Final = b"3\0\0\0\4"
