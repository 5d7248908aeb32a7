"""Threads and time: event loops, their inboxes and timers, the acceptor, blocking helpers, periodic care.

Knows nothing of PostgreSQL and imports nothing of ours. A socket, and everything reachable from it, is touched by
exactly one thread: its present owner. Ownership crosses threads only through `Inbox.post` (and through what the pool
hands out as return values).

Start with `worker`, then `poller` and `inbox`.
"""
