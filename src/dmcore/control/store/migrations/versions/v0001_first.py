"""The first schema."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)
QUEUED_CYCLES = "state = 'queued' AND kind = 'cycle'"
QUEUED_WORK = "state = 'queued' AND kind <> 'cycle'"
HELD = "state IN ('leased', 'running')"
IN_FLIGHT = "kind = 'cycle' AND state IN ('queued', 'leased', 'running')"


def upgrade() -> None:
    """Make everything."""
    people()
    plans()
    jobs()
    points()


def partial(where: str) -> dict[str, Any]:
    """An index over these rows only."""
    return {"sqlite_where": sa.text(where), "postgresql_where": sa.text(where)}


def people() -> None:
    """Who there is: sites, nodes, tokens; what they did."""
    op.create_table(
        "meta",
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("value", sa.String(256), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_meta"),
    )
    op.create_table(
        "sites",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("limit", sa.JSON(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_sites"),
    )
    op.create_table(
        "nodes",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("site", sa.String(63), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("version", sa.String(32), nullable=False),
        sa.Column("incarnation", sa.Uuid()),
        sa.Column("superseded", sa.JSON(), nullable=False),
        sa.Column("enrolled_at", TIME, nullable=False),
        sa.Column("seen_at", TIME),
        sa.Column("revoked_at", TIME),
        sa.Column("sources", sa.JSON(), nullable=False),
        sa.Column("targets", sa.JSON(), nullable=False),
        sa.Column("recoveries", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["site"], ["sites.name"], name="fk_nodes_site"),
        sa.PrimaryKeyConstraint("id", name="pk_nodes"),
    )
    op.create_index("ix_nodes_site_role", "nodes", ["site", "role"])
    op.create_table(
        "joins",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("secret_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("site", sa.String(63), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("used_at", TIME),
        sa.Column("node", sa.String(64)),
        sa.ForeignKeyConstraint(["site"], ["sites.name"], name="fk_joins_site"),
        sa.PrimaryKeyConstraint("id", name="pk_joins"),
        sa.UniqueConstraint("secret_sha256", name="uq_joins_secret_sha256"),
    )
    op.create_table(
        "tokens",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("secret_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("revoked_at", TIME),
        sa.Column("used_at", TIME),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
        sa.UniqueConstraint("secret_sha256", name="uq_tokens_secret_sha256"),
    )
    op.create_table(
        "audit",
        sa.Column("number", BIG, nullable=False, autoincrement=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("actor", sa.String(160), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("object", sa.String(160), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_audit"),
    )
    op.create_table(
        "events",
        sa.Column("number", BIG, autoincrement=True, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("plan", sa.Uuid()),
        sa.Column("group", sa.Uuid()),
        sa.Column("node", sa.String(64)),
        sa.Column("job", sa.Uuid()),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_events"),
    )


def plans() -> None:
    """What is protected."""
    op.create_table(
        "plans",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("site", sa.String(63), nullable=False),
        sa.Column("connector", sa.String(64), nullable=False),
        sa.Column("source", sa.String(63), nullable=False),
        sa.Column("target", sa.String(63), nullable=False),
        sa.Column("rpo_s", sa.BigInteger(), nullable=False),
        sa.Column("codec", sa.String(8), nullable=False),
        sa.Column("group_mode", sa.String(8), nullable=False),
        sa.Column("retain", sa.JSON(), nullable=False),
        sa.Column("limit", sa.JSON(), nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("deleted_at", TIME),
        sa.ForeignKeyConstraint(["connector"], ["nodes.id"], name="fk_plans_connector"),
        sa.ForeignKeyConstraint(["site"], ["sites.name"], name="fk_plans_site"),
        sa.PrimaryKeyConstraint("id", name="pk_plans"),
    )
    op.create_index("ix_plans_site_source", "plans", ["site", "source"])
    op.create_index("uq_plans_name", "plans", ["name"], unique=True, **partial("deleted_at IS NULL"))
    op.create_table(
        "groups",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("plan", sa.Uuid(), nullable=False),
        sa.Column("machines", sa.JSON(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("next_start", TIME),
        sa.Column("breach_at", TIME),
        sa.Column("breached", sa.Boolean(), nullable=False),
        sa.Column("last_point", sa.Uuid()),
        sa.Column("last_point_time", TIME),
        sa.Column("p90_s", sa.Float()),
        sa.Column("achievable_rpo_s", sa.Float()),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("problem", sa.String(64)),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("deleted_at", TIME),
        sa.ForeignKeyConstraint(["plan"], ["plans.id"], name="fk_groups_plan"),
        sa.PrimaryKeyConstraint("id", name="pk_groups"),
    )
    op.create_index("ix_groups_breach_at", "groups", ["breach_at"])
    op.create_index("ix_groups_next_start", "groups", ["next_start"])
    op.create_index("ix_groups_plan", "groups", ["plan"])
    op.create_table(
        "machines",
        sa.Column("site", sa.String(63), nullable=False),
        sa.Column("source", sa.String(63), nullable=False),
        sa.Column("label", sa.String(128), nullable=False),
        sa.Column("plan", sa.Uuid(), nullable=False),
        sa.Column("group", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(["group"], ["groups.id"], name="fk_machines_group"),
        sa.ForeignKeyConstraint(["plan"], ["plans.id"], name="fk_machines_plan"),
        sa.UniqueConstraint("site", "source", "label", name="uq_machines_site_source_label"),
    )
    op.create_index("ix_machines_plan", "machines", ["plan"])


def jobs() -> None:
    """The queue."""
    op.create_table(
        "jobs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("plan", sa.Uuid()),
        sa.Column("group", sa.Uuid()),
        sa.Column("cycle", sa.Uuid()),
        sa.Column("site", sa.String(63)),
        sa.Column("source", sa.String(63)),
        sa.Column("connector", sa.String(64), nullable=False),
        sa.Column("node", sa.String(64)),
        sa.Column("incarnation", sa.Uuid()),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_at", TIME, nullable=False),
        sa.Column("not_before", TIME, nullable=False),
        sa.Column("lease_until", TIME),
        sa.Column("leased_at", TIME),
        sa.Column("started_at", TIME),
        sa.Column("ended_at", TIME),
        sa.Column("stage", sa.String(16)),
        sa.Column("counter", sa.BigInteger(), nullable=False),
        sa.Column("counter_at", TIME),
        sa.Column("stalled", sa.Boolean(), nullable=False),
        sa.Column("cancelling", sa.Boolean(), nullable=False),
        sa.Column("offline", sa.Boolean(), nullable=False),
        sa.Column("resync", sa.String(16)),
        sa.Column("arguments", sa.JSON(), nullable=False),
        sa.Column("progress", sa.JSON(), nullable=False),
        sa.Column("outcome", sa.JSON(), nullable=False),
        sa.Column("point", sa.Uuid()),
        sa.Column("source_time", TIME),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
        sa.UniqueConstraint("cycle", name="uq_jobs_cycle"),
    )
    op.create_index("ix_jobs_due_at", "jobs", ["due_at"])
    op.create_index("ix_jobs_group_ended_at", "jobs", ["group", "ended_at"])
    op.create_index("ix_jobs_lease_until", "jobs", ["lease_until"], **partial(HELD))
    op.create_index("ix_jobs_queue_cycles", "jobs", ["site", "source", "not_before"], **partial(QUEUED_CYCLES))
    op.create_index("ix_jobs_queue_work", "jobs", ["connector", "not_before"], **partial(QUEUED_WORK))
    op.create_index("uq_jobs_group_in_flight", "jobs", ["group"], unique=True, **partial(IN_FLIGHT))


def points() -> None:
    """The index. Of plans that this database may not know, too: no foreign keys."""
    op.create_table(
        "points",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("plan", sa.Uuid(), nullable=False),
        sa.Column("group", sa.Uuid(), nullable=False),
        sa.Column("cycle", sa.Uuid(), nullable=False),
        sa.Column("connector", sa.String(64), nullable=False),
        sa.Column("source_time", TIME, nullable=False),
        sa.Column("consistency", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("disks", sa.BigInteger(), nullable=False),
        sa.Column("lacking", sa.BigInteger(), nullable=False),
        sa.Column("rungs", sa.JSON(), nullable=False),
        sa.Column("preserved", sa.Boolean(), nullable=False),
        sa.Column("verified_at", TIME),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("stated_at", TIME, nullable=False),
        sa.Column("expire_after", TIME),
        sa.PrimaryKeyConstraint("id", name="pk_points"),
    )
    op.create_index("ix_points_connector", "points", ["connector"])
    op.create_index("ix_points_group_source_time", "points", ["group", "source_time"])
