"""Meters that the operator lists in a file. They are created when they are missing and never changed afterwards."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import structlog
import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel
from sqlalchemy.ext.asyncio import AsyncEngine

from metering.domain.errors import Conflict, InvalidInput
from metering.domain.meter import Aggregation
from metering.domain.meter_definition import MeterDefinition, check_rules
from metering.postgres.engine import async_engine
from metering.postgres.meters import MeterDraft, create_meter, list_meters
from metering.settings import EngineSettings

_log: Final = structlog.get_logger()


class PredefinedMeter(BaseModel):
    """One entry of the file, in the words of the API."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel)

    slug: Annotated[str, Field(pattern=r"^[a-z0-9]+(?:_[a-z0-9]+)*$", max_length=64)]
    name: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    description: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    aggregation: Aggregation
    event_type: Annotated[str, Field(min_length=1)]
    value_property: str | None = None
    group_by: dict[str, str] = {}

    def draft(self) -> MeterDraft:
        return MeterDraft(
            slug=self.slug,
            event_type=self.event_type,
            aggregation=self.aggregation,
            value_path=self.value_property,
            group_by=self.group_by,
            name=self.name,
            description=self.description,
        )


@dataclass(frozen=True, slots=True)
class Drift:
    """A live meter that is not as the file says: `members` differ."""

    slug: str
    members: tuple[str, ...]


_FILE: Final = TypeAdapter(list[PredefinedMeter])


def read_meters_file(path: Path) -> Sequence[PredefinedMeter]:
    """The entries of a YAML list, or of the list under `meters`; raises InvalidInput, also for rules that can't be."""
    try:
        content = yaml.safe_load(path.read_text()) or []
        entries = _FILE.validate_python(content.get("meters") or [] if isinstance(content, dict) else content)
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise InvalidInput(f"{path}: {error}") from error
    for entry in entries:
        try:
            check_rules(entry.aggregation, entry.value_property, entry.group_by)
        except InvalidInput as error:
            raise InvalidInput(f"{path}: meter {entry.slug}: {error.detail}") from error
    return entries


async def ensure_predefined_meters(engine: AsyncEngine, settings: EngineSettings, *, now: datetime) -> list[Drift]:
    """Create the meters of the file that are not live; returns, and logs, those that are live but otherwise."""
    if settings.meters_file is None:
        return []
    entries = read_meters_file(settings.meters_file)
    drifts = []
    async with engine.connect() as connection:
        live = {each.slug: each for each in await list_meters(connection, settings.default_namespace)}
    for entry in entries:
        existing = live.get(entry.slug)
        if existing is None:
            await _create(engine, settings.default_namespace, entry, now)
        elif members := _differences(existing, entry):
            drifts.append(Drift(entry.slug, members))
            _log.warning("predefined_meter_differs", slug=entry.slug, members=members)
    return drifts


def create_predefined_meters(settings: EngineSettings) -> None:
    """The same from a script."""

    async def run() -> None:
        engine = async_engine(settings, application="migrate", pool_size=1)
        try:
            await ensure_predefined_meters(engine, settings, now=datetime.now(UTC))
        finally:
            await engine.dispose()

    asyncio.run(run())


async def _create(engine: AsyncEngine, namespace: str, entry: PredefinedMeter, now: datetime) -> None:
    try:
        async with engine.begin() as connection:
            await create_meter(connection, namespace, entry.draft(), now=now)
    except Conflict:
        _log.info("predefined_meter_made_by_another", slug=entry.slug)


def _differences(existing: MeterDefinition, entry: PredefinedMeter) -> tuple[str, ...]:
    pairs = {
        "name": (existing.name, entry.name or entry.slug),
        "description": (existing.description, entry.description),
        "aggregation": (existing.aggregation, entry.aggregation),
        "eventType": (existing.event_type, entry.event_type),
        "valueProperty": (existing.value_path, entry.value_property),
        "groupBy": (dict(existing.group_by), entry.group_by),
    }
    return tuple(member for member, (have, want) in pairs.items() if have != want)
