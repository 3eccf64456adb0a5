"""Certificates for tests, made when a test asks for them: nothing secret lies in the repository."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

CONFIG = """
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
subjectAltName = DNS:localhost, IP:127.0.0.1, IP:::1
[client]
extendedKeyUsage = clientAuth
"""

NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True)
class Identity:
    """A certificate and its private key."""

    certificate_path: Path
    key_path: Path

    @property
    def certificate(self) -> str:
        return self.certificate_path.read_text()

    @property
    def key(self) -> str:
        return self.key_path.read_text()


class Authority:
    """Signs certificates: for the server ``localhost``, and for clients."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        if shutil.which("openssl") is None:
            pytest.skip("certificates are made by the openssl command")
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._config = folder / "openssl.cnf"
        self._config.write_text(CONFIG)
        self._own = self._identity(name)
        # fmt: off
        self._openssl("req", "-x509", *NEW_KEY, "-days", "3650", "-extensions", "authority",
                      "-keyout", self._own.key_path, "-out", self._own.certificate_path,
                      "-subj", f"/CN={name}", "-config", self._config)
        # fmt: on

    @property
    def path(self) -> Path:
        """The authority's own certificate, which those who trust it need."""
        return self._own.certificate_path

    @property
    def certificate(self) -> str:
        return self._own.certificate

    def server(self, name: str = "server") -> Identity:
        """A new certificate for ``localhost``."""
        return self._issue(name, "server")

    def client(self, name: str = "client") -> Identity:
        """A new certificate for a client."""
        return self._issue(name, "client")

    def _issue(self, name: str, kind: str) -> Identity:
        identity, request = self._identity(name), self._folder / f"{name}.csr"
        # fmt: off
        self._openssl("req", "-new", *NEW_KEY, "-keyout", identity.key_path, "-out", request,
                      "-subj", f"/CN={name}", "-config", self._config)
        self._openssl("x509", "-req", "-in", request, "-days", "3650", "-CAcreateserial",
                      "-CA", self._own.certificate_path, "-CAkey", self._own.key_path,
                      "-extfile", self._config, "-extensions", kind,
                      "-out", identity.certificate_path)
        # fmt: on
        return identity

    def _identity(self, name: str) -> Identity:
        return Identity(self._folder / f"{name}.pem", self._folder / f"{name}.key")

    def _openssl(self, *words: str | Path) -> None:
        command = [shutil.which("openssl") or "", *map(str, words)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
