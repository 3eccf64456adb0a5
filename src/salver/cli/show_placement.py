"""What ``salver show --log_device_placement`` adds: where each operation ran, found by running it.

It is the one part of ``show`` that loads a model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import groupby
from pathlib import Path

from salver.errors import ServingError
from salver.model_server.text_proto import read_text_proto
from salver.protos.session_config_pb2 import ConfigProto
from salver.servables.device_placement import Placement, available_devices, placements
from salver.servables.export_faults import Asked, explain, look_at
from salver.servables.libtensorflow import LibTensorFlow

_DEFAULT_TAGS = ("serve",)


def device_placement(
    folder: Path,
    tags: Collection[str] | None,
    signature: str | None = None,
    session_config_file: str = "",
) -> Iterator[str]:
    """The devices there are, and those of the operations of each signature, or of one.

    Raises:
        ServingError: the model cannot be loaded, or the file is no ConfigProto.
    """
    config = ConfigProto()
    if session_config_file:
        read_text_proto(session_config_file, config)
    serialized = config.SerializeToString()
    library = LibTensorFlow()
    yield f"Devices: {', '.join(available_devices(library, serialized))}\n"
    wanted = tuple(tags or _DEFAULT_TAGS)
    try:
        for placement in placements(library, folder, wanted, serialized):
            if signature in (None, placement.signature):
                yield from _shown(placement)
    except ServingError as error:
        raise explain(error, look_at(folder), Asked(wanted, library.version)) from error


def _shown(placement: Placement) -> Iterator[str]:
    yield f"\nDevices of signature '{placement.signature}':\n"
    if placement.error is not None:
        yield f"  it was not run: {' '.join(placement.error.message.split())}\n"
    for device, ops in groupby(placement.ops, key=lambda op: op.device):
        yield f"  {device}\n"
        for op in ops:
            yield f"    {op.name} ({op.op})\n"
