"""What became of the events, from the accounting of the sink."""

from typing import Final

from metering.clickhouse.client import connect_async
from metering.settings import EngineSettings

_FLUSHES: Final = "SELECT sum(counted), sum(duplicate), sum(rejected) FROM flushes FINAL"
_DEAD_LETTERS: Final = "SELECT count() FROM dead_letters FINAL WHERE meter != ''"


async def event_counts(settings: EngineSettings) -> dict[str, int]:
    """How many events were accepted, counted, duplicate, rejected, and how many had no value for a meter."""
    client = await connect_async(settings)
    try:
        (flushed,) = (await client.query(_FLUSHES)).result_rows
        ((dead_letters,),) = (await client.query(_DEAD_LETTERS)).result_rows
    finally:
        await client.close()
    counted, duplicate, rejected = flushed
    return {
        "accepted": counted + duplicate + rejected,
        "counted": counted,
        "duplicate": duplicate,
        "rejected": rejected,
        "dead_letters": dead_letters,
    }
