"""The tables, as the code names them. migrations/ makes them; a test holds the two together.

Every string in them is an id, an enum, or a label that an operator typed.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    Uuid,
    text,
)

from dmcore.control.store.types import UtcTime

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

BIG = BigInteger().with_variant(Integer, "sqlite")
"""SQLite's Integer holds 64 bits, and only that one numbers rows by itself."""
IN_FLIGHT = text("kind = 'cycle' AND state IN ('queued', 'leased', 'running')")
HELD = text("state IN ('leased', 'running')")
QUEUED_CYCLES = text("state = 'queued' AND kind = 'cycle'")
QUEUED_WORK = text("state = 'queued' AND kind <> 'cycle'")
EXPIRED, NOT_EXPIRED = text("state = 'expired'"), text("state <> 'expired'")
"""Of jobs; the last two of points. Queries use them as they stand: PostgreSQL takes a partial index only for the words
that it was made with."""

meta = Table(
    "meta", metadata, Column("key", String(64), primary_key=True), Column("value", String(256), nullable=False)
)

sites = Table(
    "sites", metadata,
    Column("name", String(63), primary_key=True),
    Column("limit", JSON, nullable=False),
    Column("created_at", UtcTime, nullable=False),
)  # fmt: skip

nodes = Table(
    "nodes", metadata,
    Column("id", String(64), primary_key=True),
    Column("site", ForeignKey("sites.name"), nullable=False),
    Column("role", String(16), nullable=False),
    Column("public_key", LargeBinary, nullable=False),
    Column("version", String(32), nullable=False),
    Column("incarnation", Uuid),
    Column("superseded", JSON, nullable=False, default=list),
    Column("enrolled_at", UtcTime, nullable=False),
    Column("seen_at", UtcTime),
    Column("revoked_at", UtcTime),
    Column("sources", JSON, nullable=False, default=list),
    Column("targets", JSON, nullable=False, default=list),
    Column("recoveries", JSON, nullable=False, default=list),
    Column("statement", BigInteger, nullable=False, default=0),
    Index(None, "site", "role"),
)  # fmt: skip

joins = Table(
    "joins", metadata,
    Column("id", Uuid, primary_key=True),
    Column("secret_sha256", LargeBinary, nullable=False, unique=True),
    Column("site", ForeignKey("sites.name"), nullable=False),
    Column("role", String(16), nullable=False),
    Column("expires_at", UtcTime, nullable=False),
    Column("used_at", UtcTime),
    Column("node", String(64)),
)  # fmt: skip

