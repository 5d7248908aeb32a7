"""Benchmarks: `bench.macro` measures whole poolers side by side, `bench.micro` single parts of ours.

Start at bench/README.md. Nothing in `pgdoorman` imports this package.
"""
