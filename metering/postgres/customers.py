"""Customers in Postgres, and whose usage a subject's is. Nothing here commits.

A change of attribution goes to the registry and to the balances of the customer's entitlements in one transaction.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import RowMapping, Select, exists, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.domain.customer import Customer
from metering.domain.errors import Conflict, InvalidInput, NotFound, PreconditionFailed
from metering.domain.ids import is_id, new_id
from metering.postgres.entitlement_changes import emit_for_customer
from metering.postgres.outbox import Target
from metering.postgres.paging import Found, Slice, fetch, ordered
from metering.postgres.registry import append_changes, subject_attributed
from metering.postgres.subjects import ensure_subjects
from metering.postgres.tables import customer_subjects, customers, entitlements, subjects

CHANNEL: Final = "weighbridge_customers"
ORDERS: Final = {"id": customers.c.id, "name": customers.c.name, "createdAt": customers.c.created_at}
_NOTIFY: Final = text("SELECT pg_notify(:channel, :payload)")


@dataclass(frozen=True, slots=True)
class CustomerDraft:
    """A customer as its owner sends it. `billing_address` lines that are None are not sent."""

    name: str
    key: str | None = None
    subject_keys: Sequence[str] = ()
    description: str | None = None
    currency: str | None = None
    primary_email: str | None = None
    billing_address: Mapping[str, str] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CustomerFilter:
    """Texts that must be contained, whatever their case; all must match."""

    key: str | None = None
    name: str | None = None
    primary_email: str | None = None
    subject: str | None = None
    include_deleted: bool = False


async def create_customer(
    connection: AsyncConnection, namespace: str, draft: CustomerDraft, *, now: datetime
) -> Customer:
    """Make a customer that owns the usage of its key and its subject keys, that from before included."""
    _check(draft)
    customer_id = new_id()
    await _check_key_is_no_id(connection, namespace, draft.key)
    values = {
        "id": customer_id,
        "namespace": namespace,
        "key": draft.key,
        "name": draft.name,
        "description": draft.description,
        "currency": draft.currency,
        "primary_email": draft.primary_email,
        "billing_address": draft.billing_address,
        "metadata": dict(draft.metadata),
        "created_at": now,
        "updated_at": now,
    }
    made = insert(customers).values(values).on_conflict_do_nothing().returning(customers.c.id)
    if (await connection.execute(made)).first() is None:
        raise _key_taken(namespace, draft.key)
    if len(set(draft.subject_keys)) < len(draft.subject_keys):
        raise _subjects_taken(draft.subject_keys)
    await _attribute(connection, namespace, customer_id, draft, have={}, now=now)
    added = _wanted(draft)
    await append_changes(connection, [subject_attributed(namespace, each, customer_id) for each in sorted(added)])
    return await get_customer(connection, namespace, customer_id)


async def update_customer(
    connection: AsyncConnection, namespace: str, id_or_key: str, draft: CustomerDraft, *, target: Target, now: datetime
) -> Customer:
    """Replace a customer. What is absent is cleared, but e-mail, currency and single address lines, which stay."""
    _check(draft)
    old = await live_customer(connection, namespace, id_or_key, lock=True)
    await _check_key_is_no_id(connection, namespace, draft.key)
    if draft.key is not None and draft.key != old.key:
        taken = _by_key(namespace, draft.key).with_only_columns(customers.c.id)
        if (await connection.execute(taken)).first() is not None:
            raise _key_taken(namespace, draft.key)
    address = None if draft.billing_address is None else {**(old.billing_address or {}), **draft.billing_address}
    await connection.execute(
        update(customers)
        .where(customers.c.id == old.id)
        .values(
            key=draft.key,
            name=draft.name,
            description=draft.description,
            currency=draft.currency or old.currency,
            primary_email=draft.primary_email or old.primary_email,
            billing_address=address,
            metadata=dict(draft.metadata),
            updated_at=now,
        )
    )
    added, removed = await _reattribute(connection, namespace, old, draft, now)
    await _tell(connection, old)
    if added or removed:
        changes = [
            *(subject_attributed(namespace, each, None) for each in sorted(removed)),
            *(subject_attributed(namespace, each, old.id) for each in sorted(added)),
        ]
        revision = await append_changes(connection, changes)
        await emit_for_customer(connection, old.id, target=target, revision=revision)
    return await get_customer(connection, namespace, old.id)


async def delete_customer(connection: AsyncConnection, namespace: str, id_or_key: str, *, now: datetime) -> None:
    """Mark it deleted and free its key and subject keys. One with active entitlements is a Conflict."""
    old = await live_customer(connection, namespace, id_or_key, lock=True)
    await refuse_entitled(connection, old)
    await connection.execute(update(customers).where(customers.c.id == old.id).values(deleted_at=now, updated_at=now))
    rows = customer_subjects.c
    mine = update(customer_subjects).where(rows.customer_id == old.id, rows.deleted_at.is_(None))
    await connection.execute(mine.values(deleted_at=now))
    await _tell(connection, old)
    await append_changes(connection, [subject_attributed(namespace, each, None) for each in old.subjects])


async def refuse_entitled(connection: AsyncConnection, customer: Customer) -> None:
    """Raise Conflict while the customer has active entitlements."""
    c = entitlements.c
    active = select(c.id).where(c.customer_id == customer.id, c.deleted_at.is_(None), c.active_to.is_(None)).limit(1)
    if (await connection.execute(active)).first() is not None:
        raise Conflict(
            f"customer {customer.id} still has active entitlements, please remove them before deleting the customer"
        )


async def find_customer(
    connection: AsyncConnection, namespace: str, id_or_key: str, *, lock: bool = False
) -> Customer | None:
    """By id, deleted or not; else by key, live only. `lock` holds the row until the transaction ends."""
    queries = [_by_key(namespace, id_or_key)]
    if is_id(id_or_key):
        by_id = select(customers).where(customers.c.namespace == namespace, customers.c.id == id_or_key.upper())
        queries.insert(0, by_id)
    for query in queries:
        row = (await connection.execute(query.with_for_update() if lock else query)).mappings().first()
        if row is not None:
            return (await _with_subjects(connection, [row]))[0]
    return None


async def get_customer(connection: AsyncConnection, namespace: str, id_or_key: str, *, lock: bool = False) -> Customer:
    """As find_customer; raises NotFound."""
    customer = await find_customer(connection, namespace, id_or_key, lock=lock)
    if customer is None:
        raise NotFound(f"customer with id or key {id_or_key} not found in {namespace} namespace")
    return customer


async def live_customer(connection: AsyncConnection, namespace: str, id_or_key: str, *, lock: bool = False) -> Customer:
    """As get_customer; raises PreconditionFailed for a deleted one."""
    customer = await get_customer(connection, namespace, id_or_key, lock=lock)
    if customer.deleted_at is not None:
        raise PreconditionFailed(f"customer is deleted [namespace={namespace} customer.id={customer.id}]")
    return customer


async def customer_of_subject(connection: AsyncConnection, namespace: str, subject: str) -> Customer | None:
    """The live customer to which the subject's usage belongs now."""
    c = customer_subjects.c
    query = select(c.customer_id).where(c.namespace == namespace, c.subject == subject, c.deleted_at.is_(None))
    customer_id = (await connection.execute(query)).scalar()
    return await find_customer(connection, namespace, customer_id) if customer_id is not None else None


