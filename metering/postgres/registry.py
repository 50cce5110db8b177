"""The registry in Postgres: an append-only log of changes.

A revision is given under a lock that is held until its transaction commits. So revisions become visible in order,
without gaps, and the state at a revision that can be read never changes again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from sqlalchemy import Connection, Select, func, insert, select, text
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.domain.meter import Aggregation, Meter
from metering.domain.registry import Registry
from metering.postgres.tables import registry_changes

CHANNEL: Final = "weighbridge_registry"
_LOCK: Final = text("SELECT pg_advisory_xact_lock(hashtextextended('weighbridge.registry', 0))")
_NOTIFY: Final = text("SELECT pg_notify(:channel, :payload)")

Kind = Literal["namespace", "meter", "subject"]


@dataclass(frozen=True, slots=True)
class Change:
    """One change of the registry. `payload` None: the namespace, meter or attribution is gone.

    `key` is the namespace's name, the meter's id, or the subject.
    """

    kind: Kind
    namespace: str
    key: str
    payload: Mapping[str, Any] | None


def namespace_added(name: str) -> Change:
    return Change("namespace", name, name, {})


def meter_changed(meter: Meter) -> Change:
    """`meter` was created or has a new version."""
    return Change("meter", meter.namespace, meter.id, _meter_payload(meter))


def meter_deleted(namespace: str, meter_id: str) -> Change:
    return Change("meter", namespace, meter_id, None)


def subject_attributed(namespace: str, subject: str, customer_id: str | None) -> Change:
    """From this revision on the subject's usage is the customer's, or nobody's."""
    return Change("subject", namespace, subject, None if customer_id is None else {"customer": customer_id})


async def append_changes(connection: AsyncConnection, changes: Sequence[Change]) -> int:
    """Append `changes`, each with the next revision, and return the last one. The caller commits, soon.

    Everything that follows in the transaction waits on nobody else's lock, as others wait on this one.
    """
    return await connection.run_sync(append_changes_sync, changes)


def append_changes_sync(connection: Connection, changes: Sequence[Change]) -> int:
    connection.execute(_LOCK)
    revision = current_revision(connection)
    if not changes:
        return revision
    rows = [
        {
            "revision": revision + n,
            "kind": change.kind,
            "namespace": change.namespace,
            "key": change.key,
            "payload": change.payload,
        }
        for n, change in enumerate(changes, start=1)
    ]
    connection.execute(insert(registry_changes), rows)
    last = revision + len(rows)
    connection.execute(_NOTIFY, {"channel": CHANNEL, "payload": str(last)})
    return last


def current_revision(connection: Connection) -> int:
    """The newest committed revision; 0 before the first."""
    return connection.execute(_newest()).scalar_one()


async def current_revision_async(connection: AsyncConnection) -> int:
    return (await connection.execute(_newest())).scalar_one()


def load_registry(connection: Connection, revision: int | None = None, *, base: Registry | None = None) -> Registry:
    """The state at `revision` (the newest, if None).

    With `base`, only what changed after it is read; a base beyond `revision` is not used.
    """
    at = current_revision(connection) if revision is None else revision
    if base is not None and base.revision == at:
        return base
    since = base.revision if base is not None and base.revision < at else 0
    rows = connection.execute(_last_changes(since, at)).all()
    return _apply(base if since else None, at, rows)


async def load_registry_async(
    connection: AsyncConnection, revision: int | None = None, *, base: Registry | None = None
) -> Registry:
    """As `load_registry`, for asyncio."""
    return await connection.run_sync(lambda c: load_registry(c, revision, base=base))


def _newest() -> Select[int]:
    return select(func.coalesce(func.max(registry_changes.c.revision), 0))


def _last_changes(since: int, at: int) -> Select[str, str, str, Any]:
    """The last change of each key in (since, at]."""
    c = registry_changes.c
    return (
        select(c.kind, c.namespace, c.key, c.payload)
        .ext(distinct_on(c.kind, c.namespace, c.key))
        .where(c.revision > since, c.revision <= at)
        .order_by(c.kind, c.namespace, c.key, c.revision.desc())
    )


def _apply(base: Registry | None, revision: int, rows: Sequence[tuple[Any, ...]]) -> Registry:
    namespaces = set(base.namespaces) if base else set()
    meters = {(m.namespace, m.id): m for m in base.meters} if base else {}
    subjects = dict(base.subjects) if base else {}
    for kind, namespace, key, payload in rows:
        match kind:
            case "namespace":
                (namespaces.add if payload is not None else namespaces.discard)(key)
            case "meter":
                meters.pop((namespace, key), None)
                if payload is not None:
                    meters[namespace, key] = meter_of_payload(namespace, payload)
            case "subject":
                subjects.pop((namespace, key), None)
                if payload is not None:
                    subjects[namespace, key] = payload["customer"]
            case _:
                raise ValueError(f"registry change of unknown kind {kind!r}: this program is older than the data")
    in_order = tuple(meters[key] for key in sorted(meters))
    return Registry(revision, frozenset(namespaces), in_order, subjects)


def _meter_payload(meter: Meter) -> dict[str, Any]:
    return {
        "id": meter.id,
        "version": meter.version,
        "slug": meter.slug,
        "event_type": meter.event_type,
        "aggregation": meter.aggregation.value,
        "value_path": meter.value_path,
        "group_by": [list(pair) for pair in meter.group_by],
        "event_from": meter.event_from.isoformat() if meter.event_from else None,
    }


def meter_of_payload(namespace: str, payload: Mapping[str, Any]) -> Meter:
    """The meter that a change of kind `meter` brought."""
    return Meter(
        namespace=namespace,
        id=payload["id"],
        version=payload["version"],
        slug=payload["slug"],
        event_type=payload["event_type"],
        aggregation=Aggregation(payload["aggregation"]),
        value_path=payload["value_path"],
        group_by=tuple((name, path) for name, path in payload["group_by"]),
        event_from=datetime.fromisoformat(payload["event_from"]) if payload["event_from"] else None,
    )
