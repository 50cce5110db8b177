"""A request's body: kept in memory while small, on disk when not, and read back decompressed."""

from __future__ import annotations

import tempfile
import zlib
from typing import TYPE_CHECKING, Any, Protocol, cast

from deploy.local.clickhouse.failure import QueryFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

_IN_MEMORY_BYTES_MAX = 32 * 1024 * 1024
_PIECE_BYTES = 1024 * 1024
_CANNOT_DECOMPRESS = 271
_TOO_LARGE = 1001


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> Any: ...

    def decompress(self, data: bytes, /) -> bytes: ...


class Body:
    """Bytes as they came. `write` them all, then `read` them; `close` frees them."""

    def __init__(self, encoding: str, *, bytes_max: int) -> None:
        self._encoding, self._bytes_max = encoding, bytes_max
        self._size = 0
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES_MAX)  # noqa: SIM115 - closed by close

    def __len__(self) -> int:
        return self._size

    def write(self, data: bytes) -> None:
        """Raises `QueryFailed` above the limit."""
        self._size += len(data)
        if self._size > self._bytes_max:
            raise QueryFailed(
                _TOO_LARGE, f"Code: {_TOO_LARGE}. DB::Exception: the body is over {self._bytes_max} bytes"
            )
        self._file.write(data)

    def read(self) -> Iterator[bytes]:
        """The decompressed content in pieces of up to a few MiB; raises `QueryFailed` if it can't be decompressed."""
        self._file.seek(0)
        pieces = iter(lambda: self._file.read(_PIECE_BYTES), b"")
        return pieces if self._encoding in {"", "identity"} else _decompress(self._encoding, pieces)

    def clear(self) -> None:
        """Forget what was written."""
        self._file.seek(0)
        self._file.truncate()
        self._size = 0

    def close(self) -> None:
        self._file.close()


def _decompress(encoding: str, pieces: Iterator[bytes]) -> Iterator[bytes]:
    decompressor = _decompressor(encoding)
    fresh = True  # nothing of the present frame was read
    try:
        for piece in pieces:
            data = piece
            while data:
                output = decompressor.decompress(data)
                fresh = False
                if output:
                    yield output
                data = b""
                if decompressor.eof:  # clients may send several frames one after the other
                    data = bytes(decompressor.unused_data or b"")
                    decompressor, fresh = _decompressor(encoding), True
    except QueryFailed:
        raise
    except Exception as error:
        raise _undecodable(encoding, str(error)) from error
    if not fresh:
        raise _undecodable(encoding, "the body ends within a frame")


def _decompressor(encoding: str) -> _Decompressor:
    match encoding:
        case "gzip" | "deflate":
            return zlib.decompressobj(zlib.MAX_WBITS | 32)
        case "lz4":
            from lz4.frame import LZ4FrameDecompressor  # type: ignore[import-untyped] # noqa: PLC0415

            return cast("_Decompressor", LZ4FrameDecompressor())
        case "zstd":
            from backports.zstd import ZstdDecompressor  # noqa: PLC0415

            return ZstdDecompressor()
        case _:
            raise _undecodable(encoding, "this encoding is not known here")


def _undecodable(encoding: str, why: str) -> QueryFailed:
    text = f"Code: {_CANNOT_DECOMPRESS}. DB::Exception: can't read the {encoding} body: {why}. (CANNOT_DECOMPRESS)"
    return QueryFailed(_CANNOT_DECOMPRESS, text)
