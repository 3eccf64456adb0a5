"""``grpc_channel_arguments``: gRPC's names for what a connection may ask of the server.

Each argument that means something here is one row of a table: its name, its lowest value, and the
limit it sets.  What has no meaning here is accepted and named in one warning.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from salver.wire.exchanges import ExchangeLimits
from salver.wire.http2 import Http2Limits
from salver.wire.http2_frames import DEFAULT_WINDOW, MAX_MAX_FRAME_BYTES, MIN_MAX_FRAME_BYTES
from salver.wire.listener import Patience
from salver.wire.pings import PingRules

logger = logging.getLogger(__name__)

INT_MAX: Final = (1 << 31) - 1
"""Where gRPC's times and sizes end: no limit."""

INTEGER: Final = re.compile(r"[+-]?[0-9]+", re.ASCII)

Value = int | str


@dataclass(frozen=True, slots=True)
class ChannelArguments:
    """What the arguments ask for; ``ChannelArguments()`` is what holds without any."""

    patience: Patience = field(default_factory=Patience)
    http2_limits: Http2Limits = field(default_factory=Http2Limits)
    exchange_limits: ExchangeLimits = field(default_factory=ExchangeLimits)
    ping_rules: PingRules | None = None
    """Only those who ask for it have their clients' pings counted."""
    reuse_port: bool = False


def read_channel_arguments(text: str) -> ChannelArguments:
    """Read ``key=value,key=value``; of a key that stands twice, the last value counts."""
    arguments = ChannelArguments()
    without_effect = []
    for name, value in dict(_entries(text)).items():
        row = ROWS.get(name)
        if row is None:
            without_effect.append(name)
        elif isinstance(value, str) or value < row.lowest:
            logger.warning(
                "Ignoring the channel argument %s=%s: it has to be an integer from %d to %d",
                *(name, value, row.lowest, INT_MAX),
            )
        else:
            arguments = row.apply(arguments, value)
    if without_effect:
        logger.warning("Channel arguments that have no effect: %s", ", ".join(without_effect))
    return _with_one_permit(arguments)


def _with_one_permit(arguments: ChannelArguments) -> ChannelArguments:
    """gRPC has one argument for the pings of both sides, wherever it stands in the list."""
    if arguments.ping_rules is None:
        return arguments
    permitted = arguments.patience.keepalive_permit_without_calls
    return replace(arguments, ping_rules=replace(arguments.ping_rules, without_calls=permitted))


def _entries(text: str) -> Iterator[tuple[str, Value]]:
    for entry in filter(None, map(str.strip, text.split(","))):
        name, sign, value = map(str.strip, entry.partition("="))
        if sign and name:
            yield name, _value(value)
        else:
            logger.warning("Ignoring the channel argument %r: it is no key=value", entry)


def _value(text: str) -> Value:
    """An int32 if it is one, else the text, as TensorFlow Serving tells them apart."""
    number = int(text) if INTEGER.fullmatch(text) and len(text) <= 16 else None
    return text if number is None or not -INT_MAX - 1 <= number <= INT_MAX else number


# What an argument changes.

Change = Callable[[ChannelArguments, int], ChannelArguments]


@dataclass(frozen=True, slots=True)
class Row:
    """One argument that means something here."""

    lowest: int
    apply: Change


def _patience(name: str) -> Change:
    """Milliseconds, of which INT_MAX is for ever."""

    def apply(arguments: ChannelArguments, value: int) -> ChannelArguments:
        seconds = math.inf if value == INT_MAX else value / 1000
        # A dict of Any for mypy: the names stand in the table below, and its test reads each.
        changed = replace(arguments.patience, **{name: seconds})  # type: ignore[arg-type]
        return replace(arguments, patience=changed)

    return apply


def _http2_limit(name: str, *, lowest: int = 0, highest: int = INT_MAX) -> Change:
    """A number that HTTP/2 can carry: what lies outside is moved to the border."""

    def apply(arguments: ChannelArguments, value: int) -> ChannelArguments:
        changed = replace(arguments.http2_limits, **{name: min(max(value, lowest), highest)})
        return replace(arguments, http2_limits=changed)

    return apply


def _lookahead(arguments: ChannelArguments, value: int) -> ChannelArguments:
    """The connection's window is never smaller than a stream's."""
    limits = arguments.http2_limits
    stream_bytes = max(value, DEFAULT_WINDOW)
    changed = replace(
        limits,
        stream_window_bytes=stream_bytes,
        connection_window_bytes=max(limits.connection_window_bytes, stream_bytes),
    )
    return replace(arguments, http2_limits=changed)


def _permit_without_calls(arguments: ChannelArguments, value: int) -> ChannelArguments:
    """Whether we may ask an idle client for a sign of life, and it us."""
    patience = replace(arguments.patience, keepalive_permit_without_calls=bool(value))
    return replace(arguments, patience=patience)


def _ping_interval(arguments: ChannelArguments, value: int) -> ChannelArguments:
    interval_s = math.inf if value == INT_MAX else value / 1000
    rules = replace(arguments.ping_rules or PingRules(), interval_s=interval_s)
    return replace(arguments, ping_rules=rules)


def _ping_strikes(arguments: ChannelArguments, value: int) -> ChannelArguments:
    rules = replace(arguments.ping_rules or PingRules(), strikes=value)
    return replace(arguments, ping_rules=rules)


def _receive_bytes(arguments: ChannelArguments, value: int) -> ChannelArguments:
    limits = replace(arguments.exchange_limits, message_bytes=INT_MAX if value < 0 else value)
    return replace(arguments, exchange_limits=limits)


def _send_bytes(arguments: ChannelArguments, value: int) -> ChannelArguments:
    limits = replace(arguments.exchange_limits, answer_bytes=None if value < 0 else value)
    return replace(arguments, exchange_limits=limits)


def _reuse_port(arguments: ChannelArguments, value: int) -> ChannelArguments:
    return replace(arguments, reuse_port=bool(value))


ROWS: Final[Mapping[str, Row]] = MappingProxyType(
    {
        "grpc.server_handshake_timeout_ms": Row(1, _patience("handshake_s")),
        "grpc.keepalive_time_ms": Row(1, _patience("keepalive_time_s")),
        "grpc.keepalive_timeout_ms": Row(0, _patience("keepalive_timeout_s")),
        "grpc.keepalive_permit_without_calls": Row(0, _permit_without_calls),
        "grpc.max_connection_idle_ms": Row(1, _patience("max_connection_idle_s")),
        "grpc.max_connection_age_ms": Row(1, _patience("max_connection_age_s")),
        "grpc.max_connection_age_grace_ms": Row(0, _patience("max_connection_age_grace_s")),
        "grpc.http2.min_ping_interval_without_data_ms": Row(0, _ping_interval),
        "grpc.http2.max_ping_strikes": Row(0, _ping_strikes),
        "grpc.max_receive_message_length": Row(-1, _receive_bytes),
        "grpc.max_send_message_length": Row(-1, _send_bytes),
        "grpc.max_concurrent_streams": Row(0, _http2_limit("concurrent_streams")),
        "grpc.max_metadata_size": Row(0, _http2_limit("header_list_bytes")),
        "grpc.http2.max_frame_size": Row(
            0,
            _http2_limit("frame_bytes", lowest=MIN_MAX_FRAME_BYTES, highest=MAX_MAX_FRAME_BYTES),
        ),
        "grpc.http2.lookahead_bytes": Row(0, _lookahead),
        "grpc.so_reuseport": Row(0, _reuse_port),
    }
)
"""The arguments that mean something here, by gRPC's names."""
