"""Closing hours, wherever it is stopped, changes no answer; and what it makes is what `usage` says."""

import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
import pytest_asyncio

from metering.clickhouse.client import connect, connect_async
from metering.clickhouse.closing import READERS_GONE, close_hours
from metering.clickhouse.schema import create_all
from metering.clickhouse.usage import UsageStore
from metering.domain.meter import Aggregation, Meter
from metering.domain.usage import UsageQuery, UsageRow
from metering.domain.window import WindowSize
from metering.postgres.engine import async_engine
from metering.postgres.migrate import migration_lock, upgrade
from metering.postgres.tables import closing
from metering.settings import EngineSettings
from tests.integration.usage_feed import feed, lay_out

START = datetime(2026, 3, 30, tzinfo=UTC)
REACHED = START + timedelta(days=4, hours=7, minutes=30)
METERS = tuple(
    Meter("default", f"M{a}", 1, a.lower(), "job", a, None if a is Aggregation.COUNT else "$.v", (("t", "$.t"),))
    for a in (Aggregation.SUM, Aggregation.LATEST, Aggregation.UNIQUE_COUNT)
)
STEPS = ("fold", "set back", "swap", "set forward", "drop", "archive", "swap month", "month forward")


class Stopped(Exception):
    """The run ends here, as if its process had been killed."""


@pytest.fixture(scope="module")
def settings(module_clickhouse_database, module_postgres_url) -> EngineSettings:
    settings = EngineSettings(
        clickhouse_url=module_clickhouse_database.url,
        clickhouse_database=module_clickhouse_database.name,
        postgres_url=module_postgres_url,
        event_partitions=2,
    )
    create_all(settings)
    with migration_lock(settings):
        upgrade(settings)
    rng = random.Random(3)
    drafts = []
    for _ in range(600):
        time = START + timedelta(seconds=rng.randrange(4 * 86400))
        data = {"v": rng.randrange(50), "t": rng.choice("xy")}
        drafts.append(("job", rng.choice("ab"), time, data, time + timedelta(seconds=rng.randrange(9000))))
    with connect(settings) as client:
        feed(client, rng, lay_out(rng, drafts), METERS, reached=REACHED)
    return settings


@pytest_asyncio.fixture
async def store(settings) -> AsyncIterator[UsageStore]:
    clickhouse = await connect_async(settings)
    postgres = async_engine(settings, application="test")
    for table in ("usage_closed", "usage_months"):
        await clickhouse.command(f"TRUNCATE TABLE {table}")
    async with postgres.begin() as connection:
        await connection.execute(closing.delete())
    yield UsageStore(clickhouse, postgres, settings)
    await postgres.dispose()
    await clickhouse.close()


async def answers(store: UsageStore) -> list[list[UsageRow]]:
    zone = ZoneInfo("Asia/Kathmandu")
    cut = START + timedelta(days=2, hours=3, minutes=20)
    return [
        await store.query(UsageQuery(meter, window=WindowSize.HOUR, zone=zone, group_by=("t",), as_of=as_of))
        for meter in METERS
        for as_of in (None, cut)
    ]


async def run(store: UsageStore, now: datetime, stop: str | None = None, times: int = 1):
    left = times

    def failpoint(step: str) -> None:
        nonlocal left
        left -= step == stop
        if step == stop and left == 0:
            raise Stopped

    return await close_hours(store.clickhouse, store.postgres, store.settings, now=now, failpoint=failpoint)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("times", [1, 2])
async def test_a_run_that_is_stopped_anywhere_changes_no_answer(store, step, times):
    before = await answers(store)
    stopped = False
    for now in (START + timedelta(days=1, hours=5), REACHED):
        try:
            await run(store, now, step, times)
        except Stopped:
            stopped = True
        assert await answers(store) == before
    assert stopped or times > 1
    done = await run(store, REACHED + timedelta(minutes=1))
    assert done is not None
    assert done.until == REACHED.replace(minute=0)
    assert await answers(store) == before
    names = await store.clickhouse.query("SELECT name FROM system.tables WHERE database = currentDatabase()")
    assert not [name for (name,) in names.result_rows if "staged" in name]


async def test_days_that_were_added_to_their_month_go_a_while_later(store):
    before = await answers(store)
    await run(store, REACHED)
    state = await store.read_state(METERS[0].key)
    assert state.months_until == datetime(2026, 4, 3, tzinfo=UTC)
    days = "SELECT DISTINCT toDate(ingest_hour) FROM usage_closed ORDER BY 1"
    assert len((await store.clickhouse.query(days)).result_rows) == 5
    again = await run(store, REACHED + READERS_GONE + timedelta(seconds=1))
    assert again is not None
    assert again.days == 0
    assert len((await store.clickhouse.query(days)).result_rows) == 1
    assert await answers(store) == before
    months = "SELECT toYYYYMM(ingest_hour), uniqExact(toDate(ingest_hour)) FROM usage_months GROUP BY 1 ORDER BY 1"
    assert (await store.clickhouse.query(months)).result_rows == [(202603, 2), (202604, 2)]


async def test_nothing_is_closed_that_a_partition_has_not_passed(store, settings):
    store = UsageStore(store.clickhouse, store.postgres, settings.model_copy(update={"event_partitions": 3}))
    done = await run(store, REACHED)
    assert done is not None
    assert (done.until, done.days) == (None, 0)


async def test_one_run_at_a_time(store):
    other: list[object] = []

    async def meanwhile() -> None:
        other.append(await run(store, REACHED))

    tasks = []

    def failpoint(step: str) -> None:
        if step == "fold" and not tasks:
            import asyncio

            tasks.append(asyncio.get_running_loop().create_task(meanwhile()))

    await close_hours(store.clickhouse, store.postgres, store.settings, now=REACHED, failpoint=failpoint)
    await tasks[0]
    assert other == [None]
