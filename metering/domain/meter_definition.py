"""A meter as its owner defines it: the measuring rules and what they are called."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from metering.domain.errors import InvalidInput
from metering.domain.jsonpath import parse_path
from metering.domain.meter import Aggregation, Meter

# Grouping names that the usage query has of its own.
BUILT_IN_DIMENSIONS: Final = frozenset({"subject", "customer_id"})
_DIMENSION: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


@dataclass(frozen=True, slots=True)
class MeterDefinition:
    """A meter with its names and times. `group_by` is sorted by name, which is the order of `dims` in usage rows."""

    id: str
    namespace: str
    version: int
    slug: str
    name: str
    event_type: str
    aggregation: Aggregation
    value_path: str | None
    group_by: tuple[tuple[str, str], ...]
    created_at: datetime
    updated_at: datetime
    description: str | None = None
    event_from: datetime | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    deleted_at: datetime | None = None

    def meter(self) -> Meter:
        """What the sink must know of it."""
        return Meter(
            namespace=self.namespace,
            id=self.id,
            version=self.version,
            slug=self.slug,
            event_type=self.event_type,
            aggregation=self.aggregation,
            value_path=self.value_path,
            group_by=self.group_by,
            event_from=self.event_from,
        )


def check_rules(aggregation: Aggregation, value_path: str | None, group_by: Mapping[str, str]) -> None:
    """Raise InvalidInput unless a meter can measure by these rules."""
    if aggregation is Aggregation.COUNT:
        if value_path is not None:
            raise InvalidInput(
                "invalid meter aggregation: meter value property is not allowed when the aggregation is count"
            )
    elif value_path is None:
        raise InvalidInput(
            "invalid meter aggregation: meter value property is required when the aggregation is not count"
        )
    else:
        parse_path(value_path)
    for name, path in group_by.items():
        if _DIMENSION.fullmatch(name) is None:
            raise InvalidInput(
                f"invalid meter group by: meter group by key {name} is invalid, "
                "only alphanumeric and underscore characters are allowed"
            )
        if name in BUILT_IN_DIMENSIONS:
            raise InvalidInput(f"invalid meter group by: meter group by key {name} is a built-in name")
        parse_path(path)
        if path == value_path:
            raise InvalidInput(
                f"invalid meter group by: meter group by value {name} cannot be the same as value property"
            )
