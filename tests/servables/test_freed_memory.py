"""What the C library is told to do with memory that requests have given back."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
from salver.servables.memory import keep_freed_memory
{told}
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
bytes(600_000), bytes(1 << 21)
before = faults()
for _ in range(100):
    block = [bytearray(b"x" * 600_000) for _ in range(4)]
    del block
print(faults() - before)
"""


def faults(told: str, **environment: str) -> int:
    """Page faults of a process that takes and gives back blocks of 600 KB a hundred times."""
    result = subprocess.run(
        [sys.executable, "-c", FAULTS.format(told=told)],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "", **environment},
    )
    return int(result.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_blocks_of_requests_are_used_again():
    """The system is asked for them once, whatever was freed before."""
    assert faults("assert keep_freed_memory()") < 3000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_whoever_tunes_the_c_library_knows_better():
    """Its own variables are left alone."""
    told = "assert not keep_freed_memory()"

    assert faults(told, MALLOC_MMAP_THRESHOLD_="100000", MALLOC_TRIM_THRESHOLD_="0") > 30_000
