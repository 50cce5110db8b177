"""Bring billing's part of the Postgres database, and the job queue's, to the newest version.

with migration_lock(settings):  # metering.postgres.migrate
    upgrade(settings)
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from procrastinate.schema import SchemaManager
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.pool import NullPool

from billing.postgres.tables import SCHEMA
from metering.settings import EngineSettings

JOBS_SCHEMA = "jobs"


def alembic_config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


def upgrade(settings: EngineSettings) -> None:
    """Make or change the tables. Doing it again changes nothing. Call it inside `migration_lock`."""
    engine = create_engine(settings.sqlalchemy_url, poolclass=NullPool, connect_args={"connect_timeout": 5})
    with engine.connect() as connection:
        connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
        connection.commit()
        command.upgrade(alembic_config(connection), "head")
        connection.commit()
    with engine.begin() as connection:
        _upgrade_jobs(connection)
    engine.dispose()


def _upgrade_jobs(connection: Connection) -> None:
    """procrastinate's own schema, in a namespace that its connections have as search_path."""
    connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {JOBS_SCHEMA}"))
    there = connection.execute(text("SELECT to_regclass(:name)"), {"name": f"{JOBS_SCHEMA}.procrastinate_jobs"})
    if there.scalar_one() is None:
        connection.execute(text(f"SET LOCAL search_path TO {JOBS_SCHEMA}"))
        connection.exec_driver_sql(SchemaManager.get_schema().replace("%", "%%"))
