"""The worker as a process: due invoices are issued by themselves, once, whoever is killed meanwhile."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest_asyncio
from sqlalchemy import text
from typer.testing import CliRunner

from billing.invoicing.invoices import Invoice, InvoiceFilter, InvoiceStatus, list_invoices
from billing.invoicing.verify import verify_invoice
from cli.main import app
from metering.domain.period import Interval, index_at
from tests.integration.billing_world import END, GRACE, NS, World, make_world, march

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 90


@pytest_asyncio.fixture
async def world(clickhouse_database, postgres_url) -> AsyncIterator[World]:
    async with make_world(clickhouse_database, postgres_url) as made:
        yield made


def environment(world: World) -> dict[str, str]:
    settings = world.settings
    return {
        **os.environ,
        "WEIGHBRIDGE_POSTGRES_URL": settings.postgres_url.get_secret_value(),
        "WEIGHBRIDGE_CLICKHOUSE_URL": settings.clickhouse_url.get_secret_value(),
        "WEIGHBRIDGE_CLICKHOUSE_DATABASE": settings.clickhouse_database,
        "WEIGHBRIDGE_EVENT_PARTITIONS": str(settings.event_partitions),
        "WEIGHBRIDGE_BILLING_GRACE_SECONDS": str(int(GRACE.total_seconds())),
    }


@contextmanager
def worker(world: World, log: Path):
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "cmd" / "run_billing.py")],
            env=environment(world) | {"WEIGHBRIDGE_BILLING_METRICS_PORT": "0"},
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        process.terminate()
        assert process.wait(timeout=30) in (0, -signal.SIGKILL), log.read_text()


async def issued(world: World) -> list[Invoice]:
    wanted = InvoiceFilter(statuses=[InvoiceStatus.ISSUED])
    return (await list_invoices(world.engine, NS, wanted, page=1, size=100))[0]


async def wait_for(world: World, count: int, log: Path) -> list[Invoice]:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while len(found := await issued(world)) < count:
        assert time.monotonic() < deadline, log.read_text()  # noqa: ASYNC240 - on the way out
        await asyncio.sleep(0.05)
    return found


async def test_workers_issue_what_is_due_once_though_one_is_killed(world: World, tmp_path: Path) -> None:
    log = tmp_path / "billing.log"
    await world.subscribe()
    world.flight(120, march(2))
    world.flight(30, march(3), ingest=END + timedelta(days=3))
    now = datetime.now(UTC)
    world.reach(now)
    due = index_at(END, Interval.parse("P1M"), now - GRACE - timedelta(minutes=1)) + 1
    with worker(world, log), worker(world, log) as victim:
        await wait_for(world, 1, log)
        victim.kill()
        found = await wait_for(world, due, log)
    assert len(found) == due
    assert len({invoice.period_to for invoice in found}) == due
    assert {invoice.number for invoice in found} == {f"INV-BLHE-{n}" for n in range(1, due + 1)}
    for invoice in found:
        assert (await verify_invoice(world.engine, world.readings, invoice.id)).is_equal
    async with world.engine.connect() as connection:
        entries = await connection.execute(text("SELECT count(*) FROM billing.audit WHERE action = 'invoice.issued'"))
        assert entries.scalar_one() == due
    told = [json.loads(line) for line in log.read_text().splitlines() if "invoice_issued" in line]
    assert {line["process"] for line in told} == {"billing"}


async def test_the_command_shows_and_verifies_an_invoice(world: World) -> None:
    await world.subscribe()
    world.flight(120, march(2))
    invoice = await world.bill(END)

    async def command(*arguments: str) -> tuple[int, str]:
        result = await asyncio.to_thread(CliRunner().invoke, app, arguments, env=environment(world))
        return result.exit_code, result.output

    code, output = await command("invoice", "show", invoice.number or "")
    assert code == 0, output
    assert "usage price for tier 2" in output
    assert "65.50" in output
    code, output = await command("verify", "invoice", invoice.id)
    assert (code, "equal" in output) == (0, True)
    assert await command("verify", "log") == (0, "the audit log holds\n")
    alter = "ALTER TABLE events DELETE WHERE id = 'e0'"
    world.clickhouse.command(alter, settings={"mutations_sync": 2})
    code, output = await command("verify", "invoice", invoice.id)
    assert code == 1
    assert "lines[1].quantity: stored 120, raw events say 0" in output
    code, output = await command("verify", "invoice", "nothing")
    assert code == 2
