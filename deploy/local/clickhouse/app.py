"""The ASGI application: `/`, `/ping`, queries and inserts, each on a worker thread."""

from __future__ import annotations

import asyncio
import secrets
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from deploy.local.clickhouse.body import Body
from deploy.local.clickhouse.execution import Execution
from deploy.local.clickhouse.failure import QueryFailed, exception_block, failure
from deploy.local.clickhouse.form import is_form, with_form
from deploy.local.clickhouse.native import hold_back
from deploy.local.clickhouse.request import Request, parse_request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from deploy.local.clickhouse.connections import Connections

    Receive = Callable[[], Awaitable[dict[str, Any]]]
    Send = Callable[[dict[str, Any]], Awaitable[None]]
    Headers = list[tuple[bytes, bytes]]

_RUNNING_MAX = 16
_WAITING_MAX = 512
_BODY_BYTES_MAX = 2 * 1024**3
_OK = b"Ok.\n"
_TOO_MANY_QUERIES = 202

_CONTENT_TYPES = {
    "JSON": "application/json; charset=UTF-8",
    "JSONCompact": "application/json; charset=UTF-8",
    "JSONEachRow": "application/x-ndjson; charset=UTF-8",
    "JSONCompactEachRow": "application/x-ndjson; charset=UTF-8",
    "TabSeparated": "text/tab-separated-values; charset=UTF-8",
    "TSV": "text/tab-separated-values; charset=UTF-8",
    "CSV": "text/csv; charset=UTF-8; header=absent",
    "CSVWithNames": "text/csv; charset=UTF-8; header=present",
}


class CutOff(Exception):
    """End the connection without the last chunk: the answer is not whole."""


class ClickHouseApp:
    """Bounded: `_RUNNING_MAX` statements run, `_WAITING_MAX` wait with their bodies, more are answered 503."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._threads = ThreadPoolExecutor(max_workers=_RUNNING_MAX, thread_name_prefix="query")
        self._running = asyncio.Semaphore(_RUNNING_MAX)
        self._waiting = 0

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"no such protocol here: {scope['type']}")
        path, method = scope["path"], scope["method"]
        if path == "/ping" or (path == "/" and method in {"GET", "HEAD"} and not scope["query_string"]):
            await _answer(send, 200, [(b"content-type", b"text/html; charset=UTF-8")], _OK)
        elif path != "/":
            await _answer(send, 404, [], f"There is no handle {path}\n".encode())
        else:
            await self._statement(scope, receive, send)

    async def _statement(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        encoding = headers.get(b"content-encoding", b"").decode("latin-1").lower()
        body = Body(encoding, bytes_max=_BODY_BYTES_MAX)
        query_id = str(uuid.uuid4())
        try:
            request = parse_request(scope["query_string"], headers)
            query_id = request.query_id or query_id
            await self._bounded(request, query_id, body, receive, send, form=headers if is_form(headers) else None)
        except QueryFailed as error:
            await _answer_failure(send, error, query_id)
        finally:
            body.close()

    async def _bounded(
        self,
        request: Request,
        query_id: str,
        body: Body,
        receive: Receive,
        send: Send,
        *,
        form: dict[bytes, bytes] | None,
    ) -> None:
        if self._waiting >= _WAITING_MAX:
            raise QueryFailed(
                _TOO_MANY_QUERIES,
                f"Code: 202. DB::Exception: {self._waiting} queries wait already. (TOO_MANY_SIMULTANEOUS_QUERIES)",
            )
        self._waiting += 1
        try:
            # The whole body before the statement: a client that dies on the way has written nothing.
            if not await _read_body(receive, body):
                return
            if form is not None:
                request = with_form(request, form, b"".join(body.read()))
                body.clear()
            await self._running.acquire()
        finally:
            self._waiting -= 1
        try:
            await self._run(request, query_id, body, receive, send)
        finally:
            self._running.release()

    async def _run(self, request: Request, query_id: str, body: Body, receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()
        execution = Execution(self._connections, request)
        try:
            try:
                first = await loop.run_in_executor(self._threads, execution.start, body)
            except (RuntimeError, ValueError, OSError) as error:
                raise failure(error) from error
            headers = _headers(execution, query_id)
            if execution.finished:
                await _answer(send, 200, headers, first)
            else:
                await self._stream(execution, headers, first, receive, send)
        finally:
            await loop.run_in_executor(self._threads, execution.close)

    async def _stream(self, execution: Execution, headers: Headers, first: bytes, receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()
        tag = secrets.token_hex(8)
        tagged = [*headers, (b"x-clickhouse-exception-tag", tag.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": tagged})
        gone = asyncio.create_task(_disconnected(receive))
        try:
            piece: bytes | None = first
            # A byte late: see `hold_back`.
            late = b""
            while piece is not None and not gone.done():
                ready, late = hold_back(late, piece)
                await send({"type": "http.response.body", "body": ready, "more_body": True})
                piece = await loop.run_in_executor(self._threads, execution.next_piece)
        except QueryFailed as error:
            # The status is out already: a server says it in the body, then cuts the connection.
            await send({"type": "http.response.body", "body": exception_block(tag, error.message), "more_body": True})
            raise CutOff from error
        finally:
            gone.cancel()
        await send({"type": "http.response.body", "body": late})

    def close(self) -> None:
        """Wait for running statements, then end the engine."""
        self._threads.shutdown()
        self._connections.close()


async def _read_body(receive: Receive, body: Body) -> bool:
    """Whether it came whole."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return False
        data = message.get("body", b"")
        if data:
            body.write(data)
        if not message.get("more_body", False):
            return True


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _answer(send: Send, status: int, headers: Headers, content: bytes) -> None:
    length = (b"content-length", str(len(content)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": content})


async def _answer_failure(send: Send, error: QueryFailed, query_id: str) -> None:
    headers = [
        (b"content-type", b"text/plain; charset=UTF-8"),
        (b"x-clickhouse-exception-code", str(error.code).encode()),
        (b"x-clickhouse-query-id", query_id.encode("latin-1", "replace")),
    ]
    await _answer(send, error.status, headers, f"{error.message}\n".encode())


def _headers(execution: Execution, query_id: str) -> Headers:
    kind = _CONTENT_TYPES.get(execution.format, "application/octet-stream")
    return [
        (b"content-type", kind.encode()),
        (b"x-clickhouse-server-display-name", b"weighbridge-local"),
        (b"x-clickhouse-query-id", query_id.encode("latin-1", "replace")),
        (b"x-clickhouse-format", execution.format.encode("latin-1", "replace")),
        (b"x-clickhouse-timezone", b"UTC"),
        (b"x-clickhouse-summary", execution.summary.header().encode()),
    ]
