"""Memory that is free: kept for the next request, given back at the end of every unload.

glibc decides by what was freed last whether a large block comes from the system and goes back to
it, page by page, or is used again.  A server that sees bodies of 600 KB then spends up to 450 µs a
request on page faults, or none, by chance.
"""

from __future__ import annotations

import ctypes
import gc
import os
from typing import Final

_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
"""glibc's numbers for ``mallopt``."""

REUSED_BELOW_BYTES: Final = 8 << 20
"""A block that is smaller is used again: the bodies and tensors of requests, not variables."""

KEPT_BYTES: Final = 64 << 20
"""As much free memory is kept at the end of the heap."""


def keep_freed_memory() -> bool:
    """Have what requests take and give back used again; whether the C library can be told so.

    Whoever sets glibc's own ``MALLOC_`` variables knows better.
    """
    tell = getattr(ctypes.CDLL(None), "mallopt", None)
    if tell is None or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    return bool(tell(_MMAP_THRESHOLD, REUSED_BELOW_BYTES) and tell(_TRIM_THRESHOLD, KEPT_BYTES))


def return_memory() -> None:
    """Hand freed memory back to the system; glibc would keep it for later."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
