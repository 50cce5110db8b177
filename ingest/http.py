"""`POST /api/v1/events`: a raw ASGI application, since this is where most requests go.

204 means that Kafka has acknowledged every event of the request. Any other answer means that the client should mend the
request (4xx) or repeat it (503); repeating is safe, as an event counts once however often it comes.
"""

import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from http import HTTPStatus
from typing import Any, Final, Protocol

import structlog

from ingest.binary_mode import structured
from ingest.body import ClientGoneError, Receive, read_body
from ingest.cloudevent import NotPlainError, Shape, plain_records
from ingest.limits import IngestSettings
from ingest.metrics import ACCEPTED, REFUSED
from ingest.problems import Problem, of_refusal, request_id
from ingest.scrutiny import Refusal, Stage, scrutinise
from metering.domain.errors import Unavailable
from metering.kafka.producer import Records

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_log: Final = structlog.get_logger()

_SHAPES: Final[Mapping[bytes, Shape]] = {shape.value.encode(): shape for shape in Shape}
_NO_CONTENT: Final = {"type": "http.response.start", "status": 204, "headers": []}
_END: Final = {"type": "http.response.body", "body": b""}
_LOGGED_IDS_MAX: Final = 10


class Sender(Protocol):
    """What carries records to Kafka: `metering.kafka.producer.AckedProducer`."""

    def send(self, topic: str, records: Records) -> Awaitable[None]:
        """Resolve when all records are safe; raise Unavailable at once or later when they can't be made so."""


class IngestEndpoint:
    """The ASGI application. It answers any path that it is mounted on and expects POST.

    `namespace` is the one that events belong to, or says it for a request. `now_us` is the clock, in microseconds.
    """

    def __init__(
        self,
        sender: Sender,
        *,
        topic: str,
        partitions: int,
        namespace: str | Callable[[Scope], str],
        settings: IngestSettings | None = None,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._sender = sender
        self._topic = topic
        self._partitions = partitions
        self._namespace = namespace
        self._settings = settings or IngestSettings()
        self._now_us = now_us

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        try:
            body = await read_body(receive, headers, self._settings.body_bytes_max)
        except ClientGoneError:
            return
        outcome = body if isinstance(body, Problem) else self._records(scope, headers, body)
        if isinstance(outcome, Problem):
            await _answer(send, outcome, headers)
            return
        try:
            await self._sender.send(self._topic, outcome)
        except Unavailable as error:
            await _answer(send, _unavailable(error, headers, outcome), headers)
            return
        ACCEPTED.inc(outcome.count)
        await send(_NO_CONTENT)
        await send(_END)

    def _records(self, scope: Scope, headers: dict[bytes, bytes], body: bytes) -> Records | Problem:
        content_type = headers.get(b"content-type", b"")
        if (shape := _SHAPES.get(content_type)) is None:
            # Parameters such as charset say nothing: JSON is UTF-8.
            shape = _SHAPES.get(content_type.partition(b";")[0].strip().lower())
        if b"ce-specversion" in headers:
            body, shape = structured(headers, body), Shape.ONE
        if shape is None:
            named = content_type[:128].decode("latin-1")
            detail = f'request body has an error: header Content-Type has unexpected value "{named}"'
            return Problem(HTTPStatus.BAD_REQUEST, detail, "content_type")
        namespace = self._namespace
        arguments: dict[str, Any] = {
            "namespace": namespace if isinstance(namespace, str) else namespace(scope),
            "partitions": self._partitions,
            "now": self._now_us(),
            "events_max": self._settings.batch_events_max,
        }
        try:
            return plain_records(body, shape, **arguments)
        except NotPlainError:
            verdict = scrutinise(body, shape, **arguments)
        if isinstance(verdict, Records):
            return verdict
        return _refused(verdict, shape)


def _refused(refusal: Refusal, shape: Shape) -> Problem | Records:
    if refusal.stage is Stage.EMPTY and shape is Shape.MANY:
        return Records({}, 0, 0)
    return of_refusal(refusal, shape)


def _unavailable(error: Unavailable, headers: dict[bytes, bytes], records: Records) -> Problem:
    keys = [record["key"].hex() for batch in records.partitions.values() for record in batch[:_LOGGED_IDS_MAX]]
    _log.warning(
        "events_not_acknowledged",
        detail=str(error),
        events=records.count,
        keys=keys[:_LOGGED_IDS_MAX],
        client_request_id=headers.get(b"x-request-id", b"").decode("latin-1"),
    )
    detail = f"{error}; nothing is lost by repeating the request"
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, "unavailable", retry_after_seconds=error.retry_after_seconds)


async def _answer(send: Send, problem: Problem, headers: dict[bytes, bytes]) -> None:
    REFUSED.labels(problem.reason).inc()
    body = problem.body(request_id(headers))
    fields = [(b"content-type", b"application/problem+json"), (b"content-length", b"%d" % len(body))]
    if problem.retry_after_seconds is not None:
        fields.append((b"retry-after", b"%d" % problem.retry_after_seconds))
    await send({"type": "http.response.start", "status": int(problem.status), "headers": fields})
    await send({"type": "http.response.body", "body": body})
