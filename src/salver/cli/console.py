"""What a command says to the person or script that called it.

Any text can be said, whatever the stream can spell: a command line may carry bytes that are no
text at all.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from typing import TextIO


def say(stream: TextIO, text: str) -> None:
    """Write ``text`` and let it out at once: the command may go on to run for months."""
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


def leave(code: int) -> int:
    """The exit code to return from a command, unless a thread could keep the process from ending.

    A load or a run that hangs sits in TensorFlow, where nothing can call it back.  Python would
    wait for the thread it sits on, daemon or not, because an executor made it.
    """
    if threading.active_count() > 1:
        sys.stdout.flush()
        logging.shutdown()
        sys.stderr.flush()
        os._exit(code)
    return code
