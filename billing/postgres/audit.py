"""The audit log in Postgres. Entries are appended in the transaction of what they tell of, one after the other."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from billing.domain.audit import Entry, first_break, next_entry
from billing.postgres.tables import audit

_LOCK: Final = text("SELECT pg_advisory_xact_lock(hashtextextended('weighbridge.billing.audit', 0))")


async def append(
    connection: AsyncConnection, *, at: datetime, actor: str, action: str, subject: str, details: Mapping[str, Any]
) -> Entry:
    """Append an entry. Others who append wait until this transaction ends, so do it last.

    `details` are JSON of texts, whole numbers, truth values, nulls, lists and objects.
    """
    await connection.execute(_LOCK)
    last = (await connection.execute(select(audit).order_by(audit.c.sequence.desc()).limit(1))).first()
    entry = next_entry(
        None if last is None else _entry(last), at=at, actor=actor, action=action, subject=subject, details=details
    )
    await connection.execute(
        insert(audit).values(
            sequence=entry.sequence,
            at=entry.at,
            actor=entry.actor,
            action=entry.action,
            subject=entry.subject,
            details=dict(entry.details),
            previous=entry.previous,
            hash=entry.hash,
        )
    )
    return entry


async def verify(connection: AsyncConnection) -> int | None:
    """The sequence number of the first entry that was changed, or that follows a missing one; None: the log holds."""
    rows = (await connection.execute(select(audit).order_by(audit.c.sequence))).all()
    return first_break(_entry(row) for row in rows)


def _entry(row: Row[Any]) -> Entry:
    return Entry(row.sequence, row.at, row.actor, row.action, row.subject, row.details, row.previous, row.hash)
