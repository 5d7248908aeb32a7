"""Tests by behaviour, against a real PostgreSQL. The fixtures are in conftest.py."""
