"""Reading meters from Postgres."""

from sqlalchemy import RowMapping

from metering.domain.meter import Aggregation
from metering.domain.meter_definition import MeterDefinition


def meter_of(row: RowMapping) -> MeterDefinition:
    """A row of `meters`."""
    return MeterDefinition(
        id=row["id"],
        namespace=row["namespace"],
        version=row["version"],
        slug=row["slug"],
        name=row["name"],
        event_type=row["event_type"],
        aggregation=Aggregation(row["aggregation"]),
        value_path=row["value_path"],
        group_by=tuple((name, path) for name, path in row["group_by"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        description=row["description"],
        event_from=row["event_from"],
        metadata=row["metadata"],
        deleted_at=row["deleted_at"],
    )
