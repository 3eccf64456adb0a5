"""HPACK: header blocks to headers and back (RFC 7541).

Pure: bytes in, headers out, and a table on either side that both peers keep in step.

Clients send the same header block call after call.  A block that changed nothing in the dynamic
table means the same again until something else does, so decoded blocks are remembered by their
bytes until then.  That turns decoding into one dictionary look-up for all but a connection's first
calls.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, Final

from salver.wire.huffman import Huffman

Header = tuple[bytes, bytes]
Headers = tuple[Header, ...]

ENTRY_OVERHEAD: Final = 32
"""What an entry counts for besides its octets (section 4.1)."""

DEFAULT_TABLE_BYTES: Final = 4096

MAX_REMEMBERED_BLOCKS: Final = 64
MAX_REMEMBERED_BLOCK_BYTES: Final = 1024

MAX_INTEGER_OCTETS: Final = 5
"""After its prefix.  No honest length or index is longer, not even with needless zeros."""

MAX_SIZE_UPDATES: Final = 2
"""In one block: the smallest size since the last one, and the size from now on (section 4.2)."""

BLOCK_OCTETS_AT_ONCE: Final = 256
"""So much of a block is decoded before its headers are counted; most are no longer."""

TOO_MANY_TIMES: Final = 4
"""Headers of so many times the limit are not decoded on: few octets may stand for very many."""

STATIC_TABLE: Final[Headers] = (
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    (b":status", b"200"),
    (b":status", b"204"),
    (b":status", b"206"),
    (b":status", b"304"),
    (b":status", b"400"),
    (b":status", b"404"),
    (b":status", b"500"),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    (b"accept-language", b""),
    (b"accept-ranges", b""),
    (b"accept", b""),
    (b"access-control-allow-origin", b""),
    (b"age", b""),
    (b"allow", b""),
    (b"authorization", b""),
    (b"cache-control", b""),
    (b"content-disposition", b""),
    (b"content-encoding", b""),
    (b"content-language", b""),
    (b"content-length", b""),
    (b"content-location", b""),
    (b"content-range", b""),
    (b"content-type", b""),
    (b"cookie", b""),
    (b"date", b""),
    (b"etag", b""),
    (b"expect", b""),
    (b"expires", b""),
    (b"from", b""),
    (b"host", b""),
    (b"if-match", b""),
    (b"if-modified-since", b""),
    (b"if-none-match", b""),
    (b"if-range", b""),
    (b"if-unmodified-since", b""),
    (b"last-modified", b""),
    (b"link", b""),
    (b"location", b""),
    (b"max-forwards", b""),
    (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""),
    (b"range", b""),
    (b"referer", b""),
    (b"refresh", b""),
    (b"retry-after", b""),
    (b"server", b""),
    (b"set-cookie", b""),
    (b"strict-transport-security", b""),
    (b"transfer-encoding", b""),
    (b"user-agent", b""),
    (b"vary", b""),
    (b"via", b""),
    (b"www-authenticate", b""),
)

STATIC_COUNT: Final = len(STATIC_TABLE)


class HpackError(Exception):
    """A header block that cannot be decoded: the connection cannot go on (COMPRESSION_ERROR)."""


class TooManyHeadersError(Exception):
    """A header block of far more than the limit: the connection cannot go on, it is out of step."""


class HeaderTable:
    """The dynamic table: the newest entry first, the oldest evicted when it grows too large."""

    def __init__(self, max_bytes: int = DEFAULT_TABLE_BYTES) -> None:
        self.entries: Final[deque[Header]] = deque()
        """Read by others, changed only here."""
        self._max_bytes = max_bytes
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def size_bytes(self) -> int:
        """What the entries count for."""
        return self._bytes

    def __getitem__(self, index: int) -> Header:
        """The entry at an index of the combined address space (section 2.3.3).

        Raises:
            IndexError: there is none.
        """
        if index > STATIC_COUNT:
            return self.entries[index - STATIC_COUNT - 1]
        if index < 1:
            raise IndexError(index)
        return STATIC_TABLE[index - 1]

    def add(self, header: Header) -> None:
        """Put an entry in front; one larger than the table empties it and is not kept."""
        size = len(header[0]) + len(header[1]) + ENTRY_OVERHEAD
        if self._bytes + size > self._max_bytes:
            self._evict(self._max_bytes - size)
            if size > self._max_bytes:
                return
        self.entries.appendleft(header)
        self._bytes += size

    def resize(self, max_bytes: int) -> None:
        """Change how much the table may hold."""
        self._max_bytes = max_bytes
        self._evict(max_bytes)

    def _evict(self, room: int) -> None:
        while self.entries and self._bytes > room:
            self._bytes -= _entry_bytes(self.entries.pop())


class HeaderBlock:
    """A decoded block. ``meaning`` is what its reader makes of it, kept with it for next time."""

    __slots__ = ("headers", "is_too_large", "meaning")

    def __init__(self, headers: Headers, *, is_too_large: bool = False) -> None:
        self.headers = headers
        self.is_too_large = is_too_large
        """There are more headers than the limit, and only the first are here; the table is in step
        all the same."""
        self.meaning: Any = None  # Any: the reader's own affair


class HpackDecoder:
    """Decodes the header blocks of one connection, in their order."""

    def __init__(
        self,
        huffman: Huffman,
        *,
        table_bytes: int = DEFAULT_TABLE_BYTES,
        max_list_bytes: int = 64 << 10,
    ) -> None:
        self._huffman = huffman
        self._table_bytes = table_bytes
        self._max_list_bytes = max_list_bytes
        self._table = HeaderTable(table_bytes)
        self.remembered: Final[dict[bytes, HeaderBlock]] = {}
        """What a block means as long as the table stands still; read by others, changed here."""

    @property
    def table(self) -> HeaderTable:
        """The dynamic table, as the peer's encoder has it."""
        return self._table

    def decode(self, block: bytes) -> HeaderBlock:
        """The headers of a whole block.

        Raises:
            HpackError: the block is malformed.
            TooManyHeadersError: it holds many times what is allowed.
        """
        known = self.remembered.get(block)
        if known is not None:
            return known
        try:
            headers, has_changed_table = self._decode(block)
        except IndexError:
            raise HpackError(
                "a header block breaks off, or refers to an entry that does not exist"
            ) from None
        decoded = self._checked(headers, len(block))
        if has_changed_table:
            self.remembered.clear()
        elif len(block) <= MAX_REMEMBERED_BLOCK_BYTES:
            if len(self.remembered) >= MAX_REMEMBERED_BLOCKS:
                self.remembered.clear()
            self.remembered[block] = decoded
        return decoded

    def _decode(self, block: bytes) -> tuple[list[Header], bool]:
        """The headers, and whether the block has changed the table."""
        entries = self._table.entries
        headers: list[Header] = []
        position, end = self._read_size_updates(block), len(block)
        has_changed_table = position > 0
        stop = position + BLOCK_OCTETS_AT_ONCE
        counted = total = 0
        while position < end:
            if position >= stop:
                stop = position + BLOCK_OCTETS_AT_ONCE
                total += sum(map(_entry_bytes, headers[counted:]))
                counted = len(headers)
                if total > TOO_MANY_TIMES * self._max_list_bytes:
                    raise TooManyHeadersError("headers of many times what is allowed")
            first = block[position]
            if first > 0x80:  # indexed (6.1)
                index = first & 0x7F
                position += 1
                if index == 0x7F:
                    index, position = _rest_of_integer(block, position, 0x7F)
                if index > STATIC_COUNT:
                    headers.append(entries[index - STATIC_COUNT - 1])
                else:
                    headers.append(STATIC_TABLE[index - 1])
            elif first == 0x80:
                raise HpackError("a header block refers to entry 0, which does not exist")
            elif first & 0x40:  # a literal that enters the table (6.2.1)
                header, position = self._literal(block, position, 0x3F)
                self._table.add(header)
                headers.append(header)
                has_changed_table = True
            elif first & 0x20:
                raise HpackError("a table size update stands where it may not")
            else:  # a literal that does not (6.2.2, 6.2.3)
                header, position = self._literal(block, position, 0x0F)
                headers.append(header)
        return headers, has_changed_table

    def _checked(self, headers: list[Header], block_bytes: int) -> HeaderBlock:
        """The decoded block, with as many of its headers as the limit allows."""
        # Entries are no larger than their table, and no Huffman code is shorter than five bits: a
        # few headers can never be too large, and need not be counted.
        most = len(headers) * (self._table_bytes + 2 * ENTRY_OVERHEAD) + 2 * block_bytes
        if most > self._max_list_bytes:
            total = 0
            for count, header in enumerate(headers):
                total += _entry_bytes(header)
                if total > self._max_list_bytes:
                    return HeaderBlock(tuple(headers[:count]), is_too_large=True)
        return HeaderBlock(tuple(headers))

    def _read_size_updates(self, block: bytes) -> int:
        """Follow the table size updates that a block begins with; where they end (6.3)."""
        position = 0
        for _ in range(MAX_SIZE_UPDATES):
            if position >= len(block) or block[position] & 0xE0 != 0x20:
                break
            size, position = _integer(block, position, 0x1F)
            if size > self._table_bytes:
                raise HpackError(
                    f"a table of {size} octets is wanted; {self._table_bytes} are allowed"
                )
            self._table.resize(size)
        return position

    def _literal(self, block: bytes, position: int, mask: int) -> tuple[Header, int]:
        index = block[position] & mask
        position += 1
        if index == mask:
            index, position = _rest_of_integer(block, position, mask)
        if index:
            name = self._table[index][0]
        else:
            name, position = self._string(block, position)
        value, position = self._string(block, position)
        return (name, value), position

    def _string(self, block: bytes, position: int) -> tuple[bytes, int]:
        first = block[position]
        length = first & 0x7F
        position += 1
        if length == 0x7F:
            length, position = _rest_of_integer(block, position, 0x7F)
        end = position + length
        if end > len(block):
            raise HpackError(f"a string of {length} octets runs past the end of its header block")
        text = block[position:end]
        if first & 0x80:
            try:
                text = self._huffman.decode(text)
            except ValueError as error:
                raise HpackError(f"a Huffman string is malformed: {error}") from error
        return text, end


