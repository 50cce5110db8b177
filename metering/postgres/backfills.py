"""Telling the balances app that a backfill is done.

A balance that was computed before then lacks what the backfill has counted: the minutes were not there yet, and a
backfill sends no deltas. Each change of an entitlement has its balance computed anew, so the same state is sent again.
"""

import asyncio
from typing import Final

import structlog
from sqlalchemy import func, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from metering.postgres.entitlement_changes import emit_for_meter, lock_customers_of_meter
from metering.postgres.outbox import Target
from metering.postgres.registry import current_revision_async
from metering.postgres.tables import backfills

_log = structlog.get_logger()
POLL_SECONDS: Final = 0.5


async def announce_next(engine: AsyncEngine, target: Target) -> bool:
    """Have the balances on one meter whose backfill is done computed anew; False if there is none.

    Several processes may do this at once: each takes another meter.
    """
    c = backfills.c
    waiting = select(c.meter_key).where(c.done_at.is_not(None), c.announced_at.is_(None)).order_by(c.revision).limit(1)
    async with engine.begin() as connection:
        key = (await connection.execute(waiting.with_for_update(skip_locked=True))).scalar_one_or_none()
        if key is None:
            return False
        meter_id = key.partition(".")[0]
        await lock_customers_of_meter(connection, meter_id)
        await emit_for_meter(connection, meter_id, target=target, revision=await current_revision_async(connection))
        await connection.execute(update(backfills).where(c.meter_key == key).values(announced_at=func.now()))
    return True


async def announce_done_backfills(engine: AsyncEngine, target: Target) -> None:
    """Run until cancelled, in every API process. Postgres being away delays it and nothing else."""
    while True:
        try:
            while await announce_next(engine, target):
                pass
        except (SQLAlchemyError, OSError) as error:
            _log.warning("backfills_wait", detail=str(error).strip())
        await asyncio.sleep(POLL_SECONDS)
