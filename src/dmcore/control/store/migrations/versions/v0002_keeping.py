"""What keeping things needs: retention's own time, indexes by age, and an audit log that cannot be changed."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

TIME = sa.DateTime(timezone=True)
REFUSE = "audit entries are neither changed nor deleted"

SQLITE_TRIGGERS = [
    f"CREATE TRIGGER audit_no_{change} BEFORE {change} ON audit BEGIN SELECT RAISE(ABORT, '{REFUSE}'); END"
    for change in ("update", "delete")
]
POSTGRESQL_TRIGGERS = [
    f"CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '{REFUSE}'; END $$",
    "CREATE TRIGGER audit_no_change BEFORE UPDATE OR DELETE ON audit FOR EACH ROW EXECUTE FUNCTION audit_refuse()",
    "CREATE TRIGGER audit_no_truncate BEFORE TRUNCATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse()",
]


def upgrade() -> None:
    """Add them."""
    op.add_column("groups", sa.Column("retain_at", TIME))
    op.create_index("ix_groups_retain_at", "groups", ["retain_at"])
    op.create_index("ix_jobs_ended_at", "jobs", ["ended_at"])
    op.create_index("ix_events_at", "events", ["at"])
    op.create_index("ix_points_plan_source_time", "points", ["plan", "source_time"])
    op.create_index("ix_points_source_time", "points", ["source_time"])
    op.create_index("ix_points_verified", "points", ["plan", "verified_at"], **partial("verified_at IS NOT NULL"))
    op.create_index("ix_points_held", "points", ["group", "expire_after"], **partial("state <> 'expired'"))
    op.create_index("ix_points_expired", "points", ["stated_at"], **partial("state = 'expired'"))
    sqlite = op.get_bind().dialect.name == "sqlite"
    for statement in SQLITE_TRIGGERS if sqlite else POSTGRESQL_TRIGGERS:
        op.execute(statement)


def partial(where: str) -> dict[str, Any]:
    """An index over these rows only."""
    return {"sqlite_where": sa.text(where), "postgresql_where": sa.text(where)}
