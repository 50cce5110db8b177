"""Usage answered from rows of usage equals usage answered from raw events, and both equal a naive count."""

import random
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
import pytest_asyncio
from clickhouse_connect.driver.client import Client
from sqlalchemy import insert, select, update

from metering.clickhouse.client import connect, connect_async
from metering.clickhouse.closing import close_hours
from metering.clickhouse.entitlement_usage import EntitlementUsage
from metering.clickhouse.schema import create_all
from metering.clickhouse.usage import UsageStore
from metering.domain.consumption import instant_of
from metering.domain.entitlement import DimensionFilter, Entitlement
from metering.domain.filters import Compare, Every, OneOf, Some, StringFilter, matches
from metering.domain.meter import Aggregation, Meter
from metering.domain.period import Interval
from metering.domain.usage import UsageQuery
from metering.domain.window import WindowSize
from metering.postgres.engine import async_engine
from metering.postgres.migrate import migration_lock, upgrade
from metering.postgres.registry import append_changes, meter_changed
from metering.postgres.tables import backfills, registry_changes
from metering.settings import EngineSettings
from tests.integration.usage_feed import FedEvent, feed, lay_out, write_usage

START = datetime(2026, 3, 27, tzinfo=UTC)
SUBJECTS = ("a", "b", "c'\\\n☃", "")
METERS = tuple(
    Meter(
        "default",
        f"M{aggregation}",
        1,
        f"m_{aggregation.lower()}",
        "job",
        aggregation,
        None if aggregation is Aggregation.COUNT else "$.v",
        (("tier", "$.tier"), ("region", "$.r")),
        START + timedelta(hours=7, seconds=13) if aggregation is Aggregation.MAX else None,
    )
    for aggregation in Aggregation
)


@dataclass(frozen=True, slots=True)
class World:
    settings: EngineSettings
    client: Client


@pytest.fixture(scope="module")
def world(module_clickhouse_database, module_postgres_url) -> Iterator[World]:
    settings = EngineSettings(
        clickhouse_url=module_clickhouse_database.url,
        clickhouse_database=module_clickhouse_database.name,
        postgres_url=module_postgres_url,
        event_partitions=2,
    )
    create_all(settings)
    with migration_lock(settings):
        upgrade(settings)
    with connect(settings) as client:
        yield World(settings, client)


@pytest_asyncio.fixture
async def store(world: World) -> AsyncIterator[UsageStore]:
    clickhouse = await connect_async(world.settings)
    postgres = async_engine(world.settings, application="test")
    yield UsageStore(clickhouse, postgres, world.settings)
    await postgres.dispose()
    await clickhouse.close()


@pytest.fixture(scope="module")
def events(world: World) -> list[FedEvent]:
    rng = random.Random(7)
    drafts = []
    for _ in range(1500):
        time = START + timedelta(microseconds=rng.randrange(5 * 86400) * 10**6 + rng.choice((0, 1, 999_999, 500_000)))
        if rng.random() < 0.2:
            time = time.replace(microsecond=0, second=0)
        value: object = rng.choice((rng.randrange(-5, 100), "12.5", "x", None, "7.000000000001", rng.randrange(10**12)))
        data = {"v": value, "tier": rng.choice(("x", "y", "y%z")), "r": rng.choice((1, "eu", None))}
        if rng.random() < 0.1:
            del data["v"]
        if rng.random() < 0.1:
            del data["tier"]
        ingest = time + timedelta(seconds=rng.expovariate(1 / 3000))
        drafts.append((rng.choice(("job", "job", "other")), rng.choice(SUBJECTS), time, data, ingest))
    found = lay_out(rng, drafts)
    feed(world.client, rng, found, METERS, reached=START + timedelta(days=9))
    return found


ZONES = ("UTC", "Europe/Berlin", "Asia/Kathmandu", "America/St_Johns", "Australia/Lord_Howe", "Africa/Monrovia")
FILTERS: tuple[StringFilter, ...] = (
    Compare("$eq", "y"),
    Compare("$ne", ""),
    OneOf(("x", "")),
    OneOf(("x",), negated=True),
    Compare("$like", "y%"),
    Compare("$like", r"y\%_"),
    Compare("$nlike", "y_z"),
    Compare("$ilike", "Y"),
    Some((Compare("$lt", "x"), Every((Compare("$gte", "y"), Compare("$nilike", "%Z"))))),
    OneOf(()),
    Compare("$like", "y\\"),
)


