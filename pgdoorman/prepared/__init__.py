"""Prepared statements: what clients call them, what backends have, and how messages are rewritten between the two.

`statement` holds the shared statements of a pool, `client_names` a client's names for them, `backend_names` what one
backend has prepared, `rewrite` the bytes. No I/O, no locks but the book's own. Imports protocol only.

Start with `statement`.
"""
