"""From a plan to a proven invoice, on the real engines."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal

import pytest
import pytest_asyncio
from alembic import command
from sqlalchemy import Connection

from billing.domain.price import FlatPrice
from billing.domain.rate_card import RateCard
from billing.invoicing.invoices import Invoice, InvoiceFilter, InvoiceStatus, find_invoice, list_invoices
from billing.invoicing.issue import Waiting, waiting_invoices
from billing.invoicing.verify import verify_invoice
from billing.postgres import audit
from billing.postgres.migrate import alembic_config
from billing.postgres.tables import audit as audit_table
from billing.subscriptions.subscriptions import cancel_subscription
from metering.domain.errors import ProtocolViolation
from tests.integration.billing_world import CARDS, END, GRACE, LATER, NS, START, World, make_world, march, plan_body

D = Decimal


@pytest_asyncio.fixture
async def world(clickhouse_database, postgres_url) -> AsyncIterator[World]:
    async with make_world(clickhouse_database, postgres_url) as made:
        yield made


def lines(invoice: Invoice) -> list[tuple[str, str, str | None, str]]:
    return [(x["kind"], x["key"], x.get("quantity"), x["amount"]) for x in invoice.content["lines"]]


async def test_an_invoice_has_the_usage_of_its_period_as_of_its_cut_and_verifies(world: World) -> None:
    await world.subscribe()
    world.flight(600, march(2))
    world.flight("50.5", march(3), subject="heron-1")
    world.flight(1000, march(4), status="cancelled")  # the feature's filter leaves it out
    world.flight("many", march(4))  # not usable
    world.flight(77, march(5), subject="somebody else")
    world.flight(1000, END)  # the next period's
    world.flight(7, march(31), ingest=END + timedelta(minutes=4, seconds=59))  # within the grace
    invoice = await world.bill(END)
    assert invoice.status is InvoiceStatus.ISSUED
    assert invoice.number == "INV-BLHE-1"
    assert lines(invoice) == [
        ("charge", "fee", None, "49.5"),
        ("charge", "miles", "657.5", "58.15"),  # 10 + 5 + 20 + 3.15 + 20
    ]
    assert invoice.total == D("107.65")
    evidence = invoice.content["evidence"]
    assert evidence["offsets"] == {"0": 5, "1": 4}
    assert evidence["subjects"] == ["heron", "heron-1"]
    assert invoice.content["lines"][1]["evidence"]["events"] == 3
    verification = await verify_invoice(world.engine, world.readings, invoice.id)
    assert verification.is_equal
    assert verification.differences == ()


async def test_a_late_event_leaves_the_old_invoice_alone_and_is_billed_on_the_next(world: World) -> None:
    await world.subscribe()
    world.flight(90, march(2))
    first = await world.bill(END)
    assert lines(first)[1] == ("charge", "miles", "90", "14")
    world.flight(20, march(31), ingest=END + GRACE)  # the first instant that is too late
    world.flight(1, END, ingest=END + timedelta(days=1))
    second = await world.bill(LATER)
    assert lines(second) == [
        ("charge", "fee", None, "49.5"),
        ("charge", "miles", "1", "5.1"),
        ("late", "miles", "110", "1.5"),  # 100 x 0.10 + 5 + 10 x 0.05 - 14
    ]
    late = second.content["lines"][2]
    assert late["quantityBefore"] == "90"
    assert late["period"] == {"from": "2026-03-01T00:00:00Z", "to": "2026-04-01T00:00:00Z"}
    assert [(d["tier"], d["quantity"], d["amount"]) for d in late["details"]] == [(1, "10", "1"), (2, "10", "0.5")]
    again = await find_invoice(world.engine, first.id)
    assert again.document == first.document
    for invoice in (first, second):
        assert (await verify_invoice(world.engine, world.readings, invoice.id)).is_equal


async def test_verify_says_which_line_a_tampered_event_changes(world: World) -> None:
    await world.subscribe()
    world.flight(90, march(2))
    world.flight(10, march(3))
    invoice = await world.bill(END)
    alter = 'ALTER TABLE events UPDATE data = \'{"miles":91,"status":"landed"}\' WHERE id = \'e0\''
    world.clickhouse.command(alter, settings={"mutations_sync": 2})
    verification = await verify_invoice(world.engine, world.readings, invoice.id)
    assert not verification.is_equal
    found = {difference.path: (difference.stored, difference.recomputed) for difference in verification.differences}
    assert found["lines[1].quantity"] == ("100", "101")
    assert "lines[1].evidence.digest" in found


async def test_a_swap_of_values_shows_in_the_digest_alone(world: World) -> None:
    await world.subscribe()
    world.flight(90, march(2))
    world.flight(10, march(3))
    invoice = await world.bill(END)
    for event, miles in (("e0", 10), ("e1", 90)):
        alter = f'ALTER TABLE events UPDATE data = \'{{"miles":{miles},"status":"landed"}}\' WHERE id = \'{event}\''
        world.clickhouse.command(alter, settings={"mutations_sync": 2})
    verification = await verify_invoice(world.engine, world.readings, invoice.id)
    assert [difference.path for difference in verification.differences] == ["lines[1].evidence.digest"]


async def test_no_invoice_is_issued_on_usage_that_raw_events_do_not_prove(world: World) -> None:
    await world.subscribe()
    world.flight(90, march(2))
    world.clickhouse.command("ALTER TABLE events DELETE WHERE id = 'e0'", settings={"mutations_sync": 2})
    (invoice_id,) = await world.open(END)
    world.reach(END + GRACE)
    with pytest.raises(ProtocolViolation, match="shows 90 of 1 events, but raw events prove 0 of 0"):
        await world.issue(invoice_id, END + GRACE)


async def test_it_waits_for_its_cut_for_every_partition_and_for_the_invoice_before(world: World) -> None:
    await world.subscribe()
    world.flight(1, march(2))
    march_invoice, april_invoice = await world.open(LATER)
    now = LATER + GRACE
    assert await world.issue(march_invoice, END) == Waiting(march_invoice, "cut")
    assert await waiting_invoices(world.engine, now=END) == []
    assert await waiting_invoices(world.engine, now=now) == [march_invoice]
    assert await world.issue(march_invoice, now) == Waiting(march_invoice, "flushes")
    assert await world.issue(april_invoice, now) == Waiting(april_invoice, "previous invoice")
    world.reach(now)
    assert isinstance(await world.issue(march_invoice, now), Invoice)
    assert await waiting_invoices(world.engine, now=now) == [april_invoice]
    assert isinstance(await world.issue(april_invoice, now), Invoice)


async def test_cuts_never_go_back_when_the_grace_is_shortened(world: World) -> None:
    await world.subscribe()
    (first,) = await world.open(END, grace=timedelta(days=40))
    (second,) = await world.open(LATER, grace=timedelta(0))
    cuts = [(await find_invoice(world.engine, invoice_id)).cut for invoice_id in (first, second)]
    assert cuts == [END + timedelta(days=40), END + timedelta(days=40)]


async def test_a_subscription_that_ended_is_billed_up_to_its_end(world: World) -> None:
    made = await world.subscribe()
    world.flight(10, march(2))
    world.flight(10, march(20))
    await cancel_subscription(world.engine, NS, made.id, now=march(16))
    invoice = await world.bill(march(16))
    assert lines(invoice) == [("charge", "fee", None, "23.95"), ("charge", "miles", "10", "6")]  # 15 of 31 days
    assert await world.open(LATER) == []
    assert (await verify_invoice(world.engine, world.readings, invoice.id)).is_equal


async def test_the_migrations_make_what_the_tables_say(world: World) -> None:
    def check(connection: Connection) -> None:
        command.check(alembic_config(connection))

    async with world.engine.connect() as connection:
        await connection.run_sync(check)


async def test_racing_workers_issue_each_invoice_once(world: World) -> None:
    await world.subscribe()
    world.flight(1, march(2))
    opened = await asyncio.gather(*(world.open(LATER) for _ in range(4)))
    (first, second) = sorted(invoice_id for each in opened for invoice_id in each)
    world.reach(LATER + GRACE)
    for invoice_id in (first, second):
        issued = await asyncio.gather(*(world.issue(invoice_id, LATER + GRACE) for _ in range(4)))
        assert len({invoice.document for invoice in issued if isinstance(invoice, Invoice)}) == 1
        assert len({invoice.number for invoice in issued if isinstance(invoice, Invoice)}) == 1
    found, count = await list_invoices(world.engine, NS, InvoiceFilter(), page=1, size=10)
    assert count == 2
    assert sorted(invoice.number or "" for invoice in found) == ["INV-BLHE-1", "INV-BLHE-2"]


async def test_what_is_paid_in_advance_is_on_the_invoice_of_the_start(world: World) -> None:
    advance = RateCard("flat_fee", "seats", "Seats", "P1M", FlatPrice(D(30)))
    await world.subscribe(plan_body(advance, *CARDS), anchor=march(16))
    (start,) = await world.open(START)
    invoice = await world.issue(start, START + GRACE)
    assert isinstance(invoice, Invoice)
    assert lines(invoice) == [("charge", "seats", None, "16.07")]  # 15 of 28 days, from 16 February on
    assert (await verify_invoice(world.engine, world.readings, invoice.id)).is_equal


async def test_the_audit_log_tells_of_every_change_and_notices_tampering(world: World) -> None:
    await world.subscribe()
    await world.bill(END)
    async with world.engine.begin() as connection:
        rows = (await connection.execute(audit_table.select().order_by(audit_table.c.sequence))).all()
        assert [row.action for row in rows] == [
            "plan.created",
            "plan.published",
            "subscription.created",
            "invoice.issued",
        ]
        assert await audit.verify(connection) is None
        await connection.execute(audit_table.update().where(audit_table.c.sequence == 2).values(actor="nobody"))
        assert await audit.verify(connection) == 2
