"""Names of devices, and which model is to run on which.

``/device:GPU:1`` is TensorFlow's short name; ``GPU:1``, ``/gpu:1`` and
``/job:localhost/replica:0/task:0/device:GPU:1`` mean the same.  The names are all that is decided
here: what devices there are, TensorFlow tells.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from salver.errors import InvalidArgument

EVERY_MODEL: Final = "*"

_NAME: Final = re.compile(
    r"(?:/job:localhost/replica:0/task:0)?/?(?:device:)?([a-z][a-z0-9_]*):(\d{1,4})", re.IGNORECASE
)


def device_name(text: str) -> str:
    """The short name of the device that ``text`` names.

    Raises:
        InvalidArgument: it names none.
    """
    found = _NAME.fullmatch(text)
    if found is None:
        raise InvalidArgument(
            f"{text!r} names no device; write /device:GPU:0, /device:CPU:1 or the like"
        )
    return f"/device:{found[1].upper()}:{int(found[2])}"


def model_devices(entries: Sequence[str]) -> dict[str, str]:
    """The device of each model in ``NAME=DEVICE`` entries; ``*`` stands for all other models.

    Raises:
        InvalidArgument: an entry is none, or a model has two.
    """
    devices: dict[str, str] = {}
    for entry in entries:
        name, equals, device = entry.rpartition("=")
        if not equals or not name.strip():
            raise InvalidArgument(
                f"model_devices has {entry!r}; write NAME=DEVICE, as in ranker=/device:GPU:1"
            )
        name = name.strip()
        if name in devices:
            raise InvalidArgument(f"model_devices names {name!r} twice; a model has one device")
        devices[name] = device_name(device.strip())
    return devices


def device_of(name: str, devices: Mapping[str, str]) -> str:
    """The device of the model ``name``; empty where TensorFlow is to choose."""
    return devices.get(name) or devices.get(EVERY_MODEL, "")
