"""Results of several pieces as one: the embedded engine gives a whole stream in its format for each piece."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_ARROW_CONTINUATION = b"\xff\xff\xff\xff"
_ARROW_END = _ARROW_CONTINUATION + b"\x00\x00\x00\x00"

# Formats of which pieces can simply follow one another.
CONCATENATED = frozenset(
    {"Native", "RowBinary", "JSONEachRow", "JSONLines", "NDJSON", "JSONCompactEachRow"}
    | {"TabSeparated", "TSV", "CSV", "TabSeparatedRaw", "TSVRaw", "RawBLOB", "LineAsString"}
)


def empty_native_block(columns: list[tuple[str, str]]) -> bytes:
    """A Native block without rows: what a server sends for an empty result, so that the client knows the columns.

    `columns` are (name, type).
    """
    block = [_varint(len(columns)), _varint(0)]
    for name, kind in columns:
        for text in (name.encode(), kind.encode()):
            block += [_varint(len(text)), text]
    return b"".join(block)


def join_arrow_streams(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Many Arrow IPC streams of one schema as one: the first's schema message, all record batches, one end."""
    first = True
    for piece in pieces:
        body = memoryview(piece).toreadonly()
        if piece.endswith(_ARROW_END):
            body = body[: -len(_ARROW_END)]
        if not first:
            body = body[_schema_length(piece) :]
        first = False
        if body:
            yield bytes(body)
    if not first:
        yield _ARROW_END


def hold_back(late: bytes, piece: bytes) -> tuple[bytes, bytes]:
    """What to send now, and the last byte to send with the next piece: (late + piece) cut before its end.

    Clients end a Native result where the bytes end between two blocks, even when the connection broke there
    (clickhouse-connect 1.12 only logs that). So nothing that was sent may end there until the result is whole.
    """
    whole = late + piece
    return whole[:-1], whole[-1:]


def _schema_length(piece: bytes) -> int:
    """Bytes of the first message, which is the schema and has no body."""
    if not piece.startswith(_ARROW_CONTINUATION):
        raise ValueError("not an Arrow IPC stream")
    (metadata,) = struct.unpack_from("<i", piece, 4)
    return 8 + int(metadata)


def _varint(value: int) -> bytes:
    """LEB128, as ClickHouse writes lengths."""
    encoded = bytearray()
    while value >> 7:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
