"""Up to which ingest time closed usage lies in months."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("closing", sa.Column("months_until", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("closing", "months_until")
