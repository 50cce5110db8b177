"""Meters listed in a file: created when missing, left alone afterwards, their drift told."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from metering.domain.errors import InvalidInput
from metering.postgres.engine import async_engine
from metering.postgres.meters import delete_meter, get_meter, list_meters
from metering.postgres.migrate import migration_lock, upgrade
from metering.postgres.predefined import Drift, ensure_predefined_meters, read_meters_file
from metering.settings import EngineSettings

NOW = datetime(2031, 2, 1, tzinfo=UTC)
FILE = """
meters:
  - slug: miles
    description: Miles flown
    aggregation: SUM
    eventType: flight
    valueProperty: $.miles
    groupBy: {origin: $.origin, dest: $.dest}
  - {slug: flights, aggregation: COUNT, eventType: flight}
"""


async def test_listed_meters_are_created_kept_and_compared(postgres_url: str, tmp_path: Path) -> None:
    path = tmp_path / "meters.yaml"
    path.write_text(FILE)
    settings = EngineSettings(postgres_url=SecretStr(postgres_url), meters_file=path)
    with migration_lock(settings):
        upgrade(settings)
    engine = async_engine(settings, application="test")

    async def ensure() -> list[Drift]:
        return await ensure_predefined_meters(engine, settings, now=NOW)

    assert await ensure() == []
    async with engine.begin() as connection:
        first = await list_meters(connection, "default")
        assert [each.slug for each in first] == ["flights", "miles"]
        assert first[1].group_by == (("dest", "$.dest"), ("origin", "$.origin"))
    assert await ensure() == []
    path.write_text(FILE.replace("Miles flown", "Miles").replace("dest: $.dest", "dest: $.to"))
    assert await ensure() == [Drift("miles", ("description", "groupBy"))]
    async with engine.begin() as connection:
        assert await list_meters(connection, "default") == first
        await delete_meter(connection, "default", "flights", now=NOW)
    assert len(await ensure()) == 1
    async with engine.begin() as connection:
        assert (await get_meter(connection, "default", "flights")).id != first[0].id
    await engine.dispose()


@pytest.mark.parametrize(
    "content",
    [
        "- {slug: A, aggregation: COUNT, eventType: x}",
        "- {slug: a, aggregation: SUM, eventType: x}",
        "- {slug: a, aggregation: COUNT, eventType: x, other: 1}",
        "- [",
        "3",
    ],
)
def test_invalid_file_is_refused_whole(content: str, tmp_path: Path) -> None:
    path = tmp_path / "meters.yaml"
    path.write_text(content)
    with pytest.raises(InvalidInput, match=str(path)):
        read_meters_file(path)
