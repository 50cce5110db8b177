"""Usage of many events, made in ClickHouse itself, and questions about it.

A month of events of a thousand customers, a few of which have most of them, with two dimensions. All but its last two
hours are closed, as in a running system; those hours lie in `usage`, a row an event. The raw events of the customers
that are asked about from raw events lie in `events`, so that the two ways can be compared. Closed days but the last
lie in `usage_months`.
"""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from clickhouse_connect.driver.client import Client
from sqlalchemy import insert

from metering.clickhouse.client import connect, connect_async
from metering.clickhouse.schema import create_all
from metering.clickhouse.usage import Source, UsageStore
from metering.domain.meter import Aggregation, Meter
from metering.domain.usage import UsageQuery
from metering.domain.window import WindowSize
from metering.postgres.engine import async_engine
from metering.postgres.migrate import migration_lock, upgrade
from metering.postgres.tables import closing
from metering.settings import EngineSettings

CUSTOMERS: Final = 1000
DAYS: Final = 30
OPEN_HOURS: Final = 2
ARCHIVED_DAYS: Final = DAYS - 2
START: Final = datetime(2031, 3, 1, tzinfo=UTC)
END: Final = START + timedelta(days=DAYS)
CLOSED_UNTIL: Final = END - timedelta(hours=OPEN_HOURS)
MONTHS_UNTIL: Final = START + timedelta(days=ARCHIVED_DAYS)
RAW_CUSTOMERS: Final = (30, 31, 32, 33)
METER: Final = Meter(
    "default",
    "01KBENCHMETER0000000000000",
    1,
    "tokens",
    "llm.request",
    Aggregation.SUM,
    "$.tokens",
    (("model", "$.model"), ("region", "$.region")),
)

_TABLES: Final = ("usage", "usage_closed", "usage_months")

# An event is a number; all about it follows from its hash.
_EVENTS: Final = """
    SELECT number AS n, cityHash64(n) AS h,
        toUInt32(floor({customers} * pow((h % 1000000) / 1000000, 2))) AS customer,
        concat('customer-', toString(customer)) AS subject,
        concat('m-', toString(intDiv(h, 1000003) % 4)) AS model,
        concat('r-', toString(intDiv(h, 10000019) % 2)) AS region,
        toDateTime64({start}, 6, 'UTC') + toIntervalMicrosecond(cityHash64(n, 1) % {span_us}) AS time,
        toDecimal64(h % 100000, 2) / 4 AS tokens,
        toUInt32(n % 4) AS part, intDiv(n, 4) AS place
    FROM numbers({first}, {count})"""
_CLOSED: Final = """
INSERT INTO {table}
SELECT 'default', {meter}, subject, [model, region], toStartOfMinute(time) AS minute, toStartOfHour(time) AS hour,
    count(), count(), sum(tokens), NULL, NULL, NULL, 0, 0, [], 0, 0
FROM (%s) WHERE time < toDateTime64({until}, 6, 'UTC') GROUP BY subject, model, region, minute, hour"""
_OPEN: Final = """
INSERT INTO usage
SELECT 'default', {meter}, subject, [model, region], toStartOfMinute(time) AS minute, toStartOfMinute(time),
    part, place, 1, 1, tokens, NULL, NULL, NULL, 0, 0, []
FROM (%s) WHERE time >= toDateTime64({until}, 6, 'UTC')"""
_RAW: Final = """
INSERT INTO events
SELECT 'default', 'llm.request', subject, time, toString(n), 'gw', unhex(hex(MD5(toString(n)))),
    concat('{"model":"', model, '","region":"', region, '","tokens":', toString(tokens), '}'), time, time, part, place
FROM (%s) WHERE customer IN {raw}"""


@dataclass(frozen=True, slots=True)
class Figures:
    """Delays in milliseconds, by question; `raw` are those of the same questions answered from raw events."""

    events: int
    rows: int
    p99: dict[str, float]
    same: dict[str, float]
    raw: dict[str, float]


