"""Migrations on the real Postgres, and the script that a deployment runs."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from alembic import command
from pydantic import SecretStr
from sqlalchemy import create_engine, inspect, text

from metering.postgres.migrate import alembic_config, create_database, migration_lock, upgrade
from metering.postgres.tables import metadata
from metering.settings import EngineSettings

if TYPE_CHECKING:
    from tests.conftest import ClickHouseDatabase, EngineUrls

SCRIPT = Path(__file__).parents[2] / "cmd" / "migrate.py"


def settings_of(url: str) -> EngineSettings:
    return EngineSettings(postgres_url=SecretStr(url))


def test_migrations_make_the_tables_that_the_code_knows(postgres_url: str) -> None:
    settings = settings_of(postgres_url)
    with migration_lock(settings):
        upgrade(settings)
    engine = create_engine(settings.sqlalchemy_url)
    with engine.connect() as connection:
        command.check(alembic_config(connection))
        assert set(metadata.tables) <= set(inspect(connection).get_table_names())
        command.downgrade(alembic_config(connection), "base")
        connection.commit()
    with engine.connect() as connection:
        assert not set(metadata.tables) & set(inspect(connection).get_table_names())
    engine.dispose()


def test_upgrades_at_the_same_time_are_one_upgrade(postgres_url: str) -> None:
    settings = settings_of(postgres_url)

    def run(_: int) -> None:
        with migration_lock(settings):
            upgrade(settings)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(4)))
    engine = create_engine(settings.sqlalchemy_url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM namespaces")).scalar_one() == 1
        assert connection.execute(text("SELECT count(*) FROM registry_changes")).scalar_one() == 1
    engine.dispose()


def test_missing_database_is_made_once(postgres_url: str) -> None:
    parts = urlsplit(postgres_url)
    other = parts._replace(path=parts.path + "_new").geturl()
    settings = settings_of(other)
    try:
        with ThreadPoolExecutor(2) as pool:
            made = list(pool.map(lambda _: create_database(settings), range(2)))
        assert sum(made) <= 1
        assert not create_database(settings)
    finally:
        engine = create_engine(settings_of(postgres_url).sqlalchemy_url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f'DROP DATABASE "{parts.path[1:]}_new" WITH (FORCE)'))
        engine.dispose()


def run_script(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_script_makes_everything_and_can_run_again(
    engines: EngineUrls, postgres_url: str, clickhouse_database: ClickHouseDatabase, topic_prefix: str, tmp_path: Path
) -> None:
    meters = tmp_path / "meters.yaml"
    meters.write_text("- {slug: jobs, eventType: job, aggregation: COUNT}\n")
    environment = {
        "WEIGHBRIDGE_KAFKA_BOOTSTRAP": engines.kafka_bootstrap,
        "WEIGHBRIDGE_POSTGRES_URL": postgres_url,
        "WEIGHBRIDGE_CLICKHOUSE_URL": clickhouse_database.url,
        "WEIGHBRIDGE_CLICKHOUSE_DATABASE": clickhouse_database.name,
        "WEIGHBRIDGE_TOPIC_PREFIX": topic_prefix,
        "WEIGHBRIDGE_METERS_FILE": str(meters),
    }
    for _ in range(2):
        done = run_script(environment)
        assert (done.returncode, done.stderr) == (0, "")
        assert "predefined meters: ready" in done.stdout
    meters.write_text("- {slug: jobs, eventType: job, aggregation: SUM}\n")
    done = run_script(environment)
    assert done.returncode == 1
    assert done.stderr.startswith("migrate: predefined meters: ")
    assert "meter value property is required" in done.stderr
    assert done.stderr.count("\n") == 1


def test_script_says_in_one_line_what_is_wrong() -> None:
    away = run_script({"WEIGHBRIDGE_POSTGRES_URL": "postgresql://nobody@127.0.0.1:1/none"})
    assert away.returncode == 1
    assert away.stderr.startswith("migrate: Postgres: ")
    assert away.stderr.count("\n") == 1
    bad = run_script({"WEIGHBRIDGE_EVENT_PARTITIONS": "0"}, "--check-config")
    assert bad.returncode == 2
    assert "event_partitions" in bad.stderr.lower()
    assert run_script({}, "--check-config").returncode == 0
