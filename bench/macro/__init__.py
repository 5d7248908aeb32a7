"""Poolers side by side: the same PostgreSQL, the same pool, the same clients, alternating rounds.

`python -m bench.macro` starts everything, measures, prints tables and stops everything again.

    options.py      the command line
    families.py     what can be measured
    children.py     servers as child processes: as whom, where, how they end
    postgres.py     one PostgreSQL, tuned the same for all
    poolers.py      starts pgdoorman and PgBouncer; `Target` is whatever is measured
    pgbench.py      one pgbench run and what it said
    processes.py    CPU time, context switches and memory out of /proc
    wire.py         a bare client for idle connections, large results and COPY
    measure.py      one measurement of one target, for every family
    figures.py      percentiles, medians, ratios of paired rounds
    report.py       tables and JSON
    profile.py      where pgdoorman's CPU goes, by perf; its own command
    run.py          the order of it all

Every figure of a pooler is the pooler's own: pgbench, PostgreSQL and other programs on the machine are accounted
apart, and the share of CPU that belonged to none of them is printed so that a disturbed run can be told.
"""
