"""A control plane's database as it is after a day: sites, agents, plans, finished jobs and points."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import Connection, insert, text

from dmcore.api.limits import NO_LIMIT
from dmcore.api.plans import DEFAULT_TIERS
from dmcore.control.store.database import Database
from dmcore.control.store.tables import groups, nodes, plans, sites
from dmcore.model.enums import Role

AGENTS_OF_A_SITE = 10
RPO_S = 300
SOURCE = "vms"
DURATION_S = 20
JOBS_OF_A_GROUP = 20
POINT_AGES_S = [*range(0, 3600, 600), *range(3600, 86_400, 3600), *range(86_400, 604_800, 86_400)]
"""What the default tiers keep."""

PAST_JOBS = """
INSERT INTO jobs (id, kind, state, plan, "group", cycle, site, source, connector, node, epoch, attempts, due_at,
  not_before, leased_at, started_at, ended_at, counter, stalled, cancelling, offline, arguments, progress, outcome,
  point, source_time)
SELECT gen_random_uuid(), 'cycle', 'completed', p.id, g.id, gen_random_uuid(), p.site, p.source, p.connector, NULL,
  n, 1, t, t, t, t, t + interval '20 s', 1, false, false, false, '{}', '{}', '{}', gen_random_uuid(), t + interval '1 s'
FROM groups g JOIN plans p ON p.id = g.plan CROSS JOIN generate_series(0, :jobs - 1) n,
  LATERAL (SELECT g.last_point_time - n * make_interval(secs => :rpo) - interval '1 s' AS t) moment
"""
PAST_POINTS = """
INSERT INTO points (id, plan, "group", cycle, connector, source_time, consistency, state, disks, lacking, rungs,
  preserved, revision, stated_at)
SELECT gen_random_uuid(), p.id, g.id, gen_random_uuid(), p.connector,
  g.last_point_time - make_interval(secs => age), 'crash', 'available', 2, 0, '["delta"]', false, 1,
  g.last_point_time
FROM groups g JOIN plans p ON p.id = g.plan CROSS JOIN unnest(CAST(:ages AS integer[])) age
"""
SPREAD = """
UPDATE groups SET next_start = due, breach_at = due + make_interval(secs => :took),
  last_point_time = due - make_interval(secs => :rpo - :took),
  retain_at = CASE WHEN looked > now() THEN looked ELSE looked + interval '1 h' END
FROM (
  SELECT due_group, due,
    date_trunc('minute', due - make_interval(secs => :rpo - 2 * :took)) + interval '1 min' AS looked
  FROM (SELECT id AS due_group, now() + random() * make_interval(secs => :rpo - :took) AS due FROM groups) moments
) rounds
WHERE id = due_group
"""
"""A group is due so long after its last point that the next is there within the RPO. Its points are looked through on
the round minute after a new one, else an hour later."""


@dataclass(frozen=True)
class Agent:
    """A simulated node of the table, and the key it signs with."""

    node: str
    role: Role
    site: str
    incarnation: UUID
    key: EllipticCurvePrivateKey

    @property
    def public_key(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def new_agent(site: str, role: Role) -> Agent:
    key = generate_private_key(SECP256R1())
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return Agent(hashlib.sha256(public).hexdigest(), role, site, uuid4(), key)


def deploy(database: Database, agents_count: int, plans_count: int) -> list[Agent]:
    """Fill an empty database, with nothing due yet. Returns its nodes."""
    names = [f"site-{number}" for number in range(max(agents_count // AGENTS_OF_A_SITE, 1))]
    agents = [new_agent(names[number % len(names)], Role.APPLIANCE) for number in range(agents_count)]
    connectors = [new_agent(name, Role.CONNECTOR) for name in names]
    with database.write() as connection:
        now = database.now(connection)
        limit = NO_LIMIT.model_dump(mode="json")
        connection.execute(insert(sites), [{"name": name, "limit": limit, "created_at": now} for name in names])
        connection.execute(insert(nodes), [_node(now, each) for each in (*agents, *connectors)])
        _insert_plans(connection, now, connectors, plans_count)
        connection.execute(text(PAST_JOBS), {"jobs": JOBS_OF_A_GROUP, "rpo": RPO_S})
        connection.execute(text(PAST_POINTS), {"ages": POINT_AGES_S})
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    return [*agents, *connectors]


def spread_due(database: Database) -> None:
    """The plans become due one after the other, as they do when each has run for long."""
    with database.write() as connection:
        connection.execute(text(SPREAD), {"rpo": RPO_S, "took": DURATION_S})


def make_all_due(database: Database) -> None:
    """As after an outage."""
    with database.write() as connection:
        connection.execute(groups.update().values(next_start=database.now(connection)))


def _node(now: datetime, agent: Agent) -> dict[str, Any]:
    return {
        "id": agent.node, "site": agent.site, "role": agent.role, "public_key": agent.public_key, "version": "1.0",
        "enrolled_at": now, "seen_at": now, "sources": [SOURCE], "incarnation": agent.incarnation,
    }  # fmt: skip


def _insert_plans(connection: Connection, now: datetime, connectors: Sequence[Agent], count: int) -> None:
    made = [uuid4() for _ in range(count)]
    begun = now - timedelta(days=1)
    rows = []
    for number, plan in enumerate(made):
        home = connectors[number % len(connectors)]
        rows.append({
            "id": plan, "name": f"plan {number}", "site": home.site, "connector": home.node, "source": SOURCE,
            "target": "shadows", "rpo_s": RPO_S, "codec": "lz4", "group_mode": "machine", "created_at": begun,
            "retain": [tier.model_dump(mode="json") for tier in DEFAULT_TIERS],
            "limit": NO_LIMIT.model_dump(mode="json"),
        })  # fmt: skip
    connection.execute(insert(plans), rows)
    connection.execute(insert(groups), [{
        "id": uuid4(), "plan": plan, "machines": [f"vm-{number}"], "epoch": JOBS_OF_A_GROUP, "last_point": uuid4(),
        "last_point_time": now, "p90_s": float(DURATION_S), "created_at": begun,
    } for number, plan in enumerate(made)])  # fmt: skip
