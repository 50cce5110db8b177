"""The audit is silent on a sound system and names whatever does not add up."""

import asyncio
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio

from metering.clickhouse.audit import audit
from metering.clickhouse.client import INSERT_SETTINGS, connect, connect_async
from metering.clickhouse.closing import close_hours
from metering.clickhouse.schema import create_all
from metering.clickhouse.usage import UsageStore
from metering.domain.meter import Aggregation
from metering.postgres.engine import async_engine
from metering.postgres.meters import MeterDraft, create_meter
from metering.postgres.migrate import migration_lock, upgrade
from metering.postgres.registry import load_registry_async
from metering.postgres.tables import backfills
from metering.settings import EngineSettings
from tests.integration.usage_feed import feed, lay_out

START = datetime(2026, 5, 1, tzinfo=UTC)
REACHED = START + timedelta(days=2)


@pytest_asyncio.fixture
async def store(clickhouse_database, postgres_url) -> AsyncIterator[UsageStore]:
    settings = EngineSettings(
        clickhouse_url=clickhouse_database.url,
        clickhouse_database=clickhouse_database.name,
        postgres_url=postgres_url,
        event_partitions=2,
    )
    create_all(settings)

    def migrate() -> None:
        with migration_lock(settings):
            upgrade(settings)

    await asyncio.to_thread(migrate)
    postgres = async_engine(settings, application="test")
    clickhouse = await connect_async(settings)
    drafts = [
        MeterDraft("total", "job", Aggregation.SUM, "$.v", group_by={"t": "$.t"}),
        MeterDraft("kinds", "job", Aggregation.UNIQUE_COUNT, "$.t"),
    ]
    async with postgres.begin() as connection:
        made = [await create_meter(connection, "default", draft, now=START) for draft in drafts]
        await connection.execute(backfills.update().values(done_at=START))
    rng = random.Random(5)
    events = []
    for _ in range(200):
        time = START + timedelta(seconds=rng.randrange(86400))
        data = {"v": rng.choice((1, 2.5, "x")), "t": rng.choice("xyz")}
        events.append(("job", rng.choice("ab"), time, data, time + timedelta(seconds=rng.randrange(3000))))
    with connect(settings) as client:
        feed(client, rng, lay_out(rng, events), [each.meter() for each in made], reached=REACHED)
    yield UsageStore(clickhouse, postgres, settings)
    await postgres.dispose()
    await clickhouse.close()


async def differences(store: UsageStore) -> list[str]:
    async with store.postgres.connect() as connection:
        meters = (await load_registry_async(connection)).meters
    steps = [step async for step in audit(store, meters)]
    assert [step.name for step in steps] == ["partition 0", "partition 1", "meter total", "meter kinds"]
    assert sum(step.totals.counted for step in steps if step.totals) >= 199
    return [each.check for step in steps for each in step.differences]


async def test_a_sound_system_has_no_difference(store):
    assert await differences(store) == []
    await close_hours(store.clickhouse, store.postgres, store.settings, now=REACHED)
    assert await differences(store) == []


BROKEN = {
    "INSERT INTO flushes SELECT partition, end + 3, end + 4, 1, 0, 0, 0, 1, ingest_time, digest, flushed_at"
    " FROM flushes ORDER BY end DESC LIMIT 1": {"ranges touch", "events has what was counted"},
    "INSERT INTO flushes SELECT partition, end, end + 4, 1, 1, 1, 0, 1, ingest_time, digest, flushed_at"
    " FROM flushes ORDER BY end DESC LIMIT 1": {
        "accepted = counted + duplicate + rejected",
        "events has what was counted",
    },
    "INSERT INTO flushes SELECT partition, a, end, counted - 1, 1, 0, 0, 1, ingest_time, digest, flushed_at"
    " FROM flushes WHERE end > a ORDER BY a LIMIT 1": {"a range is written once, or the same again"},
    "DELETE FROM events WHERE id = 'e7'": {"events has what was counted", "usage is a recount of events"},
    "INSERT INTO usage SELECT * REPLACE (a + 1000 AS a) FROM usage LIMIT 1": {"usage is a recount of events"},
}


@pytest.mark.parametrize("statement", BROKEN)
async def test_what_is_wrong_is_named(store, statement):
    await store.clickhouse.command(statement, settings=INSERT_SETTINGS)
    assert set(await differences(store)) >= BROKEN[statement]


async def test_the_commands_print_tables_and_end_with_1_on_a_difference(store):
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        settings = store.settings
        environment = os.environ | {
            "WEIGHBRIDGE_CLICKHOUSE_URL": settings.clickhouse_url.get_secret_value(),
            "WEIGHBRIDGE_CLICKHOUSE_DATABASE": settings.clickhouse_database,
            "WEIGHBRIDGE_POSTGRES_URL": settings.postgres_url.get_secret_value(),
            "WEIGHBRIDGE_EVENT_PARTITIONS": "2",
            "COLUMNS": "200",
        }
        argv = [sys.executable, "-m", "cli.main", *arguments]
        return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)

    good = await asyncio.to_thread(run, "audit")
    assert (good.returncode, "4 checks, no difference" in good.stdout) == (0, True), good.stderr
    shown = await asyncio.to_thread(run, "query", "kinds", "--window", "day", "--zone", "Europe/Berlin")
    assert "2026-05-01 00:00:00+02:00" in shown.stdout, shown.stderr
    refused = await asyncio.to_thread(run, "query", "nothing")
    assert (refused.returncode, refused.stderr) == (1, "weighbridge: meter not found: nothing\n")
    await store.clickhouse.command("DELETE FROM events WHERE id = 'e9'")
    bad = await asyncio.to_thread(run, "audit")
    assert (bad.returncode, "usage is a recount of events" in bad.stdout) == (1, True), bad.stderr
