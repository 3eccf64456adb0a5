"""TLS for a server: from PEM texts to what the event loop needs.

TLS 1.2 or later, with the ciphers that HTTP/2 allows and gRPC's servers offer.  HTTP/2 and
HTTP/1.1 are agreed on by ALPN.  A private key never lies in a file longer than OpenSSL reads it,
and on Linux never on a disk.
"""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from salver.errors import InvalidArgument

PROTOCOLS: Final = ("h2", "http/1.1")

CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2: those with forward secrecy and authenticated encryption (RFC 9113 section 9.2.2)."""


def server_context(*, certificate: str, key: str, client_ca: str | None = None) -> ssl.SSLContext:
    """The TLS of a server with this certificate chain and private key, as PEM.

    With ``client_ca`` a client has to show a certificate that one of these authorities signed.

    Raises:
        InvalidArgument: a text is not what it has to be, or the key is not the certificate's.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(PROTOCOLS)
    _load_identity(context, certificate, key)
    if client_ca is not None:
        _require_clients_of(context, client_ca)
    return context


def _load_identity(context: ssl.SSLContext, certificate: str, key: str) -> None:
    for name, pem in (("certificate", certificate), ("private key", key)):
        if "-----BEGIN " not in pem:
            raise InvalidArgument(f"the server's {name} is not PEM: it has no BEGIN line")
    try:
        with _readable_file(f"{key}\n{certificate}\n") as path:
            # A password that is wrong: an encrypted key must not wait for a person to type one.
            context.load_cert_chain(path, password="")
    except (OSError, ValueError) as error:
        raise InvalidArgument(
            f"the server's certificate and private key cannot be used: {_reason(error)}; "
            "the certificate comes first in its chain, the key is its own and not encrypted"
        ) from error


def _require_clients_of(context: ssl.SSLContext, client_ca: str) -> None:
    try:
        context.load_verify_locations(cadata=client_ca)
    except (OSError, ValueError) as error:
        raise InvalidArgument(
            f"the authorities for client certificates cannot be used: {_reason(error)}"
        ) from error
    context.verify_mode = ssl.CERT_REQUIRED


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or str(error)


@contextmanager
def _readable_file(text: str) -> Iterator[str]:
    """A path under which OpenSSL can read ``text``: in memory where the system has such files."""
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("pem"), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"
    else:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8") as named:  # mode 0600
            named.write(text)
            named.flush()
            yield named.name
