"""gRPC's names for a connection's limits, and what each of them changes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.model_server.channel_arguments import (
    INT_MAX,
    ROWS,
    ChannelArguments,
    read_channel_arguments,
)
from salver.wire.pings import PingRules

NONE = ChannelArguments()


def patience(**changes: Any) -> ChannelArguments:
    return replace(NONE, patience=replace(NONE.patience, **changes))


def http2(**changes: Any) -> ChannelArguments:
    return replace(NONE, http2_limits=replace(NONE.http2_limits, **changes))


def message_bytes(limit: int) -> ChannelArguments:
    return replace(NONE, exchange_limits=replace(NONE.exchange_limits, message_bytes=limit))


def pings(**rules: Any) -> ChannelArguments:
    return replace(NONE, ping_rules=PingRules(**rules))


MEANINGS = [
    ("grpc.server_handshake_timeout_ms=5000", patience(handshake_s=5.0)),
    ("grpc.keepalive_time_ms=30000", patience(keepalive_time_s=30.0)),
    (f"grpc.keepalive_time_ms={INT_MAX}", patience(keepalive_time_s=math.inf)),
    ("grpc.keepalive_timeout_ms=1500", patience(keepalive_timeout_s=1.5)),
    ("grpc.keepalive_timeout_ms=0", patience(keepalive_timeout_s=0.0)),
    ("grpc.keepalive_permit_without_calls=0", patience(keepalive_permit_without_calls=False)),
    ("grpc.keepalive_permit_without_calls=1", NONE),
    ("grpc.max_connection_idle_ms=60000", patience(max_connection_idle_s=60.0)),
    (f"grpc.max_connection_idle_ms={INT_MAX}", NONE),
    ("grpc.max_connection_age_ms=1", patience(max_connection_age_s=0.001)),
    (f"grpc.max_connection_age_ms={INT_MAX}", NONE),
    ("grpc.max_connection_age_grace_ms=0", patience(max_connection_age_grace_s=0.0)),
    ("grpc.http2.min_ping_interval_without_data_ms=10000", pings(interval_s=10.0)),
    (f"grpc.http2.min_ping_interval_without_data_ms={INT_MAX}", pings(interval_s=math.inf)),
    ("grpc.http2.max_ping_strikes=0", pings(strikes=0)),
    ("grpc.max_receive_message_length=1000", message_bytes(1000)),
    ("grpc.max_receive_message_length=-1", NONE),
    (
        "grpc.max_send_message_length=1000",
        replace(NONE, exchange_limits=replace(NONE.exchange_limits, answer_bytes=1000)),
    ),
    ("grpc.max_send_message_length=-1", NONE),
    ("grpc.max_concurrent_streams=7", http2(concurrent_streams=7)),
    ("grpc.max_metadata_size=16384", http2(header_list_bytes=16384)),
    ("grpc.http2.max_frame_size=100", http2(frame_bytes=1 << 14)),
    ("grpc.http2.max_frame_size=32768", http2(frame_bytes=32768)),
    (f"grpc.http2.max_frame_size={INT_MAX}", http2(frame_bytes=(1 << 24) - 1)),
    ("grpc.http2.lookahead_bytes=0", http2(stream_window_bytes=65_535)),
    ("grpc.http2.lookahead_bytes=1000000", http2(stream_window_bytes=1_000_000)),
    (
        f"grpc.http2.lookahead_bytes={INT_MAX}",
        http2(stream_window_bytes=INT_MAX, connection_window_bytes=INT_MAX),
    ),
    ("grpc.so_reuseport=1", replace(NONE, reuse_port=True)),
    ("grpc.so_reuseport=0", NONE),
]


@pytest.mark.parametrize(("text", "meaning"), MEANINGS)
def test_argument_changes_its_limit_and_nothing_else(text: str, meaning: ChannelArguments):
    """Each argument means what gRPC documents, where it means something here."""
    assert read_channel_arguments(text) == meaning


def test_every_argument_of_the_table_is_tried_here():
    """No row is without an example above."""
    assert {text.partition("=")[0] for text, _ in MEANINGS} == set(ROWS)


def test_arguments_add_up():
    """A list sets many limits; blanks do not count, and the last of two counts."""
    arguments = read_channel_arguments(
        "grpc.max_connection_age_ms=1, grpc.max_connection_age_ms = 2000,"
        "grpc.max_connection_age_grace_ms=5000,,grpc.so_reuseport=1,"
    )

    aged = patience(max_connection_age_s=2.0, max_connection_age_grace_s=5.0)
    assert arguments == replace(aged, reuse_port=True)


@pytest.mark.parametrize("turn", [1, -1])
def test_one_permit_is_for_the_pings_of_both_sides(turn: int):
    """Whether it stands before or after the interval, it says the same."""
    entries = [
        "grpc.keepalive_permit_without_calls=0",
        "grpc.http2.min_ping_interval_without_data_ms=10000",
    ]

    arguments = read_channel_arguments(",".join(entries[::turn]))

    assert arguments.ping_rules == PingRules(interval_s=10.0, without_calls=False)
    assert not arguments.patience.keepalive_permit_without_calls


def test_argument_without_a_meaning_here_is_named_once(caplog: pytest.LogCaptureFixture):
    """Other arguments are accepted, whatever their value, and one line names them."""
    arguments = read_channel_arguments(
        "grpc.optimization_target=throughput,grpc.http2.bdp_probe=1,grpc.so_reuseport=1"
    )

    assert arguments == replace(NONE, reuse_port=True)
    assert caplog.messages == [
        "Channel arguments that have no effect: grpc.optimization_target, grpc.http2.bdp_probe"
    ]


@pytest.mark.parametrize("entry", ["grpc.so_reuseport", "=1", "nonsense"])
def test_entry_that_is_no_argument_is_named_and_passed_over(
    entry: str, caplog: pytest.LogCaptureFixture
):
    """What TensorFlow Serving would crash on costs a line of the log."""
    arguments = read_channel_arguments(f"{entry},grpc.so_reuseport=1")

    assert arguments == replace(NONE, reuse_port=True)
    assert caplog.messages == [f"Ignoring the channel argument {entry!r}: it is no key=value"]


@pytest.mark.parametrize("value", ["", "soon", "-1", "1e3", "2147483648", "1.5", "\u0663"])
def test_value_that_is_no_such_integer_is_passed_over(value: str, caplog: pytest.LogCaptureFixture):
    """A value that gRPC would ignore is ignored, and the line says what it has to be."""
    arguments = read_channel_arguments(f"grpc.keepalive_timeout_ms={value}")

    assert arguments == NONE
    assert len(caplog.messages) == 1
    assert f" grpc.keepalive_timeout_ms={value}: " in caplog.text
    assert "an integer from 0 to 2147483647" in caplog.text


@given(st.text(alphabet="grpc.=, -+0123456789_ms\n\x00", max_size=60))
def test_no_text_ends_the_start(text: str):
    """Whatever is given, there are arguments to go on with."""
    assert isinstance(read_channel_arguments(text), ChannelArguments)


@given(st.sampled_from(sorted(ROWS)), st.integers(-(1 << 31), INT_MAX))
def test_no_integer_makes_limits_that_http2_cannot_have(name: str, value: int):
    """Every int32 is either used, moved to a border, or ignored."""
    limits = read_channel_arguments(f"{name}={value}").http2_limits

    assert limits.connection_window_bytes >= limits.stream_window_bytes >= 65_535
    assert 1 << 14 <= limits.frame_bytes < 1 << 24
