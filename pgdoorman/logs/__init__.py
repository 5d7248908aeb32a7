"""Log lines: which ones, how they look, where they go, and that writing one never delays a worker.

Rooms log with `logging.getLogger(__name__)` and know nothing of this; what is said of every client that comes or goes is an
`events.Event`, which costs a fifth of that. A call formats its message and puts it into a bounded queue; one thread writes.

Start with `writer`, whose `set_up` puts the rest together.
"""
