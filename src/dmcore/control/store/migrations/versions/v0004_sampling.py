"""How much of a plan's newest points is verified each day, and how far that is."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add it."""
    op.add_column("plans", sa.Column("verify_percent", sa.Float(), nullable=False, server_default="0"))
    for name in ("sample_at", "sample_from", "sampled_at"):
        op.add_column("groups", sa.Column(name, TIME))
    op.create_index("ix_groups_sample_at", "groups", ["sample_at"])
