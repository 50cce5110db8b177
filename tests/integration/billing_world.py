"""A small world to bill in: a meter of miles, a feature, a customer with two subjects, and a sink's writing by hand."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pyarrow as pa
from clickhouse_connect.driver.client import Client
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from billing.catalog.plans import create_plan, publish_plan
from billing.domain.price import FlatPrice, Tier, TieredPrice
from billing.domain.rate_card import Phase, PlanBody, RateCard
from billing.invoicing.clickhouse import ClickHouseReadings
from billing.invoicing.invoices import Invoice
from billing.invoicing.issue import Waiting, issue, open_due
from billing.postgres.migrate import upgrade as upgrade_billing
from billing.subscriptions.subscriptions import Order, Subscription, create_subscription
from metering.clickhouse.client import INSERT_SETTINGS, connect, connect_async
from metering.clickhouse.schema import create_all
from metering.clickhouse.usage import UsageStore
from metering.domain.columns import EventColumns, measure
from metering.domain.event import event_key
from metering.domain.meter import Aggregation, Meter
from metering.domain.rows import arrow
from metering.postgres.customers import CustomerDraft, create_customer
from metering.postgres.engine import async_engine
from metering.postgres.features import FeatureDraft, create_feature
from metering.postgres.meters import MeterDraft, create_meter
from metering.postgres.migrate import migration_lock, upgrade
from metering.postgres.tables import backfills
from metering.settings import EngineSettings

D = Decimal
NS = "default"
START = datetime(2026, 3, 1, tzinfo=UTC)
END = datetime(2026, 4, 1, tzinfo=UTC)
LATER = datetime(2026, 5, 1, tzinfo=UTC)
GRACE = timedelta(minutes=5)
PARTITIONS = 2

MILES = TieredPrice(
    "graduated",
    (Tier(D(100), D("0.10"), D(5)), Tier(D(500), D("0.05")), Tier(None, D("0.02"), D(20))),
)


def plan_body(*cards: RateCard) -> PlanBody:
    return PlanBody("USD", "P1M", (Phase("main", "Main", cards or CARDS),))


FEE = RateCard("flat_fee", "fee", "Fee", "P1M", FlatPrice(D("49.50"), "in_arrears"))
CARDS = (FEE, RateCard("usage_based", "miles", "Miles", "P1M", MILES, feature_key="miles"))


def us(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def march(day: int, hour: int = 0, second: int = 0) -> datetime:
    return START + timedelta(days=day - 1, hours=hour, seconds=second)


@dataclass
class World:
    settings: EngineSettings
    engine: AsyncEngine
    clickhouse: Client
    readings: ClickHouseReadings
    meters: tuple[Meter, ...] = ()
    customer_id: str = ""
    offsets: dict[int, int] = field(default_factory=lambda: dict.fromkeys(range(PARTITIONS), 0))
    sent: int = 0

    async def prepare(self) -> None:
        async with self.engine.begin() as connection:
            draft = MeterDraft("miles", "flight", Aggregation.SUM, "$.miles", {"status": "$.status"})
            meter = (await create_meter(connection, NS, draft, now=START)).meter()
            await connection.execute(update(backfills).values(done_at=START))
            filters = {"status": {"$eq": "landed"}}
            await create_feature(connection, NS, FeatureDraft("miles", "Miles", "miles", filters), now=START)
            customer = CustomerDraft("Blue Heron Ltd", key="heron", subject_keys=("heron-1",))
            self.customer_id = (await create_customer(connection, NS, customer, now=START)).id
        self.meters = (meter,)

    async def subscribe(self, body: PlanBody | None = None, **order: Any) -> Subscription:
        plan = await create_plan(self.engine, NS, key="air", name="Air", body=body or plan_body(), now=START)
        await publish_plan(self.engine, NS, plan.id, now=START)
        wanted = Order("air", customer_key="heron", start=START, **order)
        return await create_subscription(self.engine, NS, wanted, now=START)

    def flight(self, miles: Any, at: datetime, *, ingest: datetime | None = None, **more: Any) -> EventColumns:
        """Write one flight as a range of its own."""
        partition = self.sent % PARTITIONS
        offset = self.offsets[partition]
        data = {"miles": miles, "status": more.get("status", "landed")}
        columns = EventColumns(
            namespace=[NS],
            id=[f"e{self.sent}"],
            source=["airport"],
            type=["flight"],
            subject=[more.get("subject", "heron")],
            time_us=[us(at)],
            data=[msgspec.json.encode(data)],
            ingest_us=[us(ingest or at)],
            partition=[partition],
            offset=[offset],
        )
        self._write_event(columns, offset)
        self._write_flush(partition, ingest or at, counted=1)
        self.sent += 1
        return columns

    def reach(self, instant: datetime) -> None:
        """Ticks that carry every partition past `instant`."""
        for partition in range(PARTITIONS):
            self._write_flush(partition, instant, ticks=1)

    def _write_event(self, columns: EventColumns, a: int) -> None:
        stored = {
            "namespace": columns.namespace,
            "type": columns.type,
            "subject": columns.subject,
            "time": pa.array(columns.time_us, pa.timestamp("us", "UTC")),
            "id": columns.id,
            "source": columns.source,
            "key": pa.array([event_key(NS, "airport", columns.id[0])], pa.binary(16)),
            "data": [columns.data[0].decode()],
            "ingest_time": pa.array([columns.ingest_us[0] // 1000], pa.timestamp("ms", "UTC")),
            "stored_at": pa.array([columns.ingest_us[0] // 1000], pa.timestamp("ms", "UTC")),
            "partition": pa.array(columns.partition, pa.uint32()),
            "offset": pa.array(columns.offset, pa.uint64()),
        }
        self.clickhouse.insert_arrow("events", pa.table(stored), settings=INSERT_SETTINGS)
        usage = arrow(measure(columns, lambda _namespace, _type: self.meters).usage)
        usage = usage.append_column("a", pa.array([a] * usage.num_rows, pa.uint64()))
        self.clickhouse.insert_arrow("usage", usage, settings=INSERT_SETTINGS)

    def _write_flush(self, partition: int, reached: datetime, *, counted: int = 0, ticks: int = 0) -> None:
        a = self.offsets[partition]
        row = [partition, a, a + 1, counted, 0, 0, ticks, 1, reached, b"d" * 16, datetime.now(UTC)]
        self.clickhouse.insert("flushes", [row], settings=INSERT_SETTINGS)
        self.offsets[partition] = a + 1

    async def open(self, now: datetime, *, grace: timedelta = GRACE) -> list[str]:
        return await open_due(self.engine, grace=grace, now=now)

    async def issue(self, invoice_id: str, now: datetime) -> Invoice | Waiting:
        return await issue(self.engine, self.readings, invoice_id, now=now)

    async def bill(self, boundary: datetime) -> Invoice:
        """Open the invoice of a boundary and issue it as soon as may be."""
        (invoice_id,) = await self.open(boundary)
        self.reach(boundary + GRACE)
        invoice = await self.issue(invoice_id, boundary + GRACE)
        assert isinstance(invoice, Invoice), invoice
        return invoice

    async def count(self, table: Any) -> int:
        async with self.engine.connect() as connection:
            return len((await connection.execute(select(table))).all())


@asynccontextmanager
async def make_world(clickhouse_database: Any, postgres_url: str) -> AsyncIterator[World]:
    settings = EngineSettings(
        clickhouse_url=clickhouse_database.url,
        clickhouse_database=clickhouse_database.name,
        postgres_url=postgres_url,
        event_partitions=PARTITIONS,
    )
    create_all(settings)
    with migration_lock(settings):
        upgrade(settings)
        upgrade_billing(settings)
    engine = async_engine(settings, application="test")
    clickhouse = await connect_async(settings)
    with connect(settings) as client:
        readings = ClickHouseReadings(clickhouse, UsageStore(clickhouse, engine, settings), settings)
        world = World(settings, engine, client, readings)
        await world.prepare()
        yield world
    await clickhouse.close()
    await engine.dispose()
