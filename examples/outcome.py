"""What an example has to tell: one row of the table that ``make examples`` prints.

Every folder here with an ``example.py`` is an example: its ``run(workdir)`` trains or writes a
model in ``workdir``, exports it, serves it, asks it, and returns an ``Outcome`` or a list of them.
It raises when an answer is not the one it was checked against.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """How a model got from its training to its clients, and how right they found its answers."""

    example: str
    exported_with: str
    served_by: str
    checked_against: str
    error_rate: str
