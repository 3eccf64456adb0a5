"""Become a program that may do less: ``launch.py [--no-rights] [--files=N] PROGRAM [WORD ...]``.

``--no-rights`` gives up root's rights over files: for root every file is readable, and what nobody
may read could not be tried.  ``--files`` is how many files the program may have open.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import sys
from typing import Final

PR_CAPBSET_DROP: Final = 24
CAP_DAC_OVERRIDE: Final = 1
CAP_DAC_READ_SEARCH: Final = 2


def main() -> None:
    """Give things up, and go on as the program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--no-rights", action="store_true")
    parser.add_argument("--files", type=int)
    parser.add_argument("words", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    if arguments.no_rights and os.geteuid() == 0 and sys.platform == "linux":
        give_up_rights_over_files()
    if arguments.files is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (arguments.files, arguments.files))
    os.execv(arguments.words[0], arguments.words)  # noqa: S606 - the caller's program


def give_up_rights_over_files() -> None:
    """Be no more than any other user, from the next program on.

    Raises:
        OSError: the system does not let us.
    """
    system = ctypes.CDLL(None, use_errno=True)
    for right in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        if system.prctl(PR_CAPBSET_DROP, right, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "the rights over files could not be given up")


if __name__ == "__main__":
    main()
