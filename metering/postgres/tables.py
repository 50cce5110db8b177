"""The tables of metering in Postgres. The migrations make them; a test holds the two equal.

Partial unique indexes keep keys unique among live rows only, so that a deleted key can be used again.
"""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata: Final = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pk",
        "fk": "%(table_name)s_%(column_0_name)s_fk",
        "ix": "%(table_name)s_%(column_0_name)s_ix",
    }
)

_Instant: Final = DateTime(timezone=True)


def _now(name: str) -> Column[object]:
    return Column(name, _Instant, nullable=False, server_default=func.now())


namespaces = Table("namespaces", metadata, Column("name", Text, primary_key=True), _now("created_at"))

# The append-only log that sinks follow; see metering.postgres.registry. `payload` null means: gone.
registry_changes = Table(
    "registry_changes",
    metadata,
    Column("revision", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", Text, nullable=False, comment="namespace, meter or subject"),
    Column("namespace", Text, nullable=False),
    Column("key", Text, nullable=False, comment="the namespace's name, the meter's id, the subject"),
    Column("payload", JSONB(none_as_null=True)),
    _now("created_at"),
)
Index(
    "registry_changes_key_ix",
    registry_changes.c.kind,
    registry_changes.c.namespace,
    registry_changes.c.key,
    registry_changes.c.revision.desc(),
)

# The sink's fence: changed only by compare-and-set on (epoch, a, end).
sink_plans = Table(
    "sink_plans",
    metadata,
    Column("topic", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("a", BigInteger, nullable=False),
    Column("end", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("ingest_floor", BigInteger, nullable=False, comment="milliseconds since the epoch"),
    Column("digest", LargeBinary, comment="of the event ids in [a, end)"),
    Column("updated_at", _Instant, nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("topic", "partition"),
)

balance_epochs = Table(
    "balance_epochs",
    metadata,
    Column("topic", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    PrimaryKeyConstraint("topic", "partition"),
)

# One row for each meter version that has offsets before its cut-over to count. Queries read `events` until `done_at`.
backfills = Table(
    "backfills",
    metadata,
    Column("meter_key", Text, primary_key=True),
    Column("namespace", Text, nullable=False),
    Column("revision", BigInteger, nullable=False, comment="of the registry, which brought this meter version"),
    Column("progress", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    _now("created_at"),
    Column("done_at", _Instant),
    Column("closed_at", _Instant, comment="when closed hours were folded anew with it"),
    Column("announced_at", _Instant, comment="when balances on the meter were to be computed anew"),
)

# Up to which ingest time `usage_closed` may be read: set back before a swap, forward after it. What is before
# `months_until` is read from `usage_months` in its place.
closing = Table(
    "closing",
    metadata,
    Column("topic", Text, primary_key=True),
    Column("closed_until", _Instant),
    Column("updated_at", _Instant, nullable=False, server_default=func.now()),
    Column("months_until", _Instant),
)

meters = Table(
    "meters",
    metadata,
    Column("id", Text, primary_key=True),
    Column("namespace", Text, ForeignKey("namespaces.name"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("slug", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text),
    Column("event_type", Text, nullable=False),
    Column("event_from", _Instant),
    Column("aggregation", Text, nullable=False),
    Column("value_path", Text),
    Column("group_by", JSONB, nullable=False, comment="[[name, JSONPath], ...] in the order of dims"),
    Column("metadata", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("created_at", _Instant, nullable=False),
    Column("updated_at", _Instant, nullable=False),
    Column("deleted_at", _Instant),
)
Index("meters_slug_live", meters.c.namespace, meters.c.slug, unique=True, postgresql_where=text("deleted_at IS NULL"))

subjects = Table(
    "subjects",
    metadata,
    Column("id", Text, primary_key=True),
    Column("namespace", Text, ForeignKey("namespaces.name"), nullable=False),
    Column("key", Text, nullable=False),
    Column("display_name", Text),
    Column("stripe_customer_id", Text),
    Column("metadata", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("created_at", _Instant, nullable=False),
    Column("updated_at", _Instant, nullable=False),
    Column("deleted_at", _Instant),
)
Index(
    "subjects_key_live", subjects.c.namespace, subjects.c.key, unique=True, postgresql_where=text("deleted_at IS NULL")
)

customers = Table(
    "customers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("namespace", Text, ForeignKey("namespaces.name"), nullable=False),
    Column("key", Text),
    Column("name", Text, nullable=False),
    Column("description", Text),
    Column("currency", Text),
    Column("primary_email", Text),
    Column("billing_address", JSONB(none_as_null=True)),
    Column("metadata", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("created_at", _Instant, nullable=False),
    Column("updated_at", _Instant, nullable=False),
    Column("deleted_at", _Instant),
)
Index(
    "customers_key_live",
    customers.c.namespace,
    customers.c.key,
    unique=True,
    postgresql_where=text("deleted_at IS NULL"),
)
Index("customers_name_ix", customers.c.namespace, customers.c.name, customers.c.id)

# Whose usage a subject's is. A customer's own key is a subject too, so one index keeps both kinds from meeting.
customer_subjects = Table(
    "customer_subjects",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("namespace", Text, nullable=False),
    Column("customer_id", Text, ForeignKey("customers.id"), nullable=False),
    Column("subject", Text, nullable=False),
    Column("is_key", Boolean, nullable=False, comment="the customer's own key"),
    Column("is_subject_key", Boolean, nullable=False, comment="one of usageAttribution.subjectKeys"),
    Column("created_at", _Instant, nullable=False),
    Column("deleted_at", _Instant),
)
Index(
    "customer_subjects_live",
    customer_subjects.c.namespace,
    customer_subjects.c.subject,
    unique=True,
    postgresql_where=text("deleted_at IS NULL"),
)
Index("customer_subjects_customer_ix", customer_subjects.c.customer_id)

features = Table(
    "features",
    metadata,
    Column("id", Text, primary_key=True),
    Column("namespace", Text, ForeignKey("namespaces.name"), nullable=False),
    Column("key", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("meter_id", Text, ForeignKey("meters.id")),
    Column("filters", JSONB, nullable=False, comment="group-by name -> string filter"),
    Column("unit_cost", JSONB(none_as_null=True)),
    Column("metadata", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("created_at", _Instant, nullable=False),
    Column("updated_at", _Instant, nullable=False),
    Column("archived_at", _Instant),
)
Index(
    "features_key_live", features.c.namespace, features.c.key, unique=True, postgresql_where=text("archived_at IS NULL")
)
Index("features_meter_ix", features.c.meter_id)

entitlements = Table(
    "entitlements",
    metadata,
    Column("id", Text, primary_key=True),
    Column("namespace", Text, ForeignKey("namespaces.name"), nullable=False),
    Column("customer_id", Text, ForeignKey("customers.id"), nullable=False),
    Column("feature_id", Text, ForeignKey("features.id"), nullable=False),
    Column("feature_key", Text, nullable=False),
    Column("type", Text, nullable=False, comment="metered, static or boolean"),
    Column("usage_period_interval", Text, comment="ISO 8601 duration"),
    Column("usage_period_anchor", _Instant),
    Column("measure_usage_from", _Instant),
    Column("is_soft_limit", Boolean, nullable=False, server_default=text("false")),
    Column("preserve_overage_at_reset", Boolean, nullable=False, server_default=text("false")),
    Column("issue_after_reset", Numeric),
    Column("issue_after_reset_priority", SmallInteger),
    Column("config", Text, comment="JSON text of a static entitlement"),
    Column("subscription_id", Text, comment="of the subscription that manages it, if one does"),
    Column("metadata", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("annotations", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("active_from", _Instant, nullable=False),
    Column("active_to", _Instant),
    Column("created_at", _Instant, nullable=False),
    Column("updated_at", _Instant, nullable=False),
    Column("deleted_at", _Instant),
)
Index(
    "entitlements_live",
    entitlements.c.namespace,
    entitlements.c.customer_id,
    entitlements.c.feature_key,
    unique=True,
    postgresql_where=text("deleted_at IS NULL AND active_to IS NULL"),
)
Index("entitlements_feature_ix", entitlements.c.feature_id)

grants = Table(
    "grants",
    metadata,
    Column("id", Text, primary_key=True),
    Column("namespace", Text, nullable=False),
    Column("entitlement_id", Text, ForeignKey("entitlements.id"), nullable=False),
    Column("amount", Numeric, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("effective_at", _Instant, nullable=False),
    Column("expiration_duration", Text),
    Column("expiration_count", Integer),
    Column("expires_at", _Instant),
    Column("min_rollover", Numeric, nullable=False),
    Column("max_rollover", Numeric, nullable=False),
    Column("recurrence_interval", Text, comment="ISO 8601 duration"),
    Column("recurrence_anchor", _Instant),
    Column("issue_after_reset", Boolean, nullable=False, server_default=text("false")),
    Column("metadata", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("annotations", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("created_at", _Instant, nullable=False),
    Column("updated_at", _Instant, nullable=False),
    Column("voided_at", _Instant),
    Column("deleted_at", _Instant),
)
Index("grants_entitlement_ix", grants.c.entitlement_id, grants.c.created_at)

entitlement_resets = Table(
    "entitlement_resets",
    metadata,
    Column("entitlement_id", Text, ForeignKey("entitlements.id"), nullable=False),
    Column("effective_at", _Instant, nullable=False),
    Column("anchor", _Instant, nullable=False),
    Column("preserve_overage", Boolean, nullable=False),
    Column("created_at", _Instant, nullable=False),
    PrimaryKeyConstraint("entitlement_id", "effective_at"),
)

# What is to go to Kafka, written with the change it tells of. The order of a customer's rows is that of `sequence`.
outbox = Table(
    "outbox",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=True),
    Column("topic", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("key", LargeBinary),
    Column("payload", LargeBinary),
    _now("created_at"),
    Column("sent_at", _Instant),
)
Index("outbox_unsent_ix", outbox.c.sequence, postgresql_where=text("sent_at IS NULL"))
Index("outbox_sent_ix", outbox.c.sent_at, postgresql_where=text("sent_at IS NOT NULL"))
