"""One suite for readings out of ClickHouse and for their twin in memory."""

import random
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import pytest_asyncio

from billing.domain.evidence import Scope
from billing.invoicing.memory import MemoryReadings
from metering.domain.columns import EventColumns
from metering.domain.filters import Compare
from metering.domain.meter import Aggregation, Meter
from tests.integration.billing_world import END, NS, START, World, make_world, march


@pytest_asyncio.fixture
async def world(clickhouse_database, postgres_url) -> AsyncIterator[World]:
    async with make_world(clickhouse_database, postgres_url) as made:
        yield made


METERS = tuple(
    Meter(
        NS, f"M{a}", 1, a.lower(), "flight", a, None if a is Aggregation.COUNT else "$.miles", (("status", "$.status"),)
    )
    for a in Aggregation
)


@pytest.mark.parametrize("kind", ["clickhouse", "memory"])
async def test_readings(world: World, kind: str) -> None:
    world.meters = METERS
    rng = random.Random(4)
    written = [
        world.flight(
            rng.choice([rng.randrange(100), "2.50", "2.5", "x", None, 10**11]),
            march(rng.randrange(1, 32), second=rng.randrange(86_400)),
            ingest=march(32) + timedelta(minutes=n),
            status=rng.choice(["landed", "cancelled"]),
            subject=rng.choice(["heron", "heron-1", "else"]),
        )
        for n in range(60)
    ]
    memory = MemoryReadings(joined(written), reached=END)
    readings = world.readings if kind == "clickhouse" else memory
    for meter in METERS:
        for cut in (END, END + timedelta(minutes=30), END + timedelta(days=1)):
            for filters in ((), (("status", Compare("$eq", "landed")),)):
                scope = Scope(meter, filters, ("heron", "heron-1"), (START, march(20)), cut)
                proven = await readings.proven(scope)
                assert await readings.shown(scope) == (proven.quantity, proven.events)
                assert proven == await memory.proven(scope)
                for since in (END, END + timedelta(minutes=20)):
                    assert await readings.earliest(scope, since) == await memory.earliest(scope, since)


async def test_every_partition_must_have_passed_the_cut(world: World) -> None:
    assert await world.readings.offsets(END) is None
    world.flight(1, march(3), ingest=END)  # the first partition alone
    assert await world.readings.offsets(END) is None
    world.flight(1, march(3), ingest=END - timedelta(milliseconds=1))
    assert await world.readings.offsets(END) is None
    world.reach(END + timedelta(days=1))
    assert await world.readings.offsets(END) == {0: 1, 1: 2}


def joined(events: list[EventColumns]) -> EventColumns:
    names = ("namespace", "id", "source", "type", "subject", "time_us", "data", "ingest_us", "partition", "offset")
    return EventColumns(**{name: [value for each in events for value in getattr(each, name)] for name in names})
