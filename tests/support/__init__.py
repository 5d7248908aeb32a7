"""The harness: what tests start, speak with and measure.

    wire.py         a raw protocol client, and a model of what a server still owes
    postgres.py     a PostgreSQL of its own, with roles and databases for every way to log in
    doorman.py      a pgdoorman process with the configuration that a test wants
    process.py      a child process that is always stopped, with its log, descriptors and memory
    splitter.py     a TCP proxy that cuts the stream into small pieces
    fake_server.py  a server that misbehaves as told
    scenario.py     the same conversation with two servers, and the difference between their answers
    conversations.py  random conversations from a seed
    oracle.py       plays those with PostgreSQL and through a pooler; also a program (python -m tests.support.oracle)
    schedule.py     which of several pytest workers runs what

Nothing here imports pgdoorman, except to find its embedded PostgreSQL: what judges must not share the mistakes of what
is judged.
"""