class HpackEncoder:
    """Encodes the header blocks of one connection, in their order.

    What is likely to repeat enters the table and is one octet from then on.  Strings are sent as
    they are: ours are short, and Huffman code would cost more time than it saves octets.
    """

    def __init__(self) -> None:
        self.version = 0
        """Changes with the table: a block encoded at the same version means the same."""
        self._max_bytes = DEFAULT_TABLE_BYTES
        self._table = HeaderTable()
        self._added = 0  # entries ever added; an entry's index follows from the count at its time
        self._added_at: dict[Header, int] = {}
        self._size_updates: list[int] = []

    def resize(self, max_bytes: int) -> None:
        """Follow the peer's SETTINGS_HEADER_TABLE_SIZE; the next block says so (section 4.2)."""
        size = min(max_bytes, DEFAULT_TABLE_BYTES)
        if size == self._max_bytes and not self._size_updates:
            return
        self.version += 1
        self._max_bytes = size
        self._table.resize(size)
        # The smallest size in between has to be said too: it has evicted entries.
        self._size_updates = [min([size, *self._size_updates]), size]

    def encode(self, headers: Iterable[Header], *, indexed: bool = True) -> bytes:
        """A block for ``headers``; with ``indexed`` new ones enter the table."""
        block = bytearray()
        if self._size_updates:
            for size in dict.fromkeys(self._size_updates):
                _write_integer(block, size, 5, 0x20)
            self._size_updates = []
            self.version += 1
        for header in headers:
            index = _STATIC_INDEX.get(header) or self._dynamic_index(header)
            if index:
                _write_integer(block, index, 7, 0x80)
            else:
                self._encode_literal(block, header, indexed)
        return bytes(block)

    def _encode_literal(self, block: bytearray, header: Header, indexed: bool) -> None:
        name, value = header
        name_index = _STATIC_NAME_INDEX.get(name, 0)
        if indexed and _entry_bytes(header) <= self._max_bytes // 4:
            _write_integer(block, name_index, 6, 0x40)
            self._add(header)
        else:
            _write_integer(block, name_index, 4, 0)
        if not name_index:
            _write_string(block, name)
        _write_string(block, value)

    def _add(self, header: Header) -> None:
        self.version += 1
        self._table.add(header)
        self._added += 1
        self._added_at[header] = self._added
        if len(self._added_at) > 2 * len(self._table) + 16:  # most are evicted
            self._added_at = {h: n for h, n in self._added_at.items() if self._is_there(n)}

    def _is_there(self, added_at: int) -> bool:
        return self._added - added_at < len(self._table)

    def _dynamic_index(self, header: Header) -> int:
        added_at = self._added_at.get(header)
        if added_at is None or not self._is_there(added_at):
            return 0
        return STATIC_COUNT + self._added - added_at + 1


