"""Subjects in Postgres. Nothing here commits."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import RowMapping, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.domain.customer import Subject
from metering.domain.errors import InvalidInput, NotFound
from metering.domain.ids import is_id, new_id
from metering.postgres.tables import subjects


@dataclass(frozen=True, slots=True)
class SubjectPatch:
    """An upsert of one subject: only the members in `changes` change; None clears one.

    Members: display_name, stripe_customer_id, metadata.
    """

    key: str
    changes: Mapping[str, Any] = field(default_factory=dict)


async def upsert_subjects(
    connection: AsyncConnection, namespace: str, patches: Iterable[SubjectPatch], *, now: datetime
) -> list[Subject]:
    """Create or change subjects, all or none; the answer is in the order of `patches`."""
    return [await _upsert(connection, namespace, patch, now) for patch in patches]


async def _upsert(connection: AsyncConnection, namespace: str, patch: SubjectPatch, now: datetime) -> Subject:
    if not patch.key:
        raise InvalidInput("subject key must not be empty")
    stripe = patch.changes.get("stripe_customer_id")
    if stripe is not None and not stripe.startswith("cus_"):
        raise InvalidInput("stripeCustomerId must start with cus_")
    values = dict(patch.changes)
    if values.get("metadata", {}) is None:
        values["metadata"] = {}
    new = {"id": new_id(), "namespace": namespace, "key": patch.key, "created_at": now, "updated_at": now, **values}
    statement = (
        insert(subjects)
        .values(new)
        .on_conflict_do_update(
            index_elements=[subjects.c.namespace, subjects.c.key],
            index_where=subjects.c.deleted_at.is_(None),
            set_={**values, "updated_at": now},
        )
        .returning(subjects)
    )
    return _subject((await connection.execute(statement)).mappings().one())


async def ensure_subjects(
    connection: AsyncConnection, namespace: str, keys: Iterable[str], *, metadata: Mapping[str, Any], now: datetime
) -> None:
    """Create those subjects that are not there yet."""
    rows = [
        {"id": new_id(), "namespace": namespace, "key": key, "metadata": metadata, "created_at": now, "updated_at": now}
        for key in sorted(keys)
    ]
    if rows:
        await connection.execute(insert(subjects).on_conflict_do_nothing(), rows)


async def list_subjects(connection: AsyncConnection, namespace: str, *, limit: int) -> list[Subject]:
    """Live subjects by id."""
    live = select(subjects).where(subjects.c.namespace == namespace, subjects.c.deleted_at.is_(None))
    rows = await connection.execute(live.order_by(subjects.c.id).limit(limit))
    return [_subject(row) for row in rows.mappings()]


async def find_subject(connection: AsyncConnection, namespace: str, id_or_key: str) -> Subject | None:
    """By id, deleted or not; else by key, live only."""
    if is_id(id_or_key):
        by_id = select(subjects).where(subjects.c.namespace == namespace, subjects.c.id == id_or_key.upper())
        row = (await connection.execute(by_id)).mappings().first()
        if row is not None:
            return _subject(row)
    by_key = select(subjects).where(
        subjects.c.namespace == namespace, subjects.c.key == id_or_key, subjects.c.deleted_at.is_(None)
    )
    row = (await connection.execute(by_key)).mappings().first()
    return _subject(row) if row is not None else None


async def get_subject(connection: AsyncConnection, namespace: str, id_or_key: str) -> Subject:
    """As find_subject; raises NotFound."""
    subject = await find_subject(connection, namespace, id_or_key)
    if subject is None:
        raise NotFound(f"subject not found [namespace={namespace} subject.idOrKey={id_or_key}]")
    return subject


async def delete_subject(connection: AsyncConnection, namespace: str, id_or_key: str, *, now: datetime) -> None:
    """Mark it deleted. Its usage stays; again by id does nothing."""
    subject = await get_subject(connection, namespace, id_or_key)
    gone = update(subjects).where(subjects.c.id == subject.id, subjects.c.deleted_at.is_(None))
    await connection.execute(gone.values(deleted_at=now, updated_at=now))


async def display_names(connection: AsyncConnection, namespace: str, keys: Iterable[str]) -> dict[str, str]:
    """The display names of those of `keys` that live subjects have; "" where a subject has none."""
    query = select(subjects.c.key, subjects.c.display_name).where(
        subjects.c.namespace == namespace, subjects.c.key.in_(list(keys)), subjects.c.deleted_at.is_(None)
    )
    return {key: name or "" for key, name in (await connection.execute(query)).all()}


def _subject(row: RowMapping) -> Subject:
    return Subject(
        id=row["id"],
        namespace=row["namespace"],
        key=row["key"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        display_name=row["display_name"],
        stripe_customer_id=row["stripe_customer_id"],
        metadata=row["metadata"],
        deleted_at=row["deleted_at"],
    )
