"""Memory that is free, given back to the system: what the end of every unload is."""

from __future__ import annotations

import ctypes
import gc


def return_memory() -> None:
    """Hand freed memory back to the system; glibc would keep it for later."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
