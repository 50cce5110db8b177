"""The API process: one FastAPI application, with two paths that don't go through it.

Ingest and balance checks are most of the traffic, so they are answered before FastAPI's routing and middleware; both
are in the document all the same.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from typing import Any, Final

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from api import health, problems
from api.balance_check import BalanceCheck
from api.balances import CurrentBalances
from api.clickhouse import ClickHouse
from api.directory import Directory, in_postgres
from api.openapi import document
from api.request_context import RequestContext
from api.services import Services, utc_now
from api.settings import ApiSettings
from api.v1 import (
    customer_access,
    customers,
    entitlements,
    events,
    features,
    grants,
    invoices,
    meter_query,
    meters,
    plans,
    subjects,
    subscriptions,
)
from api.v2 import entitlements as entitlements_v2
from api.v2 import events as events_v2
from api.values import EntitlementValues
from ingest.http import IngestEndpoint
from ingest.limits import IngestSettings
from metering.balances.view import BalanceView
from metering.kafka.producer import AckedProducer
from metering.kafka.relay import OutboxRelay
from metering.postgres import customers as customer_rows
from metering.postgres import entitlement_changes
from metering.postgres.backfills import announce_done_backfills
from metering.postgres.engine import async_engine
from metering.postgres.listen import Listener
from metering.postgres.predefined import ensure_predefined_meters

INGEST_PATH: Final = "/api/v1/events"


class WeighbridgeApp(FastAPI):
    """FastAPI behind its two fast paths, which are there between start and end of the lifespan."""

    ingest: IngestEndpoint | None = None
    balance_check: BalanceCheck | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if self.ingest is not None and scope["path"] == INGEST_PATH and scope["method"] == "POST":
                await self.ingest(scope, receive, send)
                return
            if self.balance_check is not None and await self.balance_check.answered(scope, send):
                return
        await super().__call__(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        return document(self)


def create_app(settings: ApiSettings, ingest_settings: IngestSettings | None = None) -> WeighbridgeApp:
    """The application. Its lifespan connects to the engines; any of them may be away at the start."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        assert isinstance(app, WeighbridgeApp)
        async with running(app, settings, ingest_settings or IngestSettings()):
            yield

    app = WeighbridgeApp(
        title="Weighbridge",
        version=version("weighbridge"),
        description="Usage metering, entitlements and billing.",
        lifespan=lifespan,
        redirect_slashes=False,
        openapi_url="/openapi.json",
    )
    app.state.settings = settings
    app.add_middleware(RequestContext)
    problems.install(app)
    for module in (
        health,
        meters,
        meter_query,
        subjects,
        customers,
        customer_access,
        features,
        entitlements,
        grants,
        plans,
        subscriptions,
        invoices,
        events,
        events_v2,
        entitlements_v2,
    ):
        app.include_router(module.router)
    return app


@asynccontextmanager
async def running(app: WeighbridgeApp, settings: ApiSettings, ingest: IngestSettings) -> AsyncIterator[Services]:
    """All that the application needs while it serves."""
    engine = async_engine(settings, application="api", pool_size=settings.api_postgres_pool)
    producer = AckedProducer(settings.kafka_bootstrap, ingest.producer_limits)
    await producer.start()
    view = BalanceView(settings)
    view.start()
    clickhouse = ClickHouse(settings, engine)
    balances = CurrentBalances(view, settings.default_namespace)
    services = Services(
        settings=settings,
        engine=engine,
        clickhouse=clickhouse,
        balances=balances,
        values=EntitlementValues(clickhouse, balances),
        kafka_reachable=producer.reachable,
    )
    url = settings.postgres_url.get_secret_value()
    directory = Directory(in_postgres(engine, settings.default_namespace), lambda: listener.listening)
    listener = Listener(
        url,
        {customer_rows.CHANNEL: directory.forget, entitlement_changes.CHANNEL: balances.pending.heard},
        directory.forget_all,
    )
    tasks = [
        asyncio.create_task(OutboxRelay(url, producer).run(), name="outbox relay"),
        asyncio.create_task(listener.run(), name="listener"),
        asyncio.create_task(
            announce_done_backfills(engine, services.entitlements_topic), name="announcer of done backfills"
        ),
    ]
    app.state.services = services
    app.balance_check = BalanceCheck(balances, directory, utc_now)
    app.ingest = IngestEndpoint(
        producer,
        topic=settings.events_topic,
        partitions=settings.event_partitions,
        namespace=settings.default_namespace,
        settings=ingest,
    )
    try:
        await ensure_predefined_meters(engine, settings, now=utc_now())
        yield services
    finally:
        app.ingest = app.balance_check = None
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await asyncio.to_thread(view.close)
        await producer.close()
        await clickhouse.close()
        await engine.dispose()
