"""``python -m salver`` is ``salver``."""

import sys

from salver.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
