"""TLS: what is accepted as a certificate, and real clients of both protocols behind it."""

from __future__ import annotations

import asyncio
import http.client
import logging
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import cycle
from pathlib import Path

import grpc
import pytest
import requests

from certificates import Authority, Identity
from running_listener import ECHO, LOOPS, running
from salver.errors import InvalidArgument
from salver.wire.accepting import bind_unix
from salver.wire.http1 import Patience as Http1Patience
from salver.wire.listener import Patience
from salver.wire.tls import server_context

GET = b"GET /hello HTTP/1.1\r\n\r\n"
LAST_GET = b"GET /hello HTTP/1.1\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def identity(authority: Authority) -> Identity:
    """The server's certificate."""
    return authority.server("tls-server")


@pytest.fixture(scope="module")
def visitor(authority: Authority) -> Identity:
    """A client's certificate."""
    return authority.client("tls-client")


@pytest.fixture(scope="module")
def tls(identity: Identity) -> Callable[[], ssl.SSLContext]:
    """TLS that lets every client in."""
    context = server_context(certificate=identity.certificate, key=identity.key)
    return lambda: context


@pytest.fixture(scope="module")
def strict(identity: Identity, authority: Authority) -> Callable[[], ssl.SSLContext]:
    """TLS that lets clients in who have a certificate of ours."""
    context = server_context(
        certificate=identity.certificate, key=identity.key, client_ca=authority.certificate
    )
    return lambda: context


def client_context(
    authority: Authority, visitor: Identity | None = None, *alpn: str
) -> ssl.SSLContext:
    """A client's side of TLS."""
    context = ssl.create_default_context(cafile=authority.path)
    if visitor is not None:
        context.load_cert_chain(visitor.certificate_path, visitor.key_path)
    if alpn:
        context.set_alpn_protocols(alpn)
    return context


def call(target: str, authority: Authority, visitor: Identity | None = None) -> bytes:
    """One gRPC call on a connection of its own."""
    credentials = grpc.ssl_channel_credentials(
        authority.certificate.encode(),
        None if visitor is None else visitor.key.encode(),
        None if visitor is None else visitor.certificate.encode(),
    )
    options = [("grpc.enable_http_proxy", 0), ("grpc.default_authority", "localhost")]
    with grpc.secure_channel(target, credentials, options=options) as channel:
        return channel.unary_unary(ECHO)(b"ping", timeout=10)


def get(port: int, authority: Authority, visitor: Identity | None = None) -> bytes:
    """One HTTP/1.1 request."""
    with requests.Session() as session:
        session.trust_env = False
        session.verify = str(authority.path)
        if visitor is not None:
            session.cert = (str(visitor.certificate_path), str(visitor.key_path))
        return session.get(f"https://localhost:{port}/x", timeout=10).content


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def received_from(client: socket.socket) -> bytes:
    """Everything until the other side ends the connection, however it does."""
    received = b""
    try:
        while part := client.recv(1 << 16):
            received += part
    except OSError:
        pass
    return received


# --- certificates ---------------------------------------------------------------------------------


def test_context_is_for_servers_of_today(identity: Identity):
    """TLS 1.2 at least, ciphers that HTTP/2 allows, and no question to clients."""
    context = server_context(certificate=identity.certificate, key=identity.key)

    weak = [
        each["name"]
        for each in context.get_ciphers()
        if not each["aead"] or (each["protocol"] == "TLSv1.2" and "ECDHE" not in each["name"])
    ]
    assert weak == []
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_NONE


def test_clients_are_asked_for_a_certificate_if_there_is_an_authority_for_them(
    identity: Identity, authority: Authority
):
    """Naming whose certificates are good means that one is needed."""
    context = server_context(
        certificate=identity.certificate, key=identity.key, client_ca=authority.certificate
    )

    assert context.verify_mode == ssl.CERT_REQUIRED


def test_key_of_another_certificate_is_refused(identity: Identity, visitor: Identity):
    """A mix-up of files is told at the start, not by every client."""
    with pytest.raises(InvalidArgument, match="KEY_VALUES_MISMATCH"):
        server_context(certificate=identity.certificate, key=visitor.key)


@pytest.mark.parametrize(
    ("field", "said"), [("certificate", "certificate"), ("key", "private key")]
)
@pytest.mark.parametrize("text", ["", "/etc/tls/server.pem"])
def test_what_is_no_pem_is_refused_by_name(identity: Identity, field: str, said: str, text: str):
    """The fields take PEM itself, and a path is the likeliest mistake."""
    given = {"certificate": identity.certificate, "key": identity.key, field: text}

    with pytest.raises(InvalidArgument, match=f"the server's {said} is not PEM"):
        server_context(**given)


