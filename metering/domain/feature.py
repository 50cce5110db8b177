"""A feature: what a customer is entitled to, and which part of a meter's usage it takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, cast

from metering.domain.entitlement import DimensionFilter
from metering.domain.errors import InvalidInput
from metering.domain.meter import Aggregation

Operator = Literal["$eq", "$ne", "$in", "$nin", "$like", "$nlike", "$ilike", "$nilike", "$gt", "$gte", "$lt", "$lte"]

# What a balance can be counted in: usage of a stretch must follow from usage up to its ends.
COUNTABLE: Final = (Aggregation.SUM, Aggregation.COUNT, Aggregation.UNIQUE_COUNT, Aggregation.LATEST)
_ONE: Final = frozenset({"$eq", "$ne", "$like", "$nlike", "$ilike", "$nilike", "$gt", "$gte", "$lt", "$lte"})
_MANY: Final = frozenset({"$in", "$nin"})


@dataclass(frozen=True, slots=True)
class Feature:
    """`filters` map a dimension of the meter to a string filter such as {"$eq": "a100"}; all must hold."""

    id: str
    namespace: str
    key: str
    name: str
    created_at: datetime
    updated_at: datetime
    meter_id: str | None = None
    meter_slug: str | None = None
    filters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    unit_cost: Mapping[str, Any] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    archived_at: datetime | None = None


def dimension_filters(filters: Mapping[str, Mapping[str, Any]]) -> tuple[DimensionFilter, ...]:
    """The filters as the balance fold reads them, `$and` opened; raises InvalidInput on what can't be understood."""
    return tuple(part for name in sorted(filters) for part in _parts(name, filters[name]))


def _parts(name: str, condition: Mapping[str, Any]) -> Sequence[DimensionFilter]:
    if len(condition) > 1:
        raise InvalidInput(f"invalid filters for feature: {name}: multiple operators are set")
    for operator, value in condition.items():
        if operator == "$and" and isinstance(value, Sequence) and not isinstance(value, str):
            return [part for inner in value for part in _parts(name, _mapping(name, inner))]
        if operator in _ONE and isinstance(value, str) and value:
            return [DimensionFilter(name, cast("Operator", operator), (value,))]
        if operator in _MANY and isinstance(value, list) and all(isinstance(item, str) for item in value):
            return [DimensionFilter(name, cast("Operator", operator), tuple(value))]
        raise InvalidInput(f"invalid filters for feature: {name}: filter is invalid: {operator}")
    return []


def _mapping(name: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidInput(f"invalid filters for feature: {name}: filter is invalid")
    return value
