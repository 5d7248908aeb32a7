"""Bytes in and out: the home of sockets (and of OpenSSL).

`listen` opens the doors, `connect` reaches PostgreSQL (blocking, on helper threads), `peer` says who is at the other
end. Imports config and what lies below; knows no message of the protocol.

Start with `connect`.
"""
