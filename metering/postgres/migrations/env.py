"""Run by Alembic. The connection comes from `metering.postgres.migrate`, inside its lock."""

from alembic import context

from metering.postgres.tables import metadata

VERSION_TABLE = "metering_alembic_version"

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    transaction_per_migration=True,
    include_name=lambda name, kind, _parents: kind != "table" or name in metadata.tables,
)
with context.begin_transaction():
    context.run_migrations()
