"""Put the server's HTTP/2 to the test of h2spec, strictly: `make conformance`.

    python tools/conformance.py PATH_TO_H2SPEC

h2spec's words come out as they are; the exit code is its own.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SECTIONS = ("generic", "hpack", "http2")
TIMEOUT_S = 600.0


def main(h2spec: str) -> int:
    """Start the server, ask it everything h2spec knows, and stop it."""
    server = [sys.executable, str(Path(__file__).with_name("conformance_server.py"))]
    with subprocess.Popen(  # noqa: S603 -- our own server
        server, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        if running.stdin is None or running.stdout is None:
            raise AssertionError("both were asked for")
        port = running.stdout.readline().strip()
        asking = [h2spec, "--strict", "-h", "127.0.0.1", "-p", port, *SECTIONS]
        try:
            return subprocess.run(asking, check=False, timeout=TIMEOUT_S).returncode  # noqa: S603
        finally:
            running.stdin.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