def fill(settings: EngineSettings, events: int, say: Callable[[str], None]) -> int:
    """Make the month of `events` events. Returns the rows of usage."""
    create_all(settings)
    with migration_lock(settings):
        upgrade(settings)
    with connect(settings) as client:
        for day in range(DAYS):
            _fill_day(client, day, events // DAYS)
            if day % 5 == 4:
                say(f"{(day + 1) * (events // DAYS):,} of {events:,} events")
        client.command("OPTIMIZE TABLE usage_months FINAL")  # closing builds a month by one insert
        return sum(client.query(f"SELECT count() FROM {table}").result_rows[0][0] for table in _TABLES)


def _fill_day(client: Client, day: int, count: int) -> None:
    at = START + timedelta(days=day)
    values: dict[str, Any] = {
        "customers": CUSTOMERS,
        "start": int(at.timestamp()),
        "span_us": 86_400_000_000,
        "first": day * count,
        "count": count,
        "meter": METER.key,
        "until": int(CLOSED_UNTIL.timestamp()),
        "raw": list(RAW_CUSTOMERS),
    }
    types = {"meter": "String", "raw": "Array(UInt32)"}
    closed = _CLOSED.replace("{table}", "usage_closed" if day >= ARCHIVED_DAYS else "usage_months")
    statements = [closed, _RAW] + ([_OPEN] if day == DAYS - 1 else [])
    for statement in statements:
        text = statement.replace("%s", _EVENTS)
        for name in values:
            text = text.replace(f"{{{name}}}", f"{{{name}:{types.get(name, 'Int64')}}}")
        client.command(text, {name: value for name, value in values.items() if f"{{{name}:" in text})


async def ask(settings: EngineSettings, events: int, rows: int, *, rounds: int) -> Figures:
    """Ask each question `rounds` times, of random customers, and a few times of those that have raw events."""
    clickhouse = await connect_async(settings)
    postgres = async_engine(settings, application="bench")
    async with postgres.begin() as connection:
        row = {"topic": settings.events_topic, "closed_until": CLOSED_UNTIL, "months_until": MONTHS_UNTIL}
        await connection.execute(insert(closing).values(**row))
    store = UsageStore(clickhouse, postgres, settings)
    try:
        rng = random.Random(1)
        p99, same, raw = {}, {}, {}
        for name, group_by in {"one customer by day": (), "by day and model": ("model",)}.items():
            await _delays(store, [0] * 5, group_by)
            anyone = [rng.randrange(CUSTOMERS) for _ in range(rounds - 2)]
            p99[name] = _quantile(await _delays(store, [*anyone, 0, 1], group_by), 0.99)
            same[name] = _quantile(await _delays(store, list(RAW_CUSTOMERS) * 5, group_by), 0.5)
            raw[name] = _quantile(await _delays(store, list(RAW_CUSTOMERS), group_by, "events"), 0.5)
            await _compare(store, group_by)
        return Figures(events, rows, p99, same, raw)
    finally:
        await postgres.dispose()
        await clickhouse.close()


def _query(customer: int, group_by: tuple[str, ...]) -> UsageQuery:
    subject = frozenset({f"customer-{customer}"})
    return UsageQuery(METER, START, END, WindowSize.DAY, subjects=subject, group_by=("subject", *group_by))


async def _delays(
    store: UsageStore, customers: list[int], group_by: tuple[str, ...], source: Source = "usage"
) -> list[float]:
    delays = []
    for customer in customers:
        began = time.perf_counter()
        found = await store.query(_query(customer, group_by), source=source)
        delays.append((time.perf_counter() - began) * 1000)
        assert len(found) >= DAYS
    return delays


async def _compare(store: UsageStore, group_by: tuple[str, ...]) -> None:
    query = _query(RAW_CUSTOMERS[0], group_by)
    assert await store.query(query) == await store.query(query, source="events")


def _quantile(delays: list[float], part: float) -> float:
    return sorted(delays)[min(len(delays) - 1, int(len(delays) * part))]


def measure(settings: EngineSettings, events: int, *, rounds: int, say: Callable[[str], None]) -> Figures:
    """Fill and ask."""
    rows = fill(settings, events, say)
    return asyncio.run(ask(settings, events, rows, rounds=rounds))
