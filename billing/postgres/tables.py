"""The tables of billing, in a Postgres schema of their own. The migrations make them; a test holds the two equal."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

SCHEMA: Final = "billing"

metadata: Final = MetaData(
    schema=SCHEMA,
    naming_convention={
        "pk": "%(table_name)s_pk",
        "fk": "%(table_name)s_%(column_0_name)s_fk",
        "ix": "%(table_name)s_%(column_0_name)s_ix",
        "uq": "%(table_name)s_%(column_0_name)s_uq",
        "ck": "%(table_name)s_%(constraint_name)s_ck",
    },
)

_Instant: Final = DateTime(timezone=True)


def _metadata() -> Column[object]:
    return Column("metadata", JSONB, nullable=False, server_default=text("'{}'::jsonb"))


# One row for each version of a plan. `body` is a billing.domain.rate_card.PlanBody; it never changes once published.
plans = Table(
    "plans",
    metadata,
    Column("id", Text, primary_key=True),
    Column("namespace", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text),
    Column("body", JSONB, nullable=False),
    Column("effective_from", _Instant),
    Column("effective_to", _Instant),
    _metadata(),
    Column("created_at", _Instant, nullable=False),
    Column("updated_at", _Instant, nullable=False),
    Column("deleted_at", _Instant),
    UniqueConstraint("namespace", "key", "version", name="plans_version_uq"),
)
Index(
    "plans_one_draft",
    plans.c.namespace,
    plans.c.key,
    unique=True,
    postgresql_where=text("effective_from IS NULL AND deleted_at IS NULL"),
)
Index(
    "plans_one_active",
    plans.c.namespace,
    plans.c.key,
    unique=True,
    postgresql_where=text("effective_from IS NOT NULL AND effective_to IS NULL AND deleted_at IS NULL"),
)

# `billed_to` is the last boundary that has an invoice or needed none; `next_at` the one after it, null at the end.
subscriptions = Table(
    "subscriptions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("namespace", Text, nullable=False),
    Column("customer_id", Text, nullable=False),
    Column("plan_id", Text, ForeignKey(plans.c.id), nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text),
    Column("first_phase", Text),
    Column("active_from", _Instant, nullable=False),
    Column("active_to", _Instant),
    Column("anchor", _Instant, nullable=False),
    Column("billed_to", _Instant),
    Column("next_at", _Instant),
    _metadata(),
    Column("created_at", _Instant, nullable=False),
    Column("updated_at", _Instant, nullable=False),
    Column("deleted_at", _Instant),
)
Index("subscriptions_customer_ix", subscriptions.c.namespace, subscriptions.c.customer_id)
Index("subscriptions_due_ix", subscriptions.c.next_at, postgresql_where=text("deleted_at IS NULL"))

# The natural key is (subscription, the boundary that is billed). `document` is what `verify` compares byte for byte.
invoices = Table(
    "invoices",
    metadata,
    Column("id", Text, primary_key=True),
    Column("namespace", Text, nullable=False),
    Column("customer_id", Text, nullable=False),
    Column("subscription_id", Text, ForeignKey(subscriptions.c.id), nullable=False),
    Column("period_from", _Instant, comment="null where only what is paid in advance is billed, at the start"),
    Column("period_to", _Instant, nullable=False, comment="the boundary that is billed"),
    Column("cut", _Instant, nullable=False),
    Column("status", Text, nullable=False, comment="draft.waiting_for_collection or issued"),
    Column("number", Text),
    Column("currency", Text, nullable=False),
    Column("total", Numeric),
    Column("customer", JSONB(none_as_null=True), comment="the customer as it was when issued"),
    Column("document", LargeBinary, comment="canonical JSON"),
    Column("sha256", Text),
    Column("issued_at", _Instant),
    Column("created_at", _Instant, nullable=False),
    Column("updated_at", _Instant, nullable=False),
    UniqueConstraint("subscription_id", "period_to", name="invoices_period_uq"),
    UniqueConstraint("namespace", "number", name="invoices_number_uq"),
    CheckConstraint("(status = 'issued') = (document IS NOT NULL AND number IS NOT NULL)", name="issued"),
)
Index("invoices_open_ix", invoices.c.cut, postgresql_where=text("status <> 'issued'"))
Index("invoices_customer_ix", invoices.c.namespace, invoices.c.customer_id, invoices.c.created_at)

counters = Table(
    "counters",
    metadata,
    Column("namespace", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("last", BigInteger, nullable=False),
    PrimaryKeyConstraint("namespace", "kind"),
)

audit = Table(
    "audit",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("at", _Instant, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("details", JSONB, nullable=False),
    Column("previous", Text, nullable=False),
    Column("hash", Text, nullable=False),
)
Index("audit_subject_ix", audit.c.subject)
