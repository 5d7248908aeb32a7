"""The hall where backends wait for clients, and clients for backends.

`ledger` decides (pure: no socket, clock or thread of its own), `errands` is what it wants done, `pool` does it outside
the lock, `opener` makes backends on helper threads, `expiry` is the janitor's part, `registry` finds the pool of a
(database, role). May import backend, transport, prepared and what lies below; never client.

Start with `ledger`.
"""
