"""Single parts of pgdoorman, in nanoseconds per operation: `python -m bench.micro [NAME...]`.

    timing.py       how an operation is timed: best of several, each long enough for the clock
    framing.py      message boundaries
    ledger.py       the pool's decisions, alone and with two threads at the lock
    handoff.py      a call from one worker to another

The best of several tries is printed, because everything that disturbs makes a try slower and nothing makes it faster;
the median beside it tells how much was disturbed.
"""
