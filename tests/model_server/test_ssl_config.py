"""The TLS file: what it may hold, and what becomes of a change."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from certificates import Authority, Identity
from salver.errors import InvalidArgument, NotFound
from salver.model_server.ssl_config import TlsFile, read_ssl_config


@pytest.fixture(scope="module")
def identity(authority: Authority) -> Identity:
    """The server's certificate."""
    return authority.server("ssl-config")


def text_of(identity: Identity, *, more: str = "") -> str:
    """An SSLConfig as people write it: quoted lines, one below the other."""

    def quoted(pem: str) -> str:
        return "\n".join(f'  "{line}\\n"' for line in pem.splitlines())

    return (
        f"server_key:\n{quoted(identity.key)}\n"
        f"server_cert:\n{quoted(identity.certificate)}\n{more}\n"
    )


def one_line(pem: str) -> str:
    return pem.replace("\n", "\\n")


@pytest.fixture
def path(tmp_path: Path, identity: Identity) -> Path:
    """A file that can be used."""
    path = tmp_path / "ssl.config"
    path.write_text(text_of(identity))
    return path


def replace_with(path: Path, text: str) -> None:
    """Put a new file in the place of an old one, as deployments do."""
    new = path.with_name("new")
    new.write_text(text)
    new.replace(path)


def test_file_without_an_authority_asks_clients_for_nothing(path: Path):
    """A key and a certificate are enough."""
    assert read_ssl_config(str(path)).verify_mode == ssl.CERT_NONE


@pytest.mark.parametrize(
    ("verify", "mode"), [("true", ssl.CERT_REQUIRED), ("false", ssl.CERT_NONE)]
)
def test_clients_are_checked_when_the_file_says_so(
    path: Path, identity: Identity, authority: Authority, verify: str, mode: ssl.VerifyMode
):
    """An authority alone checks nobody, as in TensorFlow Serving."""
    ca = f'custom_ca: "{one_line(authority.certificate)}"\nclient_verify: {verify}'
    path.write_text(text_of(identity, more=ca))

    assert read_ssl_config(str(path)).verify_mode == mode


def test_clients_cannot_be_checked_against_nothing(path: Path, identity: Identity):
    """``client_verify`` without an authority would let nobody in."""
    path.write_text(text_of(identity, more="client_verify: true"))

    with pytest.raises(InvalidArgument, match="client_verify is set and custom_ca is not"):
        read_ssl_config(str(path))


@pytest.mark.parametrize("text", ["", "server_key {", 'private_key: "x"', 'server_key: "x"'])
def test_file_that_cannot_be_used_ends_the_start(path: Path, text: str):
    """Nothing is served in the clear, or at all, when TLS was asked for and is not there."""
    path.write_text(text)

    with pytest.raises(InvalidArgument, match=r"ssl\.config"):
        TlsFile(str(path))


def test_missing_file_ends_the_start(tmp_path: Path):
    """The complaint names the file."""
    with pytest.raises(NotFound, match="no-such-file"):
        TlsFile(str(tmp_path / "no-such-file"))


def test_unchanged_file_is_not_read_again(path: Path):
    """What holds is the very same until the file changes."""
    tls = TlsFile(str(path))
    before = tls.context()

    tls.refresh()

    assert tls.context() is before


def test_changed_file_holds_from_then_on(
    path: Path, authority: Authority, caplog: pytest.LogCaptureFixture
):
    """A renewed certificate is used without a restart, and the log says from when."""
    caplog.set_level("INFO")
    tls = TlsFile(str(path))
    before = tls.context()

    replace_with(path, text_of(authority.server("renewed-config")))
    tls.refresh()

    assert tls.context() is not before
    assert caplog.messages == [f"The changed TLS configuration of {path} holds from now on"]


@pytest.mark.parametrize("text", ["", "server_key {", 'server_key: "x"', None])
def test_broken_change_is_logged_once_and_changes_nothing(
    path: Path, identity: Identity, caplog: pytest.LogCaptureFixture, text: str | None
):
    """A server goes on with what it has, and takes the next file that is right."""
    tls = TlsFile(str(path))
    before = tls.context()

    if text is None:
        path.unlink()
    else:
        replace_with(path, text)
    for _ in range(3):
        tls.refresh()
    while_broken = tls.context()
    replace_with(path, text_of(identity))
    tls.refresh()

    lines = [line for line in caplog.messages if "the last one stays" in line]
    assert while_broken is before
    assert len(lines) == 1
    assert tls.context() is not before
