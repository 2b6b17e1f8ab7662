"""The audit log: nobody changes an entry through the database, and who does it otherwise is found out."""

import threading
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import delete, insert, text, update
from sqlalchemy.exc import DBAPIError

from dmcore.api.operators import Action
from dmcore.control.access import audit
from dmcore.control.store import tables
from dmcore.control.store.database import Database
from tests.control.queue_kit import NOW, after


def append(database: Database, count: int = 1, **detail: Any) -> None:
    for _ in range(count):
        with database.write() as connection:
            audit.append(connection, NOW, "token ops", Action.PLAN_EDITED, "crm é", **detail)


def first_bad(database: Database) -> int | None:
    with database.read() as connection:
        return audit.verify_chain(connection)


def test_an_entry_is_told_as_it_was_appended(database: Database) -> None:
    thing = uuid4()
    with database.write() as connection:
        audit.append(connection, NOW, "token ops", Action.PLAN_RUN, thing, groups=3, resync=None, plan=UUID(int=1))
        (found,) = audit.list_entries(connection).entries
    assert found.model_dump(exclude={"hash"}) == {
        "number": 1, "at": NOW, "actor": "token ops", "action": Action.PLAN_RUN, "object": str(thing),
        "detail": {"groups": "3", "plan": str(UUID(int=1))},
    }  # fmt: skip


def test_entries_are_chained(database: Database) -> None:
    append(database, 3, name="x")
    with database.read() as connection:
        entries = audit.list_entries(connection).entries[::-1]
    before = audit.BEGIN_HASH
    for entry in entries:
        assert entry.hash == audit.entry_hash(before, entry.model_dump())
        before = entry.hash
    assert len({entry.hash for entry in entries}) == 3
    assert first_bad(database) is None


def test_the_hash_is_the_same_everywhere() -> None:
    """A copy that is kept elsewhere must still compare in years."""
    entry = {
        "number": 1, "at": NOW, "actor": "a", "action": Action.REFUSED, "object": "o", "detail": {"b": "2", "a": "é"},
    }  # fmt: skip
    known = "52cfff4fb824fb0a38dbc7a7a9e648361a56e4d873b70910edd628e3e4cad33f"
    assert audit.entry_hash(audit.BEGIN_HASH, entry) == known


def test_an_empty_log_is_whole(database: Database) -> None:
    assert first_bad(database) is None


@pytest.mark.parametrize("table", ["audit"])
def test_the_database_refuses_to_change_or_delete(database: Database, table: str) -> None:
    append(database, 2)
    statements: list[Any] = [update(tables.audit).values(actor="nobody"), delete(tables.audit)]
    if not database.is_sqlite:
        statements.append(text("TRUNCATE audit"))
    for statement in statements:
        with pytest.raises(DBAPIError, match="neither changed nor deleted"), database.write() as connection:
            connection.execute(statement)
    assert first_bad(database) is None


def disarm(database: Database) -> None:
    """As somebody may who owns the database."""
    with database.write() as connection:
        if database.is_sqlite:
            connection.execute(text("DROP TRIGGER audit_no_update"))
            connection.execute(text("DROP TRIGGER audit_no_delete"))
        else:
            connection.execute(text("ALTER TABLE audit DISABLE TRIGGER USER"))


@pytest.mark.parametrize(
    "values",
    [
        {"actor": "somebody else"}, {"action": Action.PLAN_DELETED}, {"object": "other"}, {"detail": {"n": "2"}},
        {"at": after(1)}, {"hash": "0" * 64}, {"number": 9},
    ],
)  # fmt: skip
def test_a_changed_entry_is_found(database: Database, values: dict[str, Any]) -> None:
    append(database, 4, n="1")
    disarm(database)
    with database.write() as connection:
        connection.execute(update(tables.audit).where(tables.audit.c.number == 2).values(**values))
    assert first_bad(database) == 2


def test_a_missing_entry_is_found(database: Database) -> None:
    append(database, 4)
    disarm(database)
    with database.write() as connection:
        connection.execute(delete(tables.audit).where(tables.audit.c.number == 3))
    assert first_bad(database) == 3


def test_an_entry_that_was_put_between_is_found(database: Database) -> None:
    append(database, 2)
    with database.write() as connection:
        connection.execute(
            insert(tables.audit).values(
                number=3, at=NOW, actor="x", action="refused", object="y", detail={}, hash="1" * 64
            )
        )  # fmt: skip
    append(database)
    assert first_bad(database) == 3


def test_a_long_log_is_read_in_parts(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "BATCH", 2)
    append(database, 5)
    assert first_bad(database) is None


def test_pages_of_entries(database: Database) -> None:
    append(database, 5)
    with database.read() as connection:
        first = audit.list_entries(connection, limit=2)
        rest = audit.list_entries(connection, limit=9, before=first.entries[-1].number)
    assert [entry.number for entry in first.entries + rest.entries] == [5, 4, 3, 2, 1]
    assert (first.more, rest.more) == (True, False)


def test_many_at_once_stay_one_chain(database: Database) -> None:
    threads = [threading.Thread(target=append, args=(database, 5)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as connection:
        assert [entry.number for entry in audit.list_entries(connection).entries] == list(range(20, 0, -1))
    assert first_bad(database) is None
