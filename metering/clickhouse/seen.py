"""What events have brought: subjects, and values of dimensions."""

from datetime import datetime
from typing import Final

from clickhouse_connect.driver.asyncclient import AsyncClient

from metering.clickhouse.raw_events import events_where
from metering.clickhouse.statement import sql
from metering.clickhouse.usage import UsageStore
from metering.domain.errors import InvalidInput
from metering.domain.meter import Meter
from metering.domain.usage import UsageQuery

SUBJECTS_MAX: Final = 1_000_000


async def subjects_of_type(
    client: AsyncClient, meter: Meter, start: datetime | None, end: datetime | None
) -> list[str]:
    """The subjects of events of the meter's type in [start, end), sorted; of all events, usable or not."""
    where = events_where(meter, start=_whole(start), end=_whole(end))
    statement = sql("SELECT DISTINCT subject FROM events WHERE {where} ORDER BY subject", where=where).render()
    result = await client.query(f"{statement.text} LIMIT {SUBJECTS_MAX + 1}", statement.parameters)
    if len(result.result_rows) > SUBJECTS_MAX:
        raise InvalidInput(f"there are more than {SUBJECTS_MAX} subjects: narrow the range")
    return [subject for (subject,) in result.result_rows]


async def dimension_values(
    store: UsageStore, meter: Meter, dimension: str, start: datetime | None, end: datetime | None
) -> list[str]:
    """The texts of a dimension in [start, end), sorted; of all events that count for the meter, usable or not."""
    query = UsageQuery(meter, start, end, group_by=(dimension,))
    return sorted({key.values[0] for key, state in await store.states(query) if state.events})


def _whole(at: datetime | None) -> datetime | None:
    return None if at is None else at.replace(microsecond=0)
