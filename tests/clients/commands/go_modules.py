"""Which versions a command made by Go was made of."""

from __future__ import annotations

import re
import shutil

from clients.contract import output_of


def versions_of(command: str) -> str:
    """The command's own version and that of its grpc-go."""
    path = shutil.which(command)
    assert path, f"{command} is not here"
    modules = output_of("go", "version", "-m", path)
    own = re.search(r"^\s+mod\s+\S+\s+v(\S+)", modules, re.MULTILINE)
    grpc = re.search(r"^\s+dep\s+google\.golang\.org/grpc\s+v(\S+)", modules, re.MULTILINE)
    assert own, modules
    assert grpc, modules
    return f"{command} {own[1]}, grpc-go {grpc[1]}"
