"""A connection driven by another implementation: whatever happens, every answer arrives whole."""

from __future__ import annotations

from dataclasses import dataclass, field

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    PingAckReceived,
    ResponseReceived,
    SettingsAcknowledged,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.settings import SettingCodes
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from http2_peer import CALL, END, HUFFMAN, OK
from salver.wire import http2
from salver.wire.http2 import Http2Connection, Http2Limits
from salver.wire.http2_frames import DEFAULT_WINDOW

LIMITS = Http2Limits(
    stream_window_bytes=DEFAULT_WINDOW,
    connection_window_bytes=DEFAULT_WINDOW + 1,
    concurrent_streams=5,
    idle_frames=100_000,
)
ODD_HEADERS = ((b":status", b"200"), (b"x-long", b"z" * 30_000))


@dataclass
class Call:
    """What the client knows of a request, and what it expects."""

    to_send: bytes
    answer: bytes
    is_streamed: bool
    received: bytearray = field(default_factory=bytearray)
    unacknowledged: int = 0
    has_headers: bool = False
    has_trailers: bool = False
    has_ended: bool = False
    is_sent: bool = False
    reset_code: int | None = None
    was_taken_back: bool = False


class Conversation(RuleBasedStateMachine):
    """Rules for both ends and for the bytes between them."""

    def __init__(self) -> None:
        super().__init__()
        self.client = H2Connection(
            H2Configuration(client_side=True, header_encoding=None, validate_inbound_headers=True)
        )
        self.client.initiate_connection()
        self.server = Http2Connection(HUFFMAN, LIMITS)
        self.to_server = self.to_client = b""
        self.calls: dict[int, Call] = {}
        self.bodies: dict[int, bytearray] = {}  # as the server has them
        self.pings_sent = self.pings_back = 0
        self.settings_sent, self.settings_back = 1, 0
        self.is_narrow = True

    # The client's moves.

    @rule(
        size=st.integers(0, 100_000),
        answer_size=st.integers(0, 100_000),
        is_streamed=st.booleans(),
        timeout=st.integers(1, 30),
    )
    def begin(self, size: int, answer_size: int, is_streamed: bool, timeout: int) -> None:
        stream_id = self.client.get_next_available_stream_id()
        if self.client.open_outbound_streams >= self.client.remote_settings.max_concurrent_streams:
            return
        headers = [*CALL, (b"answer", b"%d" % answer_size), (b"grpc-timeout", b"%dS" % timeout)]
        if is_streamed:
            headers.append((b"streamed", b"1"))
        self.client.send_headers(stream_id, headers)
        self.calls[stream_id] = Call(
            bytes(size), b"%07d" % stream_id * (answer_size // 7), is_streamed
        )

    @precondition(lambda self: self.calls)
    @rule(pick=st.integers(0), most=st.integers(0, 70_000), padding=st.none() | st.integers(0, 255))
    def go_on(self, pick: int, most: int, padding: int | None) -> None:
        stream_id = list(self.calls)[pick % len(self.calls)]
        self.send_body(stream_id, most, padding)

    def send_body(self, stream_id: int, most: int, padding: int | None = None) -> None:
        call = self.calls[stream_id]
        if call.is_sent or call.has_ended or call.reset_code is not None or call.was_taken_back:
            return
        padded = 0 if padding is None else padding + 1
        room = min(self.client.local_flow_control_window(stream_id), 16_384) - padded
        piece = call.to_send[: max(min(most, room), 0)]
        call.is_sent = len(piece) == len(call.to_send)
        if padded > max(room, 0):
            padding = None
        self.client.send_data(stream_id, piece, end_stream=call.is_sent, pad_length=padding)
        call.to_send = call.to_send[len(piece) :]

    @precondition(lambda self: self.calls)
    @rule(pick=st.integers(0))
    def take_back(self, pick: int) -> None:
        stream_id = list(self.calls)[pick % len(self.calls)]
        call = self.calls[stream_id]
        if not call.has_ended and call.reset_code is None and not call.was_taken_back:
            call.was_taken_back = True
            self.client.reset_stream(stream_id, ErrorCodes.CANCEL)

    @precondition(lambda self: self.calls)
    @rule(pick=st.integers(0), part=st.integers(1, 100_000))
    def make_room(self, pick: int, part: int) -> None:
        stream_id = list(self.calls)[pick % len(self.calls)]
        self.acknowledge(stream_id, part)

    def acknowledge(self, stream_id: int, most: int) -> None:
        call = self.calls[stream_id]
        part = min(most, call.unacknowledged)
        call.unacknowledged -= part
        if part:
            self.client.acknowledge_received_data(part, stream_id)

    # h2 takes every ACK for one of all the settings it has sent, so there is one at a time.
    @precondition(lambda self: self.settings_sent == self.settings_back)
    @rule(
        change=st.one_of(
            st.tuples(st.just(SettingCodes.INITIAL_WINDOW_SIZE), st.integers(0, 100_000)),
            st.tuples(st.just(SettingCodes.HEADER_TABLE_SIZE), st.integers(0, 8192)),
            st.tuples(st.just(SettingCodes.MAX_FRAME_SIZE), st.integers(16_384, 40_000)),
        )
    )
    def change_setting(self, change: tuple[SettingCodes, int]) -> None:
        self.client.update_settings(dict([change]))
        self.settings_sent += 1

    @rule()
    def ping(self) -> None:
        self.client.ping(b"01234567")
        self.pings_sent += 1

    # The bytes between them.

    @rule(part=st.integers(1, 100_000))
    def deliver_to_server(self, part: int) -> None:
        self.to_server += self.client.data_to_send()
        piece, self.to_server = self.to_server[:part], self.to_server[part:]
        for event in self.server.receive(piece):
            self.on_server_event(event)
        assert not self.server.is_closed, self.server.close_reason

    @rule(most=st.integers(1, 10))
    def deliver_to_client(self, most: int) -> None:
        # Frame by frame: h2 heeds the frame size that it has just been granted only then.
        self.to_client += self.server.take_output()
        for _ in range(most):
            if not self.to_client:
                return
            size = 9 + int.from_bytes(self.to_client[:3], "big")
            piece, self.to_client = self.to_client[:size], self.to_client[size:]
            for event in self.client.receive_data(piece):
                self.on_client_event(event)

    # What they make of it.

    def on_server_event(self, event: http2.Event) -> None:
        if isinstance(event, http2.RequestReceived):
            assert event.timeout.endswith(b"S")
            self.bodies[event.stream_id] = bytearray()
            if event.head.header(b"streamed"):
                self.server.send_headers(event.stream_id, ODD_HEADERS)
        elif isinstance(event, http2.DataReceived):
            self.bodies[event.stream_id] += event.data
            if event.ended:
                self.answer(event.stream_id)
        elif isinstance(event, http2.StreamEnded):
            assert self.calls[event.stream_id].was_taken_back

    def answer(self, stream_id: int) -> None:
        call = self.calls[stream_id]
        if not call.is_streamed:
            self.server.respond(stream_id, OK, call.answer, END)
            return
        middle = len(call.answer) // 2
        self.server.send_data(stream_id, call.answer[:middle], end_stream=False)
        self.server.send_data(stream_id, call.answer[middle:], trailers=END.headers)

    def on_client_event(self, event: object) -> None:
        stream_id = getattr(event, "stream_id", None)
        call = self.calls.get(stream_id or 0)
        if isinstance(event, ResponseReceived):
            expected = ODD_HEADERS if call.is_streamed else OK.headers
            assert [tuple(header) for header in event.headers] == list(expected)
            call.has_headers = True
        elif isinstance(event, DataReceived):
            call.received += event.data
            call.unacknowledged += event.flow_controlled_length
        elif isinstance(event, TrailersReceived):
            assert [tuple(header) for header in event.headers] == list(END.headers)
            call.has_trailers = True
        elif isinstance(event, StreamEnded):
            call.has_ended = True
        elif isinstance(event, StreamReset):
            call.reset_code = event.error_code
        elif isinstance(event, SettingsAcknowledged):
            self.settings_back += 1
        elif isinstance(event, PingAckReceived):
            self.pings_back += 1
        assert not isinstance(event, ConnectionTerminated)

    # The end.

    def teardown(self) -> None:
        """Let everybody finish, and look at what has come of it."""
        for _ in range(1000):
            if self.settings_sent == self.settings_back and self.is_narrow:
                self.is_narrow = False
                self.change_setting((SettingCodes.INITIAL_WINDOW_SIZE, 1 << 20))
            for stream_id in self.calls:
                self.send_body(stream_id, 70_000)
                self.acknowledge(stream_id, 1 << 30)
            self.deliver_to_server(1 << 30)
            self.deliver_to_client(1 << 30)
            if all(map(is_over, self.calls.values())):
                break
        for stream_id, call in self.calls.items():
            assert is_over(call), stream_id
            if not call.was_taken_back and call.reset_code is None:
                assert (call.has_headers, call.has_trailers) == (True, True)
                assert bytes(call.received) == call.answer
            else:
                assert call.was_taken_back or call.reset_code == ErrorCodes.REFUSED_STREAM
        self.deliver_to_server(1 << 30)
        self.deliver_to_client(1 << 30)
        assert self.pings_back == self.pings_sent
        assert self.server.open_streams == 0
        assert not self.server.waits_for_window


def is_over(call: Call) -> bool:
    return call.has_ended or call.was_taken_back or call.reset_code is not None


TestConversation = Conversation.TestCase
TestConversation.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