def _entry_bytes(header: Header) -> int:
    return len(header[0]) + len(header[1]) + ENTRY_OVERHEAD


def _integer(block: bytes, position: int, mask: int) -> tuple[int, int]:
    """An integer whose first bits share an octet with something else, and where it ends (5.1)."""
    value = block[position] & mask
    if value < mask:
        return value, position + 1
    return _rest_of_integer(block, position + 1, mask)


def _rest_of_integer(block: bytes, position: int, value: int) -> tuple[int, int]:
    """What follows a prefix that is all ones, added to it, and where it ends."""
    for shift in range(0, MAX_INTEGER_OCTETS * 7, 7):
        octet = block[position]
        position += 1
        value += (octet & 0x7F) << shift
        if octet < 0x80:
            return value, position
    raise HpackError("an integer in a header block is too large")


def _write_integer(block: bytearray, value: int, prefix_bits: int, flags: int) -> None:
    mask = (1 << prefix_bits) - 1
    if value < mask:
        block.append(flags | value)
        return
    block.append(flags | mask)
    value -= mask
    while value >= 0x80:
        block.append(value & 0x7F | 0x80)
        value >>= 7
    block.append(value)


def _write_string(block: bytearray, text: bytes) -> None:
    _write_integer(block, len(text), 7, 0)
    block += text


_STATIC_INDEX: Final[dict[Header, int]] = {
    header: index for index, header in enumerate(STATIC_TABLE, 1)
}
_STATIC_NAME_INDEX: Final[dict[bytes, int]] = {
    name: index for index, (name, _) in reversed(list(enumerate(STATIC_TABLE, 1)))
}
