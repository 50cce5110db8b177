"""The first tables of metering."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "backfills",
        sa.Column("meter_key", sa.Text(), nullable=False),
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column(
            "revision", sa.BigInteger(), nullable=False, comment="of the registry, which brought this meter version"
        ),
        sa.Column(
            "progress", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("done_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "closed_at", sa.DateTime(timezone=True), nullable=True, comment="when closed hours were folded anew with it"
        ),
        sa.PrimaryKeyConstraint("meter_key", name=op.f("backfills_pk")),
    )
    op.create_table(
        "balance_epochs",
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("topic", "partition", name=op.f("balance_epochs_pk")),
    )
    op.create_table(
        "closing",
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("closed_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("topic", name=op.f("closing_pk")),
    )
    op.create_table(
        "namespaces",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("namespaces_pk")),
    )
    op.create_table(
        "outbox",
        sa.Column("sequence", sa.BigInteger(), autoincrement=True, nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=True),
        sa.Column("payload", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("sequence", name=op.f("outbox_pk")),
    )
    op.create_index(
        "outbox_sent_ix", "outbox", ["sent_at"], unique=False, postgresql_where=sa.text("sent_at IS NOT NULL")
    )
    op.create_index(
        "outbox_unsent_ix", "outbox", ["sequence"], unique=False, postgresql_where=sa.text("sent_at IS NULL")
    )
    op.create_table(
        "registry_changes",
        sa.Column("revision", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False, comment="namespace, meter or subject"),
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False, comment="the namespace's name, the meter's id, the subject"),
        sa.Column("payload", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("revision", name=op.f("registry_changes_pk")),
    )
    op.create_index(
        "registry_changes_key_ix",
        "registry_changes",
        ["kind", "namespace", "key", sa.literal_column("revision DESC")],
        unique=False,
    )
    op.create_table(
        "sink_plans",
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("a", sa.BigInteger(), nullable=False),
        sa.Column("end", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("ingest_floor", sa.BigInteger(), nullable=False, comment="milliseconds since the epoch"),
        sa.Column("digest", sa.LargeBinary(), nullable=True, comment="of the event ids in [a, end)"),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("topic", "partition", name=op.f("sink_plans_pk")),
    )
    op.create_table(
        "customers",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("currency", sa.Text(), nullable=True),
        sa.Column("primary_email", sa.Text(), nullable=True),
        sa.Column("billing_address", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column(
            "metadata", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["namespace"], ["namespaces.name"], name=op.f("customers_namespace_fk")),
        sa.PrimaryKeyConstraint("id", name=op.f("customers_pk")),
    )
    op.create_index(
        "customers_key_live",
        "customers",
        ["namespace", "key"],
        unique=True,
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index("customers_name_ix", "customers", ["namespace", "name", "id"], unique=False)
    op.create_table(
        "meters",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("event_type", sa.Text(), nullable=False),
        sa.Column("event_from", sa.DateTime(timezone=True), nullable=True),
        sa.Column("aggregation", sa.Text(), nullable=False),
        sa.Column("value_path", sa.Text(), nullable=True),
        sa.Column(
            "group_by",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="[[name, JSONPath], ...] in the order of dims",
        ),
        sa.Column(
            "metadata", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["namespace"], ["namespaces.name"], name=op.f("meters_namespace_fk")),
        sa.PrimaryKeyConstraint("id", name=op.f("meters_pk")),
    )
    op.create_index(
        "meters_slug_live", "meters", ["namespace", "slug"], unique=True, postgresql_where=sa.text("deleted_at IS NULL")
    )
    op.create_table(
        "subjects",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("display_name", sa.Text(), nullable=True),
        sa.Column("stripe_customer_id", sa.Text(), nullable=True),
        sa.Column(
            "metadata", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["namespace"], ["namespaces.name"], name=op.f("subjects_namespace_fk")),
        sa.PrimaryKeyConstraint("id", name=op.f("subjects_pk")),
    )
    op.create_index(
        "subjects_key_live",
        "subjects",
        ["namespace", "key"],
        unique=True,
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_table(
        "customer_subjects",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("is_key", sa.Boolean(), nullable=False, comment="the customer's own key"),
        sa.Column("is_subject_key", sa.Boolean(), nullable=False, comment="one of usageAttribution.subjectKeys"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["customer_id"], ["customers.id"], name=op.f("customer_subjects_customer_id_fk")),
        sa.PrimaryKeyConstraint("id", name=op.f("customer_subjects_pk")),
    )
    op.create_index("customer_subjects_customer_ix", "customer_subjects", ["customer_id"], unique=False)
    op.create_index(
        "customer_subjects_live",
        "customer_subjects",
        ["namespace", "subject"],
        unique=True,
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_table(
        "features",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("meter_id", sa.Text(), nullable=True),
        sa.Column(
            "filters", postgresql.JSONB(astext_type=sa.Text()), nullable=False, comment="group-by name -> string filter"
        ),
        sa.Column("unit_cost", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column(
            "metadata", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("archived_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["meter_id"], ["meters.id"], name=op.f("features_meter_id_fk")),
        sa.ForeignKeyConstraint(["namespace"], ["namespaces.name"], name=op.f("features_namespace_fk")),
        sa.PrimaryKeyConstraint("id", name=op.f("features_pk")),
    )
    op.create_index(
        "features_key_live",
        "features",
        ["namespace", "key"],
        unique=True,
        postgresql_where=sa.text("archived_at IS NULL"),
    )
    op.create_index("features_meter_ix", "features", ["meter_id"], unique=False)
    op.create_table(
        "entitlements",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=False),
        sa.Column("feature_id", sa.Text(), nullable=False),
        sa.Column("feature_key", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False, comment="metered, static or boolean"),
        sa.Column("usage_period_interval", sa.Text(), nullable=True, comment="ISO 8601 duration"),
        sa.Column("usage_period_anchor", sa.DateTime(timezone=True), nullable=True),
        sa.Column("measure_usage_from", sa.DateTime(timezone=True), nullable=True),
        sa.Column("is_soft_limit", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("preserve_overage_at_reset", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("issue_after_reset", sa.Numeric(), nullable=True),
        sa.Column("issue_after_reset_priority", sa.SmallInteger(), nullable=True),
        sa.Column("config", sa.Text(), nullable=True, comment="JSON text of a static entitlement"),
        sa.Column(
            "subscription_id", sa.Text(), nullable=True, comment="of the subscription that manages it, if one does"
        ),
        sa.Column(
            "metadata", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column(
            "annotations",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("active_from", sa.DateTime(timezone=True), nullable=False),
        sa.Column("active_to", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["customer_id"], ["customers.id"], name=op.f("entitlements_customer_id_fk")),
        sa.ForeignKeyConstraint(["feature_id"], ["features.id"], name=op.f("entitlements_feature_id_fk")),
        sa.ForeignKeyConstraint(["namespace"], ["namespaces.name"], name=op.f("entitlements_namespace_fk")),
        sa.PrimaryKeyConstraint("id", name=op.f("entitlements_pk")),
    )
    op.create_index("entitlements_feature_ix", "entitlements", ["feature_id"], unique=False)
    op.create_index(
        "entitlements_live",
        "entitlements",
        ["namespace", "customer_id", "feature_key"],
        unique=True,
        postgresql_where=sa.text("deleted_at IS NULL AND active_to IS NULL"),
    )
    op.create_table(
        "entitlement_resets",
        sa.Column("entitlement_id", sa.Text(), nullable=False),
        sa.Column("effective_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("anchor", sa.DateTime(timezone=True), nullable=False),
        sa.Column("preserve_overage", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["entitlement_id"], ["entitlements.id"], name=op.f("entitlement_resets_entitlement_id_fk")
        ),
        sa.PrimaryKeyConstraint("entitlement_id", "effective_at", name=op.f("entitlement_resets_pk")),
    )
    op.create_table(
        "grants",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("entitlement_id", sa.Text(), nullable=False),
        sa.Column("amount", sa.Numeric(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("effective_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expiration_duration", sa.Text(), nullable=True),
        sa.Column("expiration_count", sa.Integer(), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("min_rollover", sa.Numeric(), nullable=False),
        sa.Column("max_rollover", sa.Numeric(), nullable=False),
        sa.Column("recurrence_interval", sa.Text(), nullable=True, comment="ISO 8601 duration"),
        sa.Column("recurrence_anchor", sa.DateTime(timezone=True), nullable=True),
        sa.Column("issue_after_reset", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column(
            "metadata", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column(
            "annotations",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("voided_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["entitlement_id"], ["entitlements.id"], name=op.f("grants_entitlement_id_fk")),
        sa.PrimaryKeyConstraint("id", name=op.f("grants_pk")),
    )
    op.create_index("grants_entitlement_ix", "grants", ["entitlement_id", "created_at"], unique=False)


def downgrade() -> None:
    op.drop_index("grants_entitlement_ix", table_name="grants")
    op.drop_table("grants")
    op.drop_table("entitlement_resets")
    op.drop_index(
        "entitlements_live",
        table_name="entitlements",
        postgresql_where=sa.text("deleted_at IS NULL AND active_to IS NULL"),
    )
    op.drop_index("entitlements_feature_ix", table_name="entitlements")
    op.drop_table("entitlements")
    op.drop_index("features_meter_ix", table_name="features")
    op.drop_index("features_key_live", table_name="features", postgresql_where=sa.text("archived_at IS NULL"))
    op.drop_table("features")
    op.drop_index(
        "customer_subjects_live", table_name="customer_subjects", postgresql_where=sa.text("deleted_at IS NULL")
    )
    op.drop_index("customer_subjects_customer_ix", table_name="customer_subjects")
    op.drop_table("customer_subjects")
    op.drop_index("subjects_key_live", table_name="subjects", postgresql_where=sa.text("deleted_at IS NULL"))
    op.drop_table("subjects")
    op.drop_index("meters_slug_live", table_name="meters", postgresql_where=sa.text("deleted_at IS NULL"))
    op.drop_table("meters")
    op.drop_index("customers_name_ix", table_name="customers")
    op.drop_index("customers_key_live", table_name="customers", postgresql_where=sa.text("deleted_at IS NULL"))
    op.drop_table("customers")
    op.drop_table("sink_plans")
    op.drop_index("registry_changes_key_ix", table_name="registry_changes")
    op.drop_table("registry_changes")
    op.drop_index("outbox_unsent_ix", table_name="outbox", postgresql_where=sa.text("sent_at IS NULL"))
    op.drop_index("outbox_sent_ix", table_name="outbox", postgresql_where=sa.text("sent_at IS NOT NULL"))
    op.drop_table("outbox")
    op.drop_table("namespaces")
    op.drop_table("closing")
    op.drop_table("balance_epochs")
    op.drop_table("backfills")
