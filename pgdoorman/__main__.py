"""`python -m pgdoorman`."""

from pgdoorman.cli.main import main

main()
