"""`/healthz`, `/readyz`, `/metrics`, and the document."""

import asyncio
from datetime import UTC, datetime
from typing import Final

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from api.openapi import document
from api.services import Wired
from api.wire import respond

router = APIRouter(include_in_schema=False)

CHECK_SECONDS: Final = 2.0


@router.get("/healthz")
async def healthz() -> Response:
    """200 while the process lives."""
    return Response("ok\n", media_type="text/plain")


@router.get("/readyz")
async def readyz(services: Wired) -> Response:
    """200 when requests can be answered: Postgres and Kafka answer and the balances are in memory; else 503."""

    async def postgres() -> bool:
        try:
            async with asyncio.timeout(CHECK_SECONDS), services.engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
        except (SQLAlchemyError, TimeoutError, OSError):
            return False
        return True

    checks = {
        "postgres": await postgres(),
        "kafka": await services.kafka_reachable(CHECK_SECONDS),
        "balances": services.balances.view.is_ready,
    }
    return respond(checks, 200 if all(checks.values()) else 503)


@router.get("/metrics")
async def metrics() -> Response:
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


@router.get("/api/swagger.json")
async def swagger(request: Request) -> Response:
    return respond(document(request.app))


@router.get("/api/v1/debug/metrics")
async def debug_metrics(services: Wired) -> Response:
    """How many events of today and later are stored for each subject."""
    today = services.now().astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    counts = await _counts(services, today)
    lines = [
        "# HELP openmeter_events Number of ingested events",
        "# TYPE openmeter_events counter",
        "# UNIT openmeter_events events",
        *(f'openmeter_events_total{{subject="{_label(subject)}"}} {count}.0' for subject, count in counts),
    ]
    return Response("\n".join(lines) + "\n", media_type="text/plain")


async def _counts(services: Wired, since: datetime) -> list[tuple[str, int]]:
    client = await services.clickhouse.client()
    result = await client.query(
        "SELECT subject, count() FROM events FINAL WHERE namespace = {namespace:String}"
        " AND time >= fromUnixTimestamp64Micro({since:Int64}) GROUP BY subject ORDER BY subject",
        {"namespace": services.namespace, "since": int(since.timestamp()) * 1_000_000},
    )
    return [(subject, count) for subject, count in result.result_rows]


def _label(text_: str) -> str:
    return text_.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
