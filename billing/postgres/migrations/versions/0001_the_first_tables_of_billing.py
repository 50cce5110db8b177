"""The first tables of billing."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("details", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("previous", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name=op.f("audit_pk")),
        schema="billing",
    )
    op.create_index("audit_subject_ix", "audit", ["subject"], unique=False, schema="billing")
    op.create_table(
        "counters",
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "kind", name=op.f("counters_pk")),
        schema="billing",
    )
    op.create_table(
        "plans",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("body", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("effective_from", sa.DateTime(timezone=True), nullable=True),
        sa.Column("effective_to", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "metadata", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("plans_pk")),
        sa.UniqueConstraint("namespace", "key", "version", name="plans_version_uq"),
        schema="billing",
    )
    op.create_index(
        "plans_one_active",
        "plans",
        ["namespace", "key"],
        unique=True,
        schema="billing",
        postgresql_where=sa.text("effective_from IS NOT NULL AND effective_to IS NULL AND deleted_at IS NULL"),
    )
    op.create_index(
        "plans_one_draft",
        "plans",
        ["namespace", "key"],
        unique=True,
        schema="billing",
        postgresql_where=sa.text("effective_from IS NULL AND deleted_at IS NULL"),
    )
    op.create_table(
        "subscriptions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=False),
        sa.Column("plan_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("first_phase", sa.Text(), nullable=True),
        sa.Column("active_from", sa.DateTime(timezone=True), nullable=False),
        sa.Column("active_to", sa.DateTime(timezone=True), nullable=True),
        sa.Column("anchor", sa.DateTime(timezone=True), nullable=False),
        sa.Column("billed_to", sa.DateTime(timezone=True), nullable=True),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "metadata", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["plan_id"], ["billing.plans.id"], name=op.f("subscriptions_plan_id_fk")),
        sa.PrimaryKeyConstraint("id", name=op.f("subscriptions_pk")),
        schema="billing",
    )
    op.create_index(
        "subscriptions_customer_ix", "subscriptions", ["namespace", "customer_id"], unique=False, schema="billing"
    )
    op.create_index(
        "subscriptions_due_ix",
        "subscriptions",
        ["next_at"],
        unique=False,
        schema="billing",
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_table(
        "invoices",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=False),
        sa.Column("subscription_id", sa.Text(), nullable=False),
        sa.Column(
            "period_from",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="null where only what is paid in advance is billed, at the start",
        ),
        sa.Column("period_to", sa.DateTime(timezone=True), nullable=False, comment="the boundary that is billed"),
        sa.Column("cut", sa.DateTime(timezone=True), nullable=False),
        sa.Column("status", sa.Text(), nullable=False, comment="draft.waiting_for_collection or issued"),
        sa.Column("number", sa.Text(), nullable=True),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("total", sa.Numeric(), nullable=True),
        sa.Column(
            "customer",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            nullable=True,
            comment="the customer as it was when issued",
        ),
        sa.Column("document", sa.LargeBinary(), nullable=True, comment="canonical JSON"),
        sa.Column("sha256", sa.Text(), nullable=True),
        sa.Column("issued_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "(status = 'issued') = (document IS NOT NULL AND number IS NOT NULL)", name=op.f("invoices_issued_ck")
        ),
        sa.ForeignKeyConstraint(
            ["subscription_id"], ["billing.subscriptions.id"], name=op.f("invoices_subscription_id_fk")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("invoices_pk")),
        sa.UniqueConstraint("namespace", "number", name="invoices_number_uq"),
        sa.UniqueConstraint("subscription_id", "period_to", name="invoices_period_uq"),
        schema="billing",
    )
    op.create_index(
        "invoices_customer_ix", "invoices", ["namespace", "customer_id", "created_at"], unique=False, schema="billing"
    )
    op.create_index(
        "invoices_open_ix",
        "invoices",
        ["cut"],
        unique=False,
        schema="billing",
        postgresql_where=sa.text("status <> 'issued'"),
    )


def downgrade() -> None:
    op.drop_index(
        "invoices_open_ix", table_name="invoices", schema="billing", postgresql_where=sa.text("status <> 'issued'")
    )
    op.drop_index("invoices_customer_ix", table_name="invoices", schema="billing")
    op.drop_table("invoices", schema="billing")
    op.drop_index(
        "subscriptions_due_ix",
        table_name="subscriptions",
        schema="billing",
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.drop_index("subscriptions_customer_ix", table_name="subscriptions", schema="billing")
    op.drop_table("subscriptions", schema="billing")
    op.drop_index(
        "plans_one_draft",
        table_name="plans",
        schema="billing",
        postgresql_where=sa.text("effective_from IS NULL AND deleted_at IS NULL"),
    )
    op.drop_index(
        "plans_one_active",
        table_name="plans",
        schema="billing",
        postgresql_where=sa.text("effective_from IS NOT NULL AND effective_to IS NULL AND deleted_at IS NULL"),
    )
    op.drop_table("plans", schema="billing")
    op.drop_table("counters", schema="billing")
    op.drop_index("audit_subject_ix", table_name="audit", schema="billing")
    op.drop_table("audit", schema="billing")