async def customers_by_id(connection: AsyncConnection, namespace: str, ids: Iterable[str]) -> dict[str, Customer]:
    """Those of `ids` that exist, deleted ones too."""
    wanted = [each.upper() for each in ids if is_id(each)]
    query = select(customers).where(customers.c.namespace == namespace, customers.c.id.in_(wanted))
    rows = (await connection.execute(query)).mappings().all()
    return {each.id: each for each in await _with_subjects(connection, rows)}


async def list_customers(
    connection: AsyncConnection,
    namespace: str,
    wanted: CustomerFilter,
    part: Slice,
    *,
    order_by: str = "name",
    descending: bool = False,
) -> Found[Customer]:
    c = customers.c
    query = select(customers).where(c.namespace == namespace)
    if not wanted.include_deleted:
        query = query.where(c.deleted_at.is_(None))
    for column, fragment in ((c.key, wanted.key), (c.name, wanted.name), (c.primary_email, wanted.primary_email)):
        if fragment is not None:
            query = query.where(column.icontains(fragment, autoescape=True))
    if wanted.subject is not None:
        s = customer_subjects.c
        mine = (s.customer_id == c.id, s.is_subject_key, s.deleted_at.is_(None))
        query = query.where(exists().where(*mine, s.subject.icontains(wanted.subject, autoescape=True)))
    rows, total = await fetch(connection, query, ordered(ORDERS[order_by], c.id, descending=descending), part)
    return Found(tuple(await _with_subjects(connection, rows)), total)


def _by_key(namespace: str, key: str) -> Select[Any]:
    return select(customers).where(
        customers.c.namespace == namespace, customers.c.key == key, customers.c.deleted_at.is_(None)
    )


async def _with_subjects(connection: AsyncConnection, rows: Sequence[RowMapping]) -> list[Customer]:
    """Customers with their subject keys: those of now, or of the moment of deletion."""
    c = customer_subjects.c
    query = (
        select(c.customer_id, c.subject)
        .join(customers, customers.c.id == c.customer_id)
        .where(
            c.customer_id.in_([row["id"] for row in rows]),
            c.is_subject_key,
            c.deleted_at.is_not_distinct_from(customers.c.deleted_at),
        )
        .order_by(c.subject)
    )
    keys: dict[str, list[str]] = {}
    for customer_id, subject in (await connection.execute(query)).all() if rows else ():
        keys.setdefault(customer_id, []).append(subject)
    return [_customer(row, tuple(keys.get(row["id"], ()))) for row in rows]


