"""The standing part of this folder; ``soak.py`` takes hours and is run by itself."""

from __future__ import annotations

import sys

import hot_swap

if __name__ == "__main__":
    sys.exit(hot_swap.main())
