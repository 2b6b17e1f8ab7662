"""Who did what to what. The database refuses to change or delete an entry, and each carries the one before's hash."""

import hashlib
import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, insert, select, text

from dmcore.api.operators import Action, AuditEntry, AuditReply
from dmcore.control.store.tables import audit

MAX_LISTED = 500
BEGIN_HASH = "0" * 64
APPEND_LOCK = 0x617564697400
"""PostgreSQL's advisory lock: the number and hash of the entry before must not change meanwhile."""
BATCH = 1000


def append(
    connection: Connection, now: datetime, actor: str, action: Action, thing: UUID | str, /, **detail: object
) -> None:
    """One entry, in the transaction of what it tells of: either both are kept or none."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": APPEND_LOCK})
    last = connection.execute(select(audit.c.number, audit.c.hash).order_by(audit.c.number.desc()).limit(1)).first()
    number, before = (last.number, last.hash) if last else (0, BEGIN_HASH)
    entry = {
        "number": number + 1, "at": now, "actor": actor, "action": action, "object": str(thing),
        "detail": {name: str(value) for name, value in detail.items() if value is not None},
    }  # fmt: skip
    connection.execute(insert(audit).values(**entry, hash=entry_hash(before, entry)))


def list_entries(connection: Connection, *, limit: int = 100, before: int | None = None) -> AuditReply:
    """Newest first; `before` is the number of the last one of the page before."""
    asked = select(audit) if before is None else select(audit).where(audit.c.number < before)
    size = max(1, min(limit, MAX_LISTED))
    rows = connection.execute(asked.order_by(audit.c.number.desc()).limit(size + 1)).mappings().all()
    return AuditReply(entries=tuple(AuditEntry(**row) for row in rows[:size]), more=len(rows) > size)


def verify_chain(connection: Connection) -> int | None:
    """The number of the first entry that is missing, or not as it was written. None: all is well.

    What the chain cannot show is that its newest entries were cut off: compare the last number and hash with a copy.
    """
    number, before = 0, BEGIN_HASH
    while rows := _following(connection, number):
        for row in rows:
            number += 1
            if row.number != number or entry_hash(before, row._asdict()) != row.hash:
                return number
            before = row.hash
    return None


def entry_hash(before: str, entry: dict[str, Any]) -> str:
    """SHA-256 over the hash of the entry before and this one's canonical JSON, lower-case hex."""
    told = {name: entry[name] for name in ("number", "actor", "action", "object", "detail")}
    told["at"] = entry["at"].astimezone(UTC).isoformat(timespec="microseconds")
    canonical = json.dumps(told, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(f"{before}{canonical}".encode()).hexdigest()


def _following(connection: Connection, number: int) -> list[Row[Any]]:
    page = select(audit).where(audit.c.number > number).order_by(audit.c.number).limit(BATCH)
    return list(connection.execute(page).all())
