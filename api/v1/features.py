"""`/api/v1/features`: what customers can be entitled to."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from pydantic import Field

from api.pagination import Limit, Offset, Order, Page, PageNumber, PageSize, page_or_list, switched_slice
from api.requests import ExactRoute
from api.services import Wired
from api.wire import (
    NO_CONTENT,
    Body,
    Key,
    Metadata,
    Timestamp,
    Wire,
    WireResponse,
    answers,
    maybe_timestamp,
    respond,
    timestamp,
)
from metering.domain.errors import InvalidInput
from metering.domain.feature import Feature as DomainFeature
from metering.domain.measure import number_text
from metering.postgres.features import FeatureDraft, archive_feature, create_feature, get_feature, list_features

router = APIRouter(prefix="/api/v1/features", tags=["Features"], route_class=ExactRoute)

IdOrKey = Annotated[str, Path(alias="featureId", min_length=1)]


class Feature(Wire):
    """A feature."""

    id: str
    key: str
    name: str
    created_at: Timestamp
    updated_at: Timestamp
    meter_slug: str | None = None
    meter_group_by_filters: dict[str, str] | None = None
    advanced_meter_group_by_filters: dict[str, dict[str, Any]] | None = None
    unit_cost: dict[str, Any] | None = None
    metadata: dict[str, str] = {}
    archived_at: Timestamp | None = None


class ManualUnitCost(Body):
    type: Literal["manual"]
    amount: Annotated[str, Field(pattern=r"^-?\d{1,24}(?:\.\d{1,12})?$")]

    def stored(self) -> Mapping[str, Any]:
        amount = Decimal(self.amount)
        if amount < 0:
            raise InvalidInput("manual unit cost amount must be non-negative")
        return {"type": self.type, "amount": number_text(amount)}


TokenType = Literal["input", "output", "cache_read", "cache_write", "reasoning", "request", "response"]


class LlmUnitCost(Body):
    type: Literal["llm"]
    provider: str | None = None
    provider_property: str | None = None
    model: str | None = None
    model_property: str | None = None
    token_type: TokenType | None = None
    token_type_property: str | None = None

    def stored(self) -> Mapping[str, Any]:
        return self.model_dump(by_alias=True, exclude_none=True)


class FeatureCreateInputs(Body):
    key: Key
    name: str
    meter_slug: str | None = None
    meter_group_by_filters: dict[str, str] | None = None
    advanced_meter_group_by_filters: dict[str, dict[str, Any]] | None = None
    unit_cost: Annotated[ManualUnitCost | LlmUnitCost, Field(discriminator="type")] | None = None
    metadata: Metadata | None = None

    def draft(self) -> FeatureDraft:
        plain = {name: {"$eq": value} for name, value in (self.meter_group_by_filters or {}).items()}
        return FeatureDraft(
            key=self.key,
            name=self.name,
            meter=self.meter_slug,
            filters=self.advanced_meter_group_by_filters or plain,
            unit_cost=self.unit_cost.stored() if self.unit_cost else None,
            metadata=self.metadata or {},
        )


def feature_wire(feature: DomainFeature) -> Feature:
    filters = {name: dict(condition) for name, condition in feature.filters.items()}
    plain = {name: condition["$eq"] for name, condition in filters.items() if set(condition) == {"$eq"}}
    return Feature(
        id=feature.id,
        key=feature.key,
        name=feature.name,
        created_at=timestamp(feature.created_at),
        updated_at=timestamp(feature.updated_at),
        meter_slug=feature.meter_slug,
        meter_group_by_filters=plain if filters and len(plain) == len(filters) else None,
        advanced_meter_group_by_filters=filters or None,
        unit_cost=dict(feature.unit_cost) if feature.unit_cost else None,
        metadata=dict(feature.metadata),
        archived_at=maybe_timestamp(feature.archived_at),
    )


@router.post("", operation_id="createFeature", status_code=201, responses={201: answers(Feature)})
async def create(services: Wired, body: FeatureCreateInputs) -> WireResponse:
    async with services.engine.begin() as connection:
        made = await create_feature(connection, services.namespace, body.draft(), now=services.now())
    return respond(feature_wire(made), 201)


@router.get("", operation_id="listFeatures", responses={200: answers(list[Feature] | Page[Feature])})
async def list_all(
    services: Wired,
    page: PageNumber = None,
    page_size: PageSize = None,
    limit: Limit = 100,
    offset: Offset = 0,
    meter_slug: Annotated[list[str] | None, Query(alias="meterSlug")] = None,
    include_archived: Annotated[bool, Query(alias="includeArchived")] = False,
    order_by: Annotated[Literal["id", "key", "name", "createdAt", "updatedAt"], Query(alias="orderBy")] = "key",
    order: Order = "ASC",
) -> WireResponse:
    """List features: a page when `page` or `pageSize` is given, else a bare list."""
    async with services.engine.connect() as connection:
        found = await list_features(
            connection,
            services.namespace,
            switched_slice(page, page_size, limit, offset),
            meter_slugs=meter_slug or (),
            include_archived=include_archived,
            order_by=order_by,
            descending=order == "DESC",
        )
    return respond(page_or_list(map(feature_wire, found.items), found.total, page, page_size))


@router.get("/{featureId}", operation_id="getFeature", responses={200: answers(Feature)})
async def get(services: Wired, id_or_key: IdOrKey) -> WireResponse:
    async with services.engine.connect() as connection:
        return respond(feature_wire(await get_feature(connection, services.namespace, id_or_key)))


@router.delete("/{featureId}", operation_id="deleteFeature", status_code=204, responses={204: NO_CONTENT})
async def archive(services: Wired, id_or_key: IdOrKey) -> None:
    """Archive a feature. Entitlements to it keep working."""
    async with services.engine.begin() as connection:
        await archive_feature(connection, services.namespace, id_or_key, now=services.now())
