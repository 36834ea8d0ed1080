"""Runs the command line: `python -m oxidicom`."""

import sys

from oxidicom.cli import main

if __name__ == "__main__":
    sys.exit(main())
