"""How much a storm of log-ins (TLS and SCRAM) delays queries that run meanwhile: `python -m bench.logins --help`.

`storm` is the storm, in processes of its own that stand back behind everything else; `steady` the queries, whose clock
runs ahead of everything else. Neither's own CPU time is to be what is measured.
"""
