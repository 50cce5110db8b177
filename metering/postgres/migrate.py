"""Bring metering's part of the Postgres database to the newest version."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from psycopg import sql
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.pool import NullPool

from metering.postgres.registry import append_changes_sync, namespace_added
from metering.postgres.tables import namespaces
from metering.settings import EngineSettings

_LOCK = text("SELECT pg_advisory_lock(hashtextextended('weighbridge.migrate', 0))")
_UNLOCK = text("SELECT pg_advisory_unlock(hashtextextended('weighbridge.migrate', 0))")


def alembic_config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


def create_database(settings: EngineSettings) -> bool:
    """Make the database that the URL names, if the server has none of that name. Returns whether it was made."""
    url = settings.postgres_url.get_secret_value()
    try:
        psycopg.connect(url, connect_timeout=5).close()
    except psycopg.OperationalError as error:
        if "does not exist" not in str(error):
            raise
    else:
        return False
    name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    with psycopg.connect(url, dbname="postgres", connect_timeout=5, autocommit=True) as connection:
        try:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(str(name))))
        except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
            return False  # another migration was quicker
    return True


@contextmanager
def migration_lock(settings: EngineSettings) -> Iterator[None]:
    """Hold the lock that lets one migration run at a time; waits for another to end."""
    engine = _engine(settings)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(_LOCK)
        try:
            yield
        finally:
            connection.execute(_UNLOCK)
    engine.dispose()


def upgrade(settings: EngineSettings) -> None:
    """Make or change the tables, and add the default namespace. Doing it again changes nothing.

    Call it inside `migration_lock`, as two upgrades at once would meet in their DDL.
    """
    engine = _engine(settings)
    with engine.connect() as connection:
        command.upgrade(alembic_config(connection), "head")
        connection.commit()
    with engine.begin() as connection:
        add_namespace(connection, settings.default_namespace)
    engine.dispose()


def _engine(settings: EngineSettings) -> Engine:
    """Without the limits of the processes' engines: a migration may take its time."""
    return create_engine(settings.sqlalchemy_url, poolclass=NullPool, connect_args={"connect_timeout": 5})


def add_namespace(connection: Connection, name: str) -> None:
    """Add a namespace and tell the sinks, unless it is there."""
    made = connection.execute(
        upsert(namespaces).values(name=name).on_conflict_do_nothing().returning(namespaces.c.name)
    ).first()
    if made is not None:
        append_changes_sync(connection, [namespace_added(name)])
