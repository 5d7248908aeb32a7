"""Bytes in and out: the home of sockets and of OpenSSL.

`listen` opens the doors, `connect` reaches PostgreSQL (blocking, on helper threads), `peer` says who is at the other
end. `tls` makes encrypted sockets out of plain ones (and is the one module that knows OpenSSL), `tls_accept` and
`tls_connect` say how for clients and for servers, `certificates` reads files. Imports config and what lies below; knows
no message of the protocol but the request for TLS.

Start with `connect`.
"""
