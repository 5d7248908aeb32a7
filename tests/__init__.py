"""Tests of pgdoorman: unit/ mirrors the package, integration/ goes by behaviour, support/ is the harness."""