def test_damaged_pem_is_refused_without_a_word_of_it(identity: Identity):
    """The complaint does not repeat a secret."""
    key = identity.key.replace("BEGIN PRIVATE KEY-----\n", "BEGIN PRIVATE KEY-----\nAAAA")

    with pytest.raises(InvalidArgument) as refused:
        server_context(certificate=identity.certificate, key=key)

    assert "AAAA" not in refused.value.message


def test_encrypted_key_is_refused_and_nobody_is_asked(identity: Identity, tmp_path: Path):
    """A server has nobody who could type a password."""
    path = tmp_path / "encrypted.key"
    command = ["openssl", "pkcs8", "-topk8", "-passout", "pass:word", "-in", identity.key_path]
    subprocess.run([*command, "-out", path], check=True, capture_output=True, timeout=60)

    with pytest.raises(InvalidArgument, match="not encrypted"):
        server_context(certificate=identity.certificate, key=path.read_text())


@pytest.mark.parametrize("client_ca", ["", "nonsense"])
def test_authority_that_is_none_is_refused(identity: Identity, client_ca: str):
    """Clients are never checked against nothing."""
    with pytest.raises(InvalidArgument, match="authorities for client certificates"):
        server_context(certificate=identity.certificate, key=identity.key, client_ca=client_ca)


# --- clients --------------------------------------------------------------------------------------


@LOOPS
def test_both_protocols_are_spoken_over_tls(
    new_loop: Callable[[], object], authority: Authority, tls: Callable[[], ssl.SSLContext]
):
    """gRPC's and REST's clients are answered on one port."""
    with running(new_loop, tls=tls) as server:
        answers = (call(f"127.0.0.1:{server.port}", authority), get(server.port, authority))

    assert answers == (b"ping", b"/x")


@LOOPS
def test_unix_socket_speaks_tls_too(
    new_loop: Callable[[], object],
    authority: Authority,
    tls: Callable[[], ssl.SSLContext],
    tmp_path: Path,
):
    """A path is an address like any other."""
    path = tmp_path / "server.sock"
    with running(new_loop, tls=tls, listening=bind_unix(str(path))):
        answer = call(f"unix:{path}", authority)

    assert answer == b"ping"


@LOOPS
@pytest.mark.parametrize(
    ("offered", "agreed"),
    [(["h2"], "h2"), (["http/1.1"], "http/1.1"), (["http/1.1", "h2"], "h2"), ([], None)],
)
def test_protocol_is_agreed_on(
    new_loop: Callable[[], object],
    authority: Authority,
    tls: Callable[[], ssl.SSLContext],
    offered: list[str],
    agreed: str | None,
):
    """HTTP/2 is preferred, and a client that offers nothing may speak either."""
    context = client_context(authority, None, *offered)
    with (
        running(new_loop, tls=tls) as server,
        context.wrap_socket(connect(server.port), server_hostname="localhost") as client,
    ):
        said = client.selected_alpn_protocol()

    assert said == agreed


@LOOPS
def test_client_with_a_certificate_is_let_in(
    new_loop: Callable[[], object],
    authority: Authority,
    visitor: Identity,
    strict: Callable[[], ssl.SSLContext],
):
    """Where clients have to show who they are, those who do are answered."""
    with running(new_loop, tls=strict) as server:
        target = f"localhost:{server.port}"
        answers = (call(target, authority, visitor), get(server.port, authority, visitor))

    assert answers == (b"ping", b"/x")


@LOOPS
def test_client_without_a_certificate_is_refused(
    new_loop: Callable[[], object],
    authority: Authority,
    strict: Callable[[], ssl.SSLContext],
    caplog: pytest.LogCaptureFixture,
):
    """It gets no answer over either protocol, and the log says why, once."""
    with running(new_loop, tls=strict) as server:
        with pytest.raises(grpc.RpcError) as refused:
            call(f"127.0.0.1:{server.port}", authority)
        with pytest.raises(requests.ConnectionError):
            get(server.port, authority)

    lines = [line for line in caplog.messages if "handshake" in line]
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert lines == ["A TLS handshake failed: PEER_DID_NOT_RETURN_A_CERTIFICATE"]


@LOOPS
def test_client_of_another_authority_is_refused(
    new_loop: Callable[[], object],
    authority: Authority,
    strict: Callable[[], ssl.SSLContext],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
):
    """A certificate that somebody else signed is none."""
    stranger = Authority(tmp_path, "stranger").client()
    with running(new_loop, tls=strict) as server, pytest.raises(requests.ConnectionError):
        get(server.port, authority, stranger)

    assert "A TLS handshake failed: CERTIFICATE_VERIFY_FAILED" in caplog.messages


