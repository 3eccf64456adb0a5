"""What a command says to the person or script that called it.

Any text can be said, whatever the stream can spell: a command line may carry bytes that are no
text at all.
"""

from __future__ import annotations

from typing import TextIO


def say(stream: TextIO, text: str) -> None:
    """Write ``text`` and let it out at once: the command may go on to run for months."""
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()
