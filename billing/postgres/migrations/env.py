"""Run by Alembic. The connection comes from `billing.postgres.migrate`."""

from alembic import context

from billing.postgres.tables import SCHEMA, metadata

VERSION_TABLE = "billing_alembic_version"

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    version_table_schema=SCHEMA,
    transaction_per_migration=True,
    include_schemas=True,
    include_name=lambda name, kind, _parents: (
        name == SCHEMA if kind == "schema" else kind != "table" or f"{SCHEMA}.{name}" in metadata.tables
    ),
)
with context.begin_transaction():
    context.run_migrations()
