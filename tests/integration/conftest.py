"""The API in this process, on the real engines, for the tests that only speak HTTP to it."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from api.app import create_app
from api.settings import ApiSettings
from billing.postgres.migrate import upgrade as upgrade_billing
from metering.clickhouse.schema import create_all
from metering.kafka.topics import ensure_topics
from metering.postgres.migrate import migration_lock, upgrade
from tests.integration.api_client import ApiClient

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import ClickHouseDatabase, EngineUrls


@pytest.fixture(scope="module")
def api_settings(
    engines: EngineUrls, module_postgres_url: str, module_clickhouse_database: ClickHouseDatabase
) -> ApiSettings:
    """An API of the module's own: tables and topics are made, nobody counts events."""
    settings = ApiSettings(
        kafka_bootstrap=engines.kafka_bootstrap,
        topic_prefix=f"t{secrets.token_hex(6)}-",
        event_partitions=1,
        balance_partitions=1,
        postgres_url=SecretStr(module_postgres_url),
        clickhouse_url=SecretStr(module_clickhouse_database.url),
        clickhouse_database=module_clickhouse_database.name,
        reserved_event_types=("system.*",),
    )
    with migration_lock(settings):
        upgrade(settings)
        upgrade_billing(settings)
    create_all(settings)
    ensure_topics(settings)
    return settings


@pytest.fixture(scope="module")
def api(api_settings: ApiSettings) -> Iterator[ApiClient]:
    """A client of that API."""
    with ApiClient(create_app(api_settings)) as client:
        yield client