def random_query(rng: random.Random) -> UsageQuery:
    meter = rng.choice(METERS)
    start = end = None
    if rng.random() < 0.7:
        start = START + timedelta(seconds=rng.randrange(5 * 86400))
        start = rng.choice((start, start.replace(second=0), start + timedelta(microseconds=7)))
    if rng.random() < 0.7:
        end = (start or START) + timedelta(seconds=rng.choice((1, 40, 70, 86400 * 3)) + rng.randrange(100))
        end = rng.choice((end, (end + timedelta(minutes=1)).replace(second=0)))
    customers = None
    if rng.random() < 0.4:
        customers = {"C1": frozenset({"a", SUBJECTS[2]}), "C2": frozenset({"b", "nobody"})}
    groups = ["subject", "tier", "region", *(["customer_id"] if customers else [])]
    return UsageQuery(
        meter,
        start,
        end,
        rng.choice((None, *WindowSize)),
        ZoneInfo(rng.choice(ZONES)),
        frozenset(rng.sample(SUBJECTS, 2)) if rng.random() < 0.3 else None,
        customers,
        {rng.choice(("tier", "region")): rng.choice(FILTERS)} if rng.random() < 0.4 else {},
        tuple(rng.sample(groups, rng.randrange(3))),
        START + timedelta(minutes=rng.randrange(5 * 1440)) if rng.random() < 0.4 else None,
    )


def naive(query: UsageQuery, events: list[FedEvent]) -> dict[tuple[object, ...], Decimal]:
    """Window's local start, subject, customer, values -> value, from events alone."""
    groups: dict[tuple[object, ...], list[tuple[FedEvent, object]]] = defaultdict(list)
    owner = {subject: c for c, subjects in (query.customers or {}).items() for subject in subjects}
    for event in events:
        dims = {"tier": _text(event.data, "tier"), "region": _text(event.data, "r")}
        outside = (
            (query.start is not None and event.time < query.start.replace(microsecond=0))
            or (query.meter.event_from is not None and event.time < query.meter.event_from)
            or (query.end is not None and event.time >= query.end.replace(microsecond=0))
            or (query.as_of is not None and event.ingest >= query.as_of)
            or (query.subjects is not None and event.subject not in query.subjects)
            or (query.customers is not None and event.subject not in owner)
            or not all(matches(f, dims[name]) for name, f in query.filters.items())
        )
        if event.type != "job" or outside:
            continue
        key = (
            _window(event.time, query),
            event.subject if "subject" in query.group_by else None,
            owner[event.subject] if "customer_id" in query.group_by else None,
            *(dims[name] for name in query.grouped_dimensions),
        )
        groups[key].append((event, event.data.get("v", ...)))
    values = {key: _value(query.meter.aggregation, pairs) for key, pairs in groups.items()}
    found = {key: value for key, value in values.items() if value is not None}
    counting = query.meter.aggregation in {Aggregation.COUNT, Aggregation.UNIQUE_COUNT}
    if query.window is None and not query.group_by and counting and not found:
        return {(None, None, None): Decimal(0)}
    return found


def _text(data: dict[str, object], name: str) -> str:
    value = data.get(name, "")
    return "null" if value is None else str(value)


def _window(time: datetime, query: UsageQuery) -> object:
    local = time.astimezone(query.zone)
    day = date(local.year, local.month, local.day)
    match query.window:
        case None:
            return None
        case WindowSize.MINUTE:
            return time.replace(second=0, microsecond=0)
        case WindowSize.HOUR:
            local = local.replace(tzinfo=None) - timedelta(minutes=local.minute)
            return (time - timedelta(minutes=time.astimezone(query.zone).minute)).replace(second=0, microsecond=0)
        case WindowSize.DAY:
            return day
        case WindowSize.MONTH:
            return day.replace(day=1)


def _value(aggregation: Aggregation, pairs: list[tuple[FedEvent, object]]) -> Decimal | None:  # noqa: PLR0911
    if aggregation is Aggregation.COUNT:
        return Decimal(len(pairs))
    if aggregation is Aggregation.UNIQUE_COUNT:
        texts = {str(v) for _, v in pairs if v is not ... and v is not None}
        return Decimal(len(texts)) if texts else None
    usable = [(e, Decimal(str(v))) for e, v in pairs if v is not ... and v is not None and v != "x"]
    if not usable:
        return None
    numbers = [v for _, v in usable]
    match aggregation:
        case Aggregation.SUM:
            return sum(numbers, Decimal(0))
        case Aggregation.AVG:
            return (sum(numbers, Decimal(0)) / len(numbers)).quantize(Decimal("1e-9"))
        case Aggregation.MIN:
            return min(numbers)
        case Aggregation.MAX:
            return max(numbers)
        case _:
            order = [(e.time, e.ingest.replace(second=0, microsecond=0), e.partition, e.offset, v) for e, v in usable]
            return max(order)[-1]


