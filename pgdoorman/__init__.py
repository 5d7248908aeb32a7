"""pgdoorman: a PostgreSQL connection pooler.

Start reading in `doorman` (builds and runs the house), `client.session` (one connected client) and `pool.ledger` (who
gets which backend). docs/architecture.md has the drawing of the threads and the tour of one query.
"""

__version__ = "0.1.0"