def _check(draft: CustomerDraft) -> None:
    if draft.key is None and not draft.subject_keys:
        raise InvalidInput("either key or usageAttribution.subjectKeys must be provided")


async def _check_key_is_no_id(connection: AsyncConnection, namespace: str, key: str | None) -> None:
    if key is None or not is_id(key):
        return
    query = select(customers.c.id).where(customers.c.namespace == namespace, customers.c.id == key.upper())
    if (await connection.execute(query)).first() is not None:
        raise Conflict(f'key "{key}" overlaps with id of another customer')


def _wanted(draft: CustomerDraft) -> dict[str, tuple[bool, bool]]:
    """Subject -> (is the key, is a subject key)."""
    own = {draft.key} if draft.key is not None else set()
    return {each: (each in own, each in draft.subject_keys) for each in {*draft.subject_keys, *own}}


async def _reattribute(
    connection: AsyncConnection, namespace: str, old: Customer, draft: CustomerDraft, now: datetime
) -> tuple[set[str], set[str]]:
    """Make the rows what the draft says; returns the subjects gained and lost."""
    c = customer_subjects.c
    mine = select(c.subject, c.is_key, c.is_subject_key).where(c.customer_id == old.id, c.deleted_at.is_(None))
    have = {subject: (is_key, is_subject) for subject, is_key, is_subject in (await connection.execute(mine)).all()}
    want = _wanted(draft)
    ended = [subject for subject, kinds in have.items() if want.get(subject) != kinds]
    stays = {subject: kinds for subject, kinds in have.items() if want.get(subject) == kinds}
    await connection.execute(
        update(customer_subjects)
        .where(c.customer_id == old.id, c.subject.in_(ended), c.deleted_at.is_(None))
        .values(deleted_at=now)
    )
    await _attribute(connection, namespace, old.id, draft, have=stays, now=now)
    return set(want) - set(have), set(have) - set(want)


async def _attribute(
    connection: AsyncConnection,
    namespace: str,
    customer_id: str,
    draft: CustomerDraft,
    *,
    have: Mapping[str, tuple[bool, bool]],
    now: datetime,
) -> None:
    rows = [
        {
            "namespace": namespace,
            "customer_id": customer_id,
            "subject": subject,
            "is_key": is_key,
            "is_subject_key": is_subject,
            "created_at": now,
        }
        for subject, (is_key, is_subject) in sorted(_wanted(draft).items())
        if subject not in have
    ]
    await _check_subjects_are_no_ids(connection, namespace, draft.subject_keys)
    for row in rows:  # in sorted order, so that two transactions that want the same subjects don't wait in a circle
        statement = insert(customer_subjects).values(row).on_conflict_do_nothing().returning(customer_subjects.c.id)
        if (await connection.execute(statement)).first() is None:
            raise _key_taken(namespace, draft.key) if row["is_key"] else _subjects_taken(draft.subject_keys)
    creator = {"createdBy": "customer", "customerId": customer_id}
    new = {row["subject"] for row in rows if row["is_subject_key"]}
    await ensure_subjects(connection, namespace, (str(each) for each in new), metadata=creator, now=now)


async def _check_subjects_are_no_ids(connection: AsyncConnection, namespace: str, keys: Iterable[str]) -> None:
    ids = [key.upper() for key in keys if is_id(key)]
    if not ids:
        return
    query = select(subjects.c.id).where(
        subjects.c.namespace == namespace, subjects.c.id.in_(ids), subjects.c.key != subjects.c.id
    )
    other = (await connection.execute(query)).scalar()
    if other is not None:
        raise InvalidInput(f"subject key {other} is the id of a subject with another key")


async def _tell(connection: AsyncConnection, old: Customer) -> None:
    """Let every API process forget what it remembers of this customer's key."""
    await connection.execute(_NOTIFY, {"channel": CHANNEL, "payload": old.id})


def _key_taken(namespace: str, key: str | None) -> Conflict:
    return Conflict(f'key "{key}" is already used by an another customer in the namespace {namespace}')


def _subjects_taken(keys: Iterable[str]) -> Conflict:
    return Conflict(
        f"one or multiple subject keys of [{', '.join(sorted(set(keys)))}] are already associated with others"
    )


def _customer(row: RowMapping, subject_keys: tuple[str, ...]) -> Customer:
    return Customer(
        id=row["id"],
        namespace=row["namespace"],
        name=row["name"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        key=row["key"],
        subject_keys=subject_keys,
        description=row["description"],
        currency=row["currency"],
        primary_email=row["primary_email"],
        billing_address=row["billing_address"],
        metadata=row["metadata"],
        deleted_at=row["deleted_at"],
    )
