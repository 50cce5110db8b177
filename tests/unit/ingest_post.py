"""Posts to the ingest endpoint without a server, and keeps what it would send to Kafka."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ingest.http import IngestEndpoint
from ingest.limits import IngestSettings
from metering.domain.event import Event
from metering.kafka.producer import Records

NOW_US = 1_900_000_000_123_456
PARTITIONS = 4


@dataclass
class Kept:
    """A sender that keeps what it gets; `fail` makes it refuse."""

    fail: Exception | None = None
    sent: list[Records] = field(default_factory=list)

    def send(self, topic: str, records: Records) -> Awaitable[None]:
        if self.fail is not None:
            raise self.fail
        self.sent.append(records)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_result(None)
        return future

    @property
    def events(self) -> list[tuple[bytes, Event]]:
        """All records as (key, event), in no order."""
        return [
            (record["key"], msgspec.json.decode(record["value"], type=Event))
            for records in self.sent
            for batch in records.partitions.values()
            for record in batch
        ]


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    kept: Kept

    @property
    def problem(self) -> dict[str, Any]:
        return json.loads(self.body)


def post(
    body: bytes | list[bytes],
    content_type: str | None = "application/json",
    *,
    headers: dict[str, str] | None = None,
    settings: IngestSettings | None = None,
    sender: Kept | None = None,
) -> Answer:
    """One request; a list of bodies comes in as many pieces."""
    kept = sender or Kept()
    endpoint = IngestEndpoint(
        kept,
        topic="events",
        partitions=PARTITIONS,
        namespace="default",
        settings=settings or IngestSettings(),
        now_us=lambda: NOW_US,
    )
    fields = ({} if content_type is None else {"content-type": content_type}) | (headers or {})
    messages = asyncio.run(_call(endpoint, fields, [body] if isinstance(body, bytes) else body))
    start, end = messages
    got = {name.decode(): value.decode() for name, value in start["headers"]}
    return Answer(start["status"], got, end["body"], kept)


async def _call(
    endpoint: Callable[..., Awaitable[None]], headers: dict[str, str], pieces: list[bytes]
) -> list[dict[str, Any]]:
    left = list(pieces)
    messages: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        piece = left.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(left)}

    async def send(message: dict[str, Any]) -> None:
        messages.append(message)

    scope = {"type": "http", "headers": [(name.encode(), value.encode()) for name, value in headers.items()]}
    await endpoint(scope, receive, send)
    return messages