async def check(store: UsageStore, query: UsageQuery, events: list[FedEvent]) -> int:
    rows = await store.query(query)
    assert rows == await store.query(query, source="events"), query
    average = query.meter.aggregation is Aggregation.AVG
    got = {}
    for row in rows:
        local = row.window_start.astimezone(query.zone)
        window: object = row.window_start
        if query.window is None:
            window = None
        elif query.window in {WindowSize.DAY, WindowSize.MONTH}:
            window = local.date()
        value = row.value.quantize(Decimal("1e-9")) if average else row.value
        got[window, row.subject, row.customer_id, *(row.group_by[n] for n in query.grouped_dimensions)] = value
    assert got == naive(query, events), query
    return len(rows)


@pytest.mark.parametrize("closed_days", [0, 2, 9])
async def test_usage_rows_and_raw_events_and_a_naive_count_agree(world, store, events, closed_days):
    if closed_days:
        now = START + timedelta(days=closed_days, hours=5, minutes=30)
        closed = await close_hours(store.clickhouse, store.postgres, world.settings, now=now)
        assert closed is not None
        assert closed.until is not None
        assert closed.until >= min(now.replace(minute=0), START + timedelta(days=9))
    rng = random.Random(closed_days)
    rows = 0
    for _ in range(60):
        rows += await check(store, random_query(rng), events)
    assert rows > 500


async def test_a_meter_is_read_from_raw_events_until_its_backfill_is_done(world, store, events):
    late = replace(METERS[0], id="late", version=3)
    async with store.postgres.begin() as connection:
        await connection.execute(insert(backfills).values(meter_key=late.key, namespace="default", revision=9))
    query = UsageQuery(late, window=WindowSize.DAY, zone=ZoneInfo("Europe/Berlin"))
    assert await check(store, query, events)
    await close_hours(store.clickhouse, store.postgres, world.settings, now=START + timedelta(days=9))

    for partition in range(2):
        write_usage(world.client, [e for e in events if e.partition == partition], [late], 0)
    async with store.postgres.begin() as connection:
        await connection.execute(update(backfills).values(done_at=datetime.now(UTC)))
    assert (await store.read_state(late.key)).closed_until is None
    assert await check(store, query, events)

    closed = await close_hours(store.clickhouse, store.postgres, world.settings, now=START + timedelta(days=9))
    assert closed is not None
    assert closed.days > 1
    assert (await store.read_state(late.key)).closed_until == START + timedelta(days=9)
    assert await check(store, query, events)


def entitlement_of(meter: Meter) -> Entitlement:
    return Entitlement(
        id="E",
        namespace="default",
        customer_id="C1",
        feature_key="f",
        meter_key=meter.key,
        aggregation=meter.aggregation,
        dimensions=meter.dimensions,
        filters=(DimensionFilter("tier", "$in", ("x", "y")), DimensionFilter("tier", "$ne", ("x",))),
        subjects=("a", "b"),
        revision=1,
        measure_usage_from=START,
        interval=Interval.parse("MONTH"),
        anchor=START,
        active_from=START,
    )


@pytest.mark.parametrize(
    "aggregation", [Aggregation.SUM, Aggregation.COUNT, Aggregation.LATEST, Aggregation.UNIQUE_COUNT]
)
async def test_usage_of_an_entitlement_by_minute(world, store, events, aggregation):
    meter = next(m for m in METERS if m.aggregation is aggregation)
    entitlement = entitlement_of(meter)
    reader, raw = EntitlementUsage(store), EntitlementUsage(replace(store, source="events"))
    async with store.postgres.begin() as connection:
        if not (
            await connection.execute(select(registry_changes.c.revision).where(registry_changes.c.key == meter.id))
        ).all():
            await append_changes(connection, [meter_changed(meter)])
    start, end = START + timedelta(hours=5), START + timedelta(days=3)
    query = UsageQuery(
        meter, start, end, WindowSize.MINUTE, subjects=frozenset("ab"), filters={"tier": Compare("$eq", "y")}
    )
    points = await reader.now(entitlement, start=start, end=end)
    assert points == await raw.now(entitlement, start=start, end=end)
    shown = {instant_of(m): len(p) if isinstance(p, frozenset) else getattr(p, "value", p) for m, p in points.items()}
    assert shown == {row.window_start: row.value for row in await store.query(query)}

    ends = await store.clickhouse.query("SELECT partition, a FROM flushes WHERE a > 0 ORDER BY a")
    below = dict(ends.result_rows)
    some = await reader.below(entitlement, below)
    assert some == await raw.below(entitlement, below)
    assert 0 < len(some) < len(await reader.now(entitlement))
