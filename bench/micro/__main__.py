"""`python -m bench.micro [NAME...]`."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from bench.micro import framing, handoff, ledger
from bench.micro.timing import timed

SUBJECTS = {"framing": framing.operations, "ledger": ledger.operations, "handoff": handoff.operations}


def main() -> int:
    """Time the chosen subjects and print nanoseconds per operation."""
    parser = argparse.ArgumentParser(prog="python -m bench.micro", description=__doc__)
    parser.add_argument("subjects", nargs="*", metavar="NAME", help=f"any of {', '.join(SUBJECTS)} (default: all)")
    parser.add_argument("--tries", type=int, default=7, help="tries per operation, the best counts (default 7)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    unknown = [name for name in options.subjects if name not in SUBJECTS]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(SUBJECTS)}")
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    print(f"{sys.version.splitlines()[0]}, GIL {'on' if gil else 'off'}; ns per operation, best and median")
    found = {}
    for name in options.subjects or SUBJECTS:
        print(name)
        found[name] = [timed(operation, options.tries) for operation in SUBJECTS[name]()]
        for timing in found[name]:
            print(f"  {timing.name:46}{timing.best:10,.0f}{timing.middle:10,.0f}", flush=True)
    if options.json:
        plain = {name: [asdict(timing) for timing in timings] for name, timings in found.items()}
        options.json.write_text(json.dumps(plain, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
