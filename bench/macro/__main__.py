"""`python -m bench.macro`."""

import sys

from bench.macro.options import parse
from bench.macro.run import main

if __name__ == "__main__":
    sys.exit(main(parse()))
