"""All of the wire's benchmarks, one after the other."""

from __future__ import annotations

import sys
from typing import Final

import half_load
import large_bodies
import small_calls

PARTS: Final = {
    "Small calls": small_calls,
    "Large bodies": large_bodies,
    "Latency at half load": half_load,
}


def main() -> int:
    """Run every part with its own defaults."""
    status = 0
    for title, part in PARTS.items():
        print(f"\n### {title}\n", flush=True)
        status |= part.main()
    return status


if __name__ == "__main__":
    sys.exit(main())
