"""Which jobs are about a point, and which statements of a connector came after which."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

ABOUT = sa.text("point IS NOT NULL")


def upgrade() -> None:
    """Add them."""
    op.create_index("ix_jobs_point", "jobs", ["point"], sqlite_where=ABOUT, postgresql_where=ABOUT)
    op.add_column("jobs", sa.Column("stated_before", sa.BigInteger()))
    for table in ("nodes", "points"):
        op.add_column(table, sa.Column("statement", sa.BigInteger(), nullable=False, server_default="0"))
