"""Numbers: written by one owner, read by anyone.

A counter is written by exactly one thread (a worker its own, a pool under its own lock); readers take a snapshot that
may be a moment old but is never torn in a way that a sum could go backwards. Whoever shows numbers (the console, the
exporter) pulls frozen rows from here; nothing is ever pushed into the exporter.

Imports nothing of ours.

Start with `rows`: the frozen values that everything else produces or shows.
"""
