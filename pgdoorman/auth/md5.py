"""PostgreSQL's MD5 scheme: the stored hash, and the answer to a salted challenge.

stored = "md5" + hex(md5(password + user)); answer = "md5" + hex(md5(hex of stored + salt)). So the stored hash is as
good as the password to whoever holds it, which is what lets it be passed on to a server.
"""

import hashlib


def md5_digest(user: str, password: bytes) -> str:
    """The 32 hexadecimal digits that are stored for this user, without the prefix "md5"."""
    return _hex(password + user.encode())


def md5_answer(digest: str, salt: bytes) -> bytes:
    """The answer to a challenge, from the stored digits."""
    return b"md5" + _hex(digest.encode("ascii") + salt).encode("ascii")


def _hex(data: bytes) -> str:
    # The protocol prescribes MD5; on a machine in FIPS mode this keeps it usable for old roles.
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
