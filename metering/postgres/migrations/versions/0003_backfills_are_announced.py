"""When the balances app was told that a backfill is done."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "backfills",
        sa.Column(
            "announced_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when balances on the meter were to be computed anew",
        ),
    )


def downgrade() -> None:
    op.drop_column("backfills", "announced_at")