tokens = Table(
    "tokens", metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", String(128), nullable=False),
    Column("role", String(16), nullable=False),
    Column("secret_sha256", LargeBinary, nullable=False, unique=True),
    Column("created_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime, nullable=False),
    Column("revoked_at", UtcTime),
    Column("used_at", UtcTime),
)  # fmt: skip

audit = Table(
    "audit", metadata,
    Column("number", BIG, primary_key=True, autoincrement=False),
    Column("at", UtcTime, nullable=False),
    Column("actor", String(160), nullable=False),
    Column("action", String(32), nullable=False),
    Column("object", String(160), nullable=False),
    Column("detail", JSON, nullable=False),
    Column("hash", String(64), nullable=False),
)  # fmt: skip

events = Table(
    "events", metadata,
    Column("number", BIG, primary_key=True, autoincrement=True),
    Column("at", UtcTime, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("plan", Uuid),
    Column("group", Uuid),
    Column("node", String(64)),
    Column("job", Uuid),
    Column("value", BigInteger, nullable=False, default=0),
    Index(None, "at"),
)  # fmt: skip

plans = Table(
    "plans", metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", String(128), nullable=False),
    Column("site", ForeignKey("sites.name"), nullable=False),
    Column("connector", ForeignKey("nodes.id"), nullable=False),
    Column("source", String(63), nullable=False),
    Column("target", String(63), nullable=False),
    Column("rpo_s", BigInteger, nullable=False),
    Column("codec", String(8), nullable=False),
    Column("group_mode", String(8), nullable=False),
    Column("retain", JSON, nullable=False),
    Column("limit", JSON, nullable=False),
    Column("paused", Boolean, nullable=False, default=False),
    Column("version", BigInteger, nullable=False, default=1),
    Column("created_at", UtcTime, nullable=False),
    Column("deleted_at", UtcTime),
    Column("verify_percent", Float, nullable=False, default=0),
    Index("uq_plans_name", "name", unique=True, sqlite_where=text("deleted_at IS NULL"),
          postgresql_where=text("deleted_at IS NULL")),
    Index(None, "site", "source"),
)  # fmt: skip

groups = Table(
    "groups", metadata,
    Column("id", Uuid, primary_key=True),
    Column("plan", ForeignKey("plans.id"), nullable=False, index=True),
    Column("machines", JSON, nullable=False),
    Column("epoch", BigInteger, nullable=False, default=0),
    Column("next_start", UtcTime, index=True),
    Column("breach_at", UtcTime, index=True),
    Column("breached", Boolean, nullable=False, default=False),
    Column("last_point", Uuid),
    Column("last_point_time", UtcTime),
    Column("p90_s", Float),
    Column("achievable_rpo_s", Float),
    Column("retain_at", UtcTime, index=True),
    Column("failures", Integer, nullable=False, default=0),
    Column("problem", String(64)),
    Column("created_at", UtcTime, nullable=False),
    Column("deleted_at", UtcTime),
    Column("sample_at", UtcTime, index=True),
    Column("sample_from", UtcTime),
    Column("sampled_at", UtcTime),
)  # fmt: skip

machines = Table(
    "machines", metadata,
    Column("site", String(63), nullable=False),
    Column("source", String(63), nullable=False),
    Column("label", String(128), nullable=False),
    Column("plan", ForeignKey("plans.id"), nullable=False, index=True),
    Column("group", ForeignKey("groups.id"), nullable=False),
    UniqueConstraint("site", "source", "label"),
)  # fmt: skip
"""Which plan protects a machine: one."""

jobs = Table(
    "jobs", metadata,
    Column("id", Uuid, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("plan", Uuid),
    Column("group", Uuid),
    Column("cycle", Uuid, unique=True),
    Column("site", String(63)),
    Column("source", String(63)),
    Column("connector", String(64), nullable=False),
    Column("node", String(64)),
    Column("incarnation", Uuid),
    Column("epoch", BigInteger, nullable=False, default=0),
    Column("attempts", Integer, nullable=False, default=0),
    Column("due_at", UtcTime, nullable=False),
    Column("not_before", UtcTime, nullable=False),
    Column("lease_until", UtcTime),
    Column("leased_at", UtcTime),
    Column("started_at", UtcTime),
    Column("ended_at", UtcTime),
    Column("stage", String(16)),
    Column("counter", BigInteger, nullable=False, default=0),
    Column("counter_at", UtcTime),
    Column("stalled", Boolean, nullable=False, default=False),
    Column("cancelling", Boolean, nullable=False, default=False),
    Column("offline", Boolean, nullable=False, default=False),
    Column("resync", String(16)),
    Column("arguments", JSON, nullable=False, default=dict),
    Column("progress", JSON, nullable=False, default=dict),
    Column("outcome", JSON, nullable=False, default=dict),
    Column("point", Uuid),
    Column("source_time", UtcTime),
    Column("stated_before", BigInteger),
    Index("uq_jobs_group_in_flight", "group", unique=True, sqlite_where=IN_FLIGHT, postgresql_where=IN_FLIGHT),
    Index("ix_jobs_lease_until", "lease_until", sqlite_where=HELD, postgresql_where=HELD),
    Index("ix_jobs_queue_cycles", "site", "source", "not_before",
          sqlite_where=QUEUED_CYCLES, postgresql_where=QUEUED_CYCLES),
    Index("ix_jobs_queue_work", "connector", "not_before",
          sqlite_where=QUEUED_WORK, postgresql_where=QUEUED_WORK),
    Index(None, "group", "ended_at"),
    Index(None, "due_at"),
    Index(None, "ended_at"),
    Index(None, "point", sqlite_where=text("point IS NOT NULL"), postgresql_where=text("point IS NOT NULL")),
)  # fmt: skip

points = Table(
    "points", metadata,
    Column("id", Uuid, primary_key=True),
    Column("plan", Uuid, nullable=False),
    Column("group", Uuid, nullable=False),
    Column("cycle", Uuid, nullable=False),
    Column("connector", String(64), nullable=False),
    Column("source_time", UtcTime, nullable=False),
    Column("consistency", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("disks", BigInteger, nullable=False),
    Column("lacking", BigInteger, nullable=False),
    Column("rungs", JSON, nullable=False),
    Column("preserved", Boolean, nullable=False),
    Column("verified_at", UtcTime),
    Column("revision", BigInteger, nullable=False),
    Column("stated_at", UtcTime, nullable=False),
    Column("expire_after", UtcTime),
    Column("statement", BigInteger, nullable=False, default=0),
    Index(None, "group", "source_time"),
    Index(None, "connector"),
    Index(None, "plan", "source_time"),
    Index(None, "source_time"),
    Index("ix_points_verified", "plan", "verified_at", sqlite_where=text("verified_at IS NOT NULL"),
          postgresql_where=text("verified_at IS NOT NULL")),
    Index("ix_points_held", "group", "expire_after", sqlite_where=NOT_EXPIRED, postgresql_where=NOT_EXPIRED),
    Index("ix_points_expired", "stated_at", sqlite_where=EXPIRED, postgresql_where=EXPIRED),
)  # fmt: skip
"""A copy of what connectors state: of plans that this database may not know, too. So no foreign keys."""
