"""Plans and their versions: a draft is published and then never changes; the next draft is a new version."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

import msgspec
from sqlalchemy import Row, and_, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from billing.domain.invoice import plan_fingerprint
from billing.domain.money import Currency
from billing.domain.rate_card import PlanBody, plan_findings
from billing.postgres import audit
from billing.postgres.tables import plans
from metering.domain.errors import Finding, InvalidInput, NotFound
from metering.domain.ids import is_id, new_id
from metering.postgres.tables import features

# What a draft may not have either; everything else keeps it only from being published.
CRITICAL: Final = frozenset(
    {
        "plan_billing_cadence_invalid",
        "plan_phase_duplicated_key",
        "rate_card_duplicated_key",
        "rate_card_key_feature_key_mismatch",
        "rate_card_feature_not_found",
        "price_amount_negative",
        "price_tier_empty",
        "price_tiers_overlap",
        "price_without_open_tier",
        "price_without_tiers",
    }
)


class PlanStatus(StrEnum):
    DRAFT = "draft"
    SCHEDULED = "scheduled"
    ACTIVE = "active"
    ARCHIVED = "archived"


@dataclass(frozen=True, slots=True)
class Plan:
    """One version of a plan."""

    id: str
    namespace: str
    key: str
    version: int
    name: str
    body: PlanBody
    created_at: datetime
    updated_at: datetime
    description: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    effective_from: datetime | None = None
    effective_to: datetime | None = None
    deleted_at: datetime | None = None
    findings: tuple[Finding, ...] = ()

    def status(self, now: datetime) -> PlanStatus:
        if self.effective_from is None:
            return PlanStatus.DRAFT
        if self.effective_from > now:
            return PlanStatus.SCHEDULED
        if self.effective_to is None or self.effective_to > now:
            return PlanStatus.ACTIVE
        return PlanStatus.ARCHIVED


@dataclass(frozen=True, slots=True)
class PlanFilter:
    """`ids`, `keys` and `currencies` are alternatives of each other, as on the wire."""

    ids: Sequence[str] = ()
    keys: Sequence[str] = ()
    currencies: Sequence[str] = ()
    statuses: Sequence[PlanStatus] = ()
    include_deleted: bool = False


async def create_plan(
    engine: AsyncEngine,
    namespace: str,
    *,
    key: str,
    name: str,
    body: PlanBody,
    now: datetime,
    description: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Plan:
    """A new draft, the next version of its key. Raises InvalidInput for what not even a draft may have."""
    Currency(body.currency)
    async with engine.begin() as connection:
        findings = await _findings(connection, namespace, body, publishing=False)
        critical = [finding for finding in findings if finding.code in CRITICAL]
        if critical:
            raise InvalidInput("invalid plan", critical)
        of_key = and_(plans.c.namespace == namespace, plans.c.key == key)
        newest = (await connection.execute(select(func.max(plans.c.version)).where(of_key))).scalar_one()
        row = {
            "id": new_id(),
            "namespace": namespace,
            "key": key,
            "version": (newest or 0) + 1,
            "name": name,
            "description": description,
            "body": _stored(body),
            "metadata": dict(metadata or {}),
            "created_at": now,
            "updated_at": now,
        }
        try:
            await connection.execute(insert(plans).values(row))
        except IntegrityError as error:
            raise InvalidInput("only a single draft version is allowed for Plan") from error
        await audit.append(
            connection,
            at=now,
            actor="api",
            action="plan.created",
            subject=f"plan/{row['id']}",
            details={"key": key, "version": row["version"], "sha256": plan_fingerprint(body)},
        )
        return await plan_by_id(connection, namespace, str(row["id"]))


async def publish_plan(engine: AsyncEngine, namespace: str, plan_id: str, *, now: datetime) -> Plan:
    """Make a draft the active version; the version that was active is archived at the same instant."""
    async with engine.begin() as connection:
        plan = await plan_by_id(connection, namespace, plan_id, lock=True)
        status = plan.status(now)
        if plan.deleted_at is not None or status not in {PlanStatus.DRAFT, PlanStatus.SCHEDULED}:
            raise InvalidInput(
                f"only Plans in [draft scheduled] can be published/rescheduled, but it has {status} state"
            )
        findings = await _findings(connection, namespace, plan.body, publishing=True)
        if findings:
            raise InvalidInput("invalid plan", findings)
        await connection.execute(
            update(plans)
            .where(
                plans.c.namespace == namespace,
                plans.c.key == plan.key,
                plans.c.effective_from.is_not(None),
                plans.c.effective_to.is_(None),
                plans.c.deleted_at.is_(None),
            )
            .values(effective_to=now, updated_at=now)
        )
        await connection.execute(update(plans).where(plans.c.id == plan.id).values(effective_from=now, updated_at=now))
        await audit.append(
            connection,
            at=now,
            actor="api",
            action="plan.published",
            subject=f"plan/{plan.id}",
            details={"key": plan.key, "version": plan.version, "sha256": plan_fingerprint(plan.body)},
        )
        return await plan_by_id(connection, namespace, plan.id)


async def find_plan(
    engine: AsyncEngine, namespace: str, id_or_key: str, *, now: datetime, include_latest: bool = False
) -> Plan:
    """By id any version; by key the active one, or with `include_latest` the newest."""
    async with engine.connect() as connection:
        if is_id(id_or_key):
            return await plan_by_id(connection, namespace, id_or_key.upper())
        if include_latest:
            of_key = (plans.c.namespace == namespace, plans.c.key == id_or_key, plans.c.deleted_at.is_(None))
            row = (await connection.execute(select(plans).where(*of_key).order_by(plans.c.version.desc()))).first()
            if row is None:
                raise NotFound(f"plan not found. [namespace={namespace} key={id_or_key}]")
            return _plan(row)
        plan = await active_plan(connection, namespace, id_or_key, now=now)
        if plan is None:
            raise NotFound(f"plan not found. [namespace={namespace} key={id_or_key}]")
        return plan


async def list_plans(
    engine: AsyncEngine, namespace: str, wanted: PlanFilter, *, page: int, size: int, now: datetime
) -> tuple[list[Plan], int]:
    """A page of versions, newest id first, and how many there are in all. Pages count from 1."""
    conditions = [plans.c.namespace == namespace]
    anyof = [
        column.in_(list(values))
        for column, values in (
            (plans.c.id, wanted.ids),
            (plans.c.key, wanted.keys),
            (plans.c.body["currency"].astext, wanted.currencies),
        )
        if values
    ]
    if anyof:
        conditions.append(or_(*anyof))
    if not wanted.include_deleted:
        conditions.append(plans.c.deleted_at.is_(None))
    if wanted.statuses:
        conditions.append(or_(*[_has_status(status, now) for status in wanted.statuses]))
    async with engine.connect() as connection:
        count = (await connection.execute(select(func.count()).select_from(plans).where(*conditions))).scalar_one()
        query = select(plans).where(*conditions).order_by(plans.c.id.desc()).limit(size).offset((page - 1) * size)
        return [_plan(row) for row in await connection.execute(query)], count


async def plan_by_id(connection: AsyncConnection, namespace: str, plan_id: str, *, lock: bool = False) -> Plan:
    """Any version, deleted ones too; raises NotFound."""
    query = select(plans).where(plans.c.namespace == namespace, plans.c.id == plan_id)
    row = (await connection.execute(query.with_for_update() if lock else query)).first()
    if row is None:
        raise NotFound(f"plan not found. [namespace={namespace} id={plan_id}]")
    return _plan(row)


async def active_plan(connection: AsyncConnection, namespace: str, key: str, *, now: datetime) -> Plan | None:
    conditions = (plans.c.namespace == namespace, plans.c.key == key, plans.c.deleted_at.is_(None))
    query = select(plans).where(*conditions, _has_status(PlanStatus.ACTIVE, now)).order_by(plans.c.version.desc())
    row = (await connection.execute(query)).first()
    return None if row is None else _plan(row)


def _has_status(status: PlanStatus, now: datetime) -> Any:
    start, end = plans.c.effective_from, plans.c.effective_to
    match status:
        case PlanStatus.DRAFT:
            return start.is_(None)
        case PlanStatus.SCHEDULED:
            return start > now
        case PlanStatus.ACTIVE:
            return and_(start <= now, or_(end.is_(None), end > now))
        case PlanStatus.ARCHIVED:
            return end <= now


async def _findings(
    connection: AsyncConnection, namespace: str, body: PlanBody, *, publishing: bool
) -> tuple[Finding, ...]:
    found = list(plan_findings(body))
    keys = {card.feature_key for phase in body.phases for card in phase.rate_cards if card.feature_key is not None}
    query = select(features.c.key, features.c.meter_id).where(
        features.c.namespace == namespace, features.c.key.in_(keys), features.c.archived_at.is_(None)
    )
    known = {row.key: row.meter_id for row in await connection.execute(query)}
    for phase in body.phases:
        for card in phase.rate_cards:
            field = f"$.phases[?(@.key=='{phase.key}')].rateCards[?(@.key=='{card.key}')].featureKey"
            if card.feature_key is None:
                continue
            if card.feature_key not in known:
                found.append(Finding(field, "rate_card_feature_not_found", f"no feature {card.feature_key}"))
            elif publishing and card.is_metered and known[card.feature_key] is None:
                code = "usage_based_price_with_feature_and_no_meter"
                found.append(Finding(field, code, f"the feature {card.feature_key} has no meter"))
    return tuple(found)


def _stored(body: PlanBody) -> Any:
    return msgspec.to_builtins(body)


def _plan(row: Row[Any]) -> Plan:
    body = msgspec.convert(row.body, PlanBody)
    return Plan(
        id=row.id,
        namespace=row.namespace,
        key=row.key,
        version=row.version,
        name=row.name,
        body=body,
        created_at=row.created_at,
        updated_at=row.updated_at,
        description=row.description,
        metadata=row.metadata,
        effective_from=row.effective_from,
        effective_to=row.effective_to,
        deleted_at=row.deleted_at,
        findings=tuple(plan_findings(body)),
    )
