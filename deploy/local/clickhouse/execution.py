"""One request on one connection of the engine. All of it blocks: it runs on a worker thread."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deploy.local.clickhouse.failure import QueryFailed, failure
from deploy.local.clickhouse.native import CONCATENATED, empty_native_block, join_arrow_streams
from deploy.local.clickhouse.statement import InsertHead, Query, insert_head, parse_query

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy.local.clickhouse.body import Body
    from deploy.local.clickhouse.connections import Connection, Connections
    from deploy.local.clickhouse.request import Request

_HEAD_BYTES_MAX = 256 * 1024
_TEXT_BYTES_MAX = 64 * 1024 * 1024
_SYNTAX_ERROR = 62
_TOO_LARGE = 1001
_STREAMING_UNSUPPORTED = "Streaming query is not supported"


@dataclass(frozen=True, slots=True)
class Summary:
    """What was read and written, for the X-ClickHouse-Summary header."""

    read_rows: int = 0
    read_bytes: int = 0
    written_rows: int = 0
    written_bytes: int = 0
    result_rows: int = 0

    def header(self) -> str:
        """All numbers as strings, as a server has them."""
        numbers = {name: str(getattr(self, name)) for name in self.__slots__}
        return json.dumps(numbers | {"total_rows_to_read": "0", "elapsed_ns": "0"}, separators=(",", ":"))


class Execution:
    """A request under way: `start` it, then take `next_piece` until that is None, then `close`.

    After `start`, `summary` and `format` are known, and `finished` says whether the first piece is all.
    """

    def __init__(self, connections: Connections, request: Request) -> None:
        self._connections, self._request = connections, request
        self._connection: Connection | None = None
        self._stream: Any = None
        self._pieces: Iterator[bytes] = iter(())
        self._ahead: bytes | None = None
        self.summary = Summary()
        self.format = request.default_format
        self.finished = True

    def start(self, body: Body) -> bytes:
        """Run it up to its first piece of result. Raises `QueryFailed`."""
        self._connection = connection = self._connections.take(self._request)
        prefix = (
            f"{self._request.query}\n".encode() if self._request.query and len(body) else self._request.query.encode()
        )
        head, rest = _read_head(prefix, body)
        insert = insert_head(head)
        if insert is not None:
            self._insert(connection, insert, head, rest)
            return b""
        try:
            sql = _read_all(head, rest).decode()
        except UnicodeDecodeError as error:
            raise QueryFailed(
                _SYNTAX_ERROR, "Code: 62. DB::Exception: the query is not UTF-8. (SYNTAX_ERROR)"
            ) from error
        query = parse_query(sql)
        if not query.sql.strip():
            raise QueryFailed(_SYNTAX_ERROR, "Code: 62. DB::Exception: Syntax error: Empty query. (SYNTAX_ERROR)")
        connection.spoilt |= query.changes_session
        self.format = query.format or self._request.default_format
        if query.streamable and (self.format in CONCATENATED or self.format == "ArrowStream"):
            return self._select(connection, query)
        return self._whole(connection, query)

    def next_piece(self) -> bytes | None:
        """The next piece of the result, None after the last. Raises `QueryFailed` when the query fails on the way."""
        piece, self._ahead = self._ahead, None
        return piece if piece is not None else next(self._pieces, None)

    def close(self) -> None:
        """Give the connection back; a result that was not read to its end is cancelled."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._stream is not None:
            connection.raw.streaming_cancel_query(self._stream)
            self._stream = None
        self._connections.give_back(connection)

    def _insert(self, connection: Connection, insert: InsertHead, head: bytes, rest: Iterator[bytes]) -> None:
        try:
            inserter = connection.raw.send_insert(insert.sql, insert.format)
        except RuntimeError as error:
            raise failure(error) from None
        try:
            first = head[insert.data_start :]
            if first:
                connection.raw.insert_append(inserter, first)
            for piece in rest:
                connection.raw.insert_append(inserter, piece)
            done = connection.raw.insert_done(inserter)
        except BaseException as error:
            connection.spoilt = True
            if isinstance(error, RuntimeError):
                raise failure(error) from None
            connection.raw.insert_cancel(inserter)
            raise
        rows, size = done.rows_written(), done.bytes_written()
        self.summary = Summary(read_rows=rows, read_bytes=size, written_rows=rows, written_bytes=size, result_rows=rows)

    def _whole(self, connection: Connection, query: Query) -> bytes:
        result = connection.query(query.sql, self.format, self._request.parameters)
        self.summary = _summary(result)
        content: bytes = result.bytes()
        return content or self._empty(connection, query)

    def _select(self, connection: Connection, query: Query) -> bytes:
        try:
            self._stream = connection.raw.send_query(query.sql, self.format, params=self._request.parameters)
        except RuntimeError as error:
            if _STREAMING_UNSUPPORTED in str(error):
                return self._whole(connection, query)
            raise failure(error) from None
        pieces = self._fetched(connection)
        self._pieces = join_arrow_streams(pieces) if self.format == "ArrowStream" else pieces
        first = next(self._pieces, b"") or self._empty(connection, query)
        self._ahead = next(self._pieces, None)
        self.finished = self._ahead is None
        return first

    def _fetched(self, connection: Connection) -> Iterator[bytes]:
        first = True
        while True:
            try:
                result = connection.raw.streaming_fetch_result(self._stream)
            except RuntimeError as error:
                self._stream = None
                raise failure(error) from None
            if first:
                self.summary = _summary(result)
            more = result is not None and result.rows_read() > 0
            content: bytes = result.bytes() if result is not None else b""
            if not more:
                self._stream = None  # it closed itself
            if content and (more or first):  # without rows, the first still has the columns
                yield content
            if not more:
                return
            first = False

    def _empty(self, connection: Connection, query: Query) -> bytes:
        """What a server sends when no row was found: in Native, a block with the columns only."""
        if self.format != "Native" or not query.streamable:
            return b""
        described = connection.query(
            f"DESCRIBE TABLE ({query.sql}\n) FORMAT JSONCompactEachRow", "JSONCompactEachRow", self._request.parameters
        )
        columns = [json.loads(line)[:2] for line in described.bytes().splitlines()]
        return empty_native_block([(name, kind) for name, kind in columns])


def _summary(result: Any) -> Summary:
    if result is None:
        return Summary()
    return Summary(
        read_rows=result.storage_rows_read(),
        read_bytes=result.storage_bytes_read(),
        written_rows=result.rows_written(),
        written_bytes=result.bytes_written(),
        result_rows=result.rows_read(),
    )


def _read_head(prefix: bytes, body: Body) -> tuple[bytes, Iterator[bytes]]:
    """Enough of query and body to see what statement it is, and the rest of the body."""
    pieces = body.read()
    head = bytearray(prefix)
    # Keep an INSERT's large data out of the head: it is searched for the FORMAT clause.
    while len(head) < _HEAD_BYTES_MAX:
        piece = next(pieces, None)
        if piece is None:
            break
        head += piece
    return bytes(head), pieces


def _read_all(head: bytes, rest: Iterator[bytes]) -> bytes:
    text = bytearray(head)
    for piece in rest:
        text += piece
        if len(text) > _TEXT_BYTES_MAX:
            raise QueryFailed(_TOO_LARGE, f"Code: 1001. DB::Exception: the query is over {_TEXT_BYTES_MAX} bytes")
    return bytes(text)
