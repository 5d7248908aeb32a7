"""Numbers and probes over HTTP: `/metrics` for Prometheus, `/livez` and `/readyz` for whoever starts and stops us.

Sees nothing of the house but `control.Overview`: a scrape pulls frozen rows, on a thread of this room's own. Listening
sockets are opened by `doorman` and given to it.

Imports control and stats.

Start with `routes`: what is answered at which path.
"""
