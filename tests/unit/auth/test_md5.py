"""PostgreSQL's MD5 scheme, against `select md5('secretalice')` and the manual's formula for the answer."""

from pgdoorman.auth.md5 import md5_answer, md5_digest


def test_digest() -> None:
    assert md5_digest("alice", b"secret") == "4a0a68b43b6cd5cf266fa02f196e2371"


def test_answer() -> None:
    assert md5_answer("4a0a68b43b6cd5cf266fa02f196e2371", b"\1\2\3\4") == b"md598a0412b9c31436fc53776e863350083"
