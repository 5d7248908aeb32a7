"""The console: what an operator or a monitoring tool sees in the databases `pgdoorman` and `pgbouncer`.

Owns the commands, their texts and the columns that compatibility fixes, in two flavours: the name of the database
decides whether PgDoorman's or PgBouncer's are used. Sees nothing of the house but `Control` and its rows, and does no
I/O: the client room feeds a `Console` with messages and sends what it answers.

Imports only `errors`, `stats`, `protocol` and `control`.

Start with `console` (the session), then `grammar` (text to statements), `plans` (what a statement will do), `commands`
(what each verb does), `show` and the `..._listings` (what can be seen), `courtesies` (what drivers say to every
server).
"""