@LOOPS
@pytest.mark.parametrize("words", [GET, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"])
def test_client_in_the_clear_is_turned_away(
    new_loop: Callable[[], object],
    tls: Callable[[], ssl.SSLContext],
    caplog: pytest.LogCaptureFixture,
    words: bytes,
):
    """Nothing is answered in the clear; the log has one line for any number of them."""
    with running(new_loop, tls=tls) as server:
        answers = []
        for _ in range(2):
            with connect(server.port) as client:
                client.sendall(words)
                answers.append(received_from(client))

    assert not any(b"HTTP" in each for each in answers)
    assert caplog.messages == [
        "A client that does not speak TLS was turned away from an address that does"
    ]


@LOOPS
def test_handshake_that_does_not_go_on_is_ended(
    new_loop: Callable[[], object],
    tls: Callable[[], ssl.SSLContext],
    caplog: pytest.LogCaptureFixture,
):
    """Whether a client says nothing or half a hello, it is let go; the log has one line for all."""
    with running(new_loop, tls=tls, patience=Patience(handshake_s=0.2)) as server:
        answers = []
        for words in (b"", bytes.fromhex("160301")):
            with connect(server.port) as client:
                client.sendall(words)
                answers.append(received_from(client))

    assert answers == [b"", b""]
    assert caplog.messages == ["A TLS handshake took longer than 0.2 s and was cut off"]


@LOOPS
def test_client_that_leaves_during_the_handshake_is_no_event(
    new_loop: Callable[[], object],
    authority: Authority,
    tls: Callable[[], ssl.SSLContext],
    caplog: pytest.LogCaptureFixture,
):
    """Port scanners and health checks of load balancers come and go without a line."""
    with running(new_loop, tls=tls) as server:
        connect(server.port).close()
        page = get(server.port, authority)

    assert page == b"/x"
    assert caplog.messages == []


class Hand:
    """A TLS client that holds every byte in its hand before it is sent."""

    def __init__(self, authority: Authority, port: int) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = client_context(authority)
        self.tls = context.wrap_bio(self._in, self._out, server_hostname="localhost")
        self.socket = connect(port)
        self.received = b""

    def shake(self) -> None:
        """Go through the handshake, and keep its last flight."""
        while not self._has_shaken():
            self.flush(piece=1)
            self._in.write(self.socket.recv(1 << 16))

    def flush(self, piece: int = 1 << 20) -> None:
        """Send what is there, in pieces."""
        held = self._out.read()
        for start in range(0, len(held), piece):
            self.socket.sendall(held[start : start + piece])

    def read(self) -> bytes:
        """Everything until the server says goodbye."""
        while encrypted := self.socket.recv(1 << 16):
            self._in.write(encrypted)
            if not self._take():
                break
        return self.received

    def _has_shaken(self) -> bool:
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def _take(self) -> bool:
        """Decrypt what is there; whether more can come."""
        with suppress(ssl.SSLWantReadError):
            while part := self.tls.read(1 << 16):
                self.received += part
            return False
        return True


@pytest.fixture
def hands() -> Iterator[list[Hand]]:
    hands: list[Hand] = []
    yield hands
    for each in hands:
        each.socket.close()


@LOOPS
@pytest.mark.parametrize("piece", [1, 1 << 20])
def test_requests_that_come_with_the_end_of_the_handshake_are_answered(
    new_loop: Callable[[], object],
    authority: Authority,
    tls: Callable[[], ssl.SSLContext],
    hands: list[Hand],
    piece: int,
):
    """A quick client's pipeline is not lost, in one go or byte by byte."""
    with running(new_loop, tls=tls) as server:
        hands.append(Hand(authority, server.port))
        hands[0].shake()
        hands[0].tls.write(GET + LAST_GET)
        hands[0].flush(piece)
        received = hands[0].read()
        hands[0].socket.close()

    assert received.count(b"/hello") == 2


@LOOPS
def test_end_of_a_client_is_quiet(
    new_loop: Callable[[], object],
    authority: Authority,
    tls: Callable[[], ssl.SSLContext],
    caplog: pytest.LogCaptureFixture,
):
    """A client may say goodbye in TLS's way right after it has asked; the answer comes first."""
    with running(new_loop, tls=tls) as server:
        client = client_context(authority).wrap_socket(
            connect(server.port), server_hostname="localhost"
        )
        client.sendall(GET)
        page = client.recv(1 << 16)
        rest = b""
        with suppress(ssl.SSLEOFError):  # the asyncio of Python 3.10 hangs up without a word
            plain = client.unwrap()
            rest = received_from(plain)
            plain.close()

    assert page.endswith(b"/hello")
    assert rest == b""
    assert caplog.messages == []


@LOOPS
def test_goodbye_in_the_same_packet_as_a_request_comes_after_its_answer(
    new_loop: Callable[[], object],
    authority: Authority,
    tls: Callable[[], ssl.SSLContext],
    hands: list[Hand],
):
    """The end of one side is the end of both, but not of what has been asked before."""
    if sys.version_info < (3, 11) and new_loop is asyncio.new_event_loop:
        pytest.skip("the asyncio of Python 3.10 hangs up at a goodbye, whatever is to be sent")
    with running(new_loop, tls=tls) as server:
        hands.append(Hand(authority, server.port))
        hands[0].shake()
        hands[0].flush()
        hands[0].tls.write(GET)
        with suppress(ssl.SSLWantReadError):
            hands[0].tls.unwrap()
        hands[0].flush()
        with suppress(ssl.SSLZeroReturnError):  # the server's goodbye
            hands[0].read()
        hands[0].socket.close()

    assert hands[0].received.endswith(b"/hello")


@LOOPS
def test_large_upload_that_is_refused_reads_why_over_tls(
    new_loop: Callable[[], object], authority: Authority, tls: Callable[[], ssl.SSLContext]
):
    """A client still sending gets the reason and not a reset, though TLS cannot half close."""
    with running(new_loop, tls=tls) as server:
        client = client_context(authority).wrap_socket(
            connect(server.port), server_hostname="localhost"
        )
        client.sendall(b"POST / HTTP/1.1\r\nContent-Length: 9999999999\r\n\r\n" + bytes(10**6))
        response = http.client.HTTPResponse(client)
        response.begin()
        status, page = response.status, response.read()
        client.close()

    assert status == 413
    assert b"<H1>Request Entity Too Large</H1>" in page


@LOOPS
def test_large_answers_arrive_whole(
    new_loop: Callable[[], object], authority: Authority, tls: Callable[[], ssl.SSLContext]
):
    """Megabytes go there and back over either protocol."""
    large = bytes(range(256)) * 40_000
    credentials = grpc.ssl_channel_credentials(authority.certificate.encode())
    options = [("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", -1)]
    with (
        running(new_loop, tls=tls) as server,
        requests.Session() as session,
        grpc.secure_channel(f"localhost:{server.port}", credentials, options) as channel,
    ):
        session.trust_env = False
        url = f"https://localhost:{server.port}/"
        page = session.post(url, data=large, verify=str(authority.path), timeout=30).content
        answer = channel.unary_unary(ECHO)(large, timeout=30)

    assert page == b"/" + large
    assert answer == large


@LOOPS
def test_new_certificate_holds_for_new_connections(
    new_loop: Callable[[], object], authority: Authority, identity: Identity
):
    """Each connection asks what holds now; those that are there go on."""
    contexts = [
        server_context(certificate=each.certificate, key=each.key)
        for each in (identity, authority.server("renewed"))
    ]
    turns = cycle(contexts)
    with running(new_loop, tls=lambda: next(turns)) as server:
        clients = [
            client_context(authority).wrap_socket(connect(server.port), server_hostname="localhost")
            for _ in contexts
        ]
        names = [dict(part[0] for part in each.getpeercert()["subject"]) for each in clients]
        pages = []
        for each in clients:
            each.sendall(LAST_GET)
            pages.append(received_from(each))
            each.close()

    assert [each["commonName"] for each in names] == ["tls-server", "renewed"]
    assert all(each.endswith(b"/hello") for each in pages)


@LOOPS
def test_drain_lets_go_of_clients_in_every_state(
    new_loop: Callable[[], object],
    authority: Authority,
    tls: Callable[[], ssl.SSLContext],
    caplog: pytest.LogCaptureFixture,
):
    """A handshake under way, a silent client and an idle one do not hold up the end."""
    caplog.set_level(logging.INFO)
    patience = Http1Patience(linger_s=0.2)
    with running(new_loop, tls=tls, http1_patience=patience) as server:
        shaking = connect(server.port)
        silent, idle = (
            client_context(authority).wrap_socket(connect(server.port), server_hostname="localhost")
            for _ in range(2)
        )
        idle.sendall(GET)
        idle.recv(1 << 16)
        server.do(lambda: server.listener.drain(5))
        open_connections = server.listener.statistics().open_connections
        ends = [received_from(each) for each in (shaking, silent, idle)]
        for each in (shaking, silent, idle):
            each.close()

    assert open_connections == 0
    assert ends == [b"", b"", b""]
    assert caplog.messages == []
