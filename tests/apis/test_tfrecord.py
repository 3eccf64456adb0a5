"""TFRecord files as TensorFlow writes them, whole and damaged in every way."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logged_requests import write_records
from salver.apis.crc32c import crc32c
from salver.apis.tfrecord import MAX_RECORD_BYTES, masked_crc32c, read_records
from salver.errors import DataLoss, PermissionDenied, ResourceExhausted, Unavailable

RECORDS = [b"first", b"", bytes(range(256)) * 3]
STARTS = [0, 21, 37]  # sixteen bytes of lengths and checksums around each record


def reference_crc32c(data: bytes) -> int:
    """The definition, bit by bit."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file with RECORDS, by TensorFlow."""
    return write_records(tmp_path_factory.mktemp("records") / "whole", *RECORDS).read_bytes()


@pytest.mark.parametrize(
    ("data", "checksum"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_checksums_are_those_of_the_rfc(data: bytes, checksum: int):
    """RFC 3720 lists messages with their checksums."""
    assert crc32c(data) == checksum


@given(st.integers(1000, 6000), st.binary(min_size=1, max_size=40), st.integers(0, 255))
def test_a_long_message_has_the_checksum_of_the_definition(size: int, seed: bytes, last: int):
    """The lengths around which the way to compute it changes make no difference."""
    data = (seed * (size // len(seed) + 1))[:size] + bytes([last])

    assert crc32c(data) == reference_crc32c(data)


def test_records_are_read_as_tensorflow_wrote_them(tmp_path: Path):
    """Empty, short and long ones, in order."""
    records = [*RECORDS, os.urandom(70_001)]

    assert list(read_records(write_records(tmp_path / "a", *records))) == records


def test_a_file_without_records_has_none(tmp_path: Path):
    """An empty file is in order."""
    assert list(read_records(write_records(tmp_path / "a"))) == []


def test_a_file_cut_off_anywhere_says_so(whole: bytes, tmp_path: Path):
    """Between two records nothing shows that more was to come; everywhere else it does."""
    path = tmp_path / "cut"
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        if size in STARTS:
            assert list(read_records(path)) == RECORDS[: STARTS.index(size)]
            continue
        start = max(start for start in STARTS if start < size)
        with pytest.raises(DataLoss, match=f"DATA_LOSS: truncated record at {start}'"):
            list(read_records(path))


@given(st.data())
def test_a_flipped_bit_is_noticed(whole: bytes, tmp_path_factory, data: st.DataObject):
    """Wherever it is, the record it is in is not handed on, and those before it are."""
    at = data.draw(st.integers(0, len(whole) * 8 - 1))
    damaged = bytearray(whole)
    damaged[at // 8] ^= 1 << at % 8
    path = tmp_path_factory.getbasetemp() / "flipped"
    path.write_bytes(damaged)

    read = _read_until_damage(path)

    assert read == RECORDS[: _index_of(at // 8)]


@given(st.binary(max_size=300))
def test_bytes_that_are_no_records_are_data_loss(tmp_path_factory, content: bytes):
    """Any file at all is either in order or DataLoss."""
    path = tmp_path_factory.getbasetemp() / "anything"
    path.write_bytes(content)

    assert len(_read_until_damage(path)) <= len(content) // 16


def test_a_length_beyond_the_file_asks_for_no_memory(tmp_path: Path):
    """A length that its checksum vouches for is still compared with the file."""
    length = struct.pack("<Q", 1 << 60)
    path = tmp_path / "huge"
    path.write_bytes(length + struct.pack("<I", masked_crc32c(length)) + b"few")

    with pytest.raises(DataLoss, match="DATA_LOSS: truncated record at 0'"):
        list(read_records(path))


def test_a_record_longer_than_any_message_is_refused_unread(tmp_path: Path):
    """A file with holes can be of any size."""
    length = struct.pack("<Q", MAX_RECORD_BYTES + 1)
    path = tmp_path / "holes"
    path.write_bytes(length + struct.pack("<I", masked_crc32c(length)))
    os.truncate(path, MAX_RECORD_BYTES + 100)

    with pytest.raises(ResourceExhausted, match=f"at most {MAX_RECORD_BYTES} can be read"):
        list(read_records(path))


def test_a_folder_in_its_place_cannot_be_read(tmp_path: Path):
    """The text names the path and the reason."""
    with pytest.raises(Unavailable, match=r"cannot be read: Is a directory"):
        list(read_records(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_denied(tmp_path: Path):
    """The text names the path and the user."""
    path = write_records(tmp_path / "a", b"record")
    path.chmod(0)

    with pytest.raises(PermissionDenied, match="cannot be read by user"):
        list(read_records(path))


def _read_until_damage(path: Path) -> list[bytes]:
    read: list[bytes] = []
    try:
        for record in read_records(path):
            read.append(record)  # noqa: PERF402 - what came before the damage counts
    except DataLoss:
        pass
    return read


def _index_of(offset: int) -> int:
    return max(i for i, start in enumerate(STARTS) if start <= offset)
