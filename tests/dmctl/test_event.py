import json
from uuid import UUID

import pytest

from dmcore.api.operators import Action, AuditEntry, AuditReply, Event, EventKind, EventsReply
from dmcore.errors import ExitCode
from dmcore.model.ids import GroupId, PlanId
from tests.dmctl.conftest import Dmctl
from tests.dmctl.control import FakeControl
from tests.dmctl.facts import APPLIANCE, NOW


@pytest.fixture
def events(control: FakeControl) -> FakeControl:
    plan = control.add_plan("web", UUID(int=1))
    breached = Event(
        number=3, at=NOW, kind=EventKind.RPO_BREACHED, plan=plan.id, group=GroupId(UUID(int=2)), node=None, job=None,
        value=700,
    )  # fmt: skip
    gone = breached.model_copy(update={"number": 2, "plan": PlanId(UUID("ff" * 16)), "job": UUID("ab" * 16)})
    cloned = Event(
        number=1, at=NOW, kind=EventKind.NODE_CLONED, plan=None, group=None, node=APPLIANCE, job=None, value=0
    )
    behind = cloned.model_copy(update={"number": 0, "kind": EventKind.EPOCH_BEHIND, "value": 42})
    control.event_log = EventsReply(events=(breached, gone, cloned, behind), more=True)
    return control


def test_events_are_listed(dmctl: Dmctl, events: FakeControl) -> None:
    title, _, *rows = (" ".join(line.split()) for line in dmctl("event", "list").stdout.splitlines())
    assert title == "Events: 4, and older ones"
    assert rows == [
        "3 2026-03-01 12:00:00Z rpo.breached web - - 12 min",
        "2 2026-03-01 12:00:00Z rpo.breached ffffffff abababab - 12 min",
        "1 2026-03-01 12:00:00Z node.cloned - - a1a1a1a1a1a1 -",
        "0 2026-03-01 12:00:00Z epoch.behind - - a1a1a1a1a1a1 42",
    ]


def test_events_as_json(dmctl: Dmctl, events: FakeControl) -> None:
    listed = json.loads(dmctl("event", "list", "--limit", 7, "--before", 9, "--json").stdout)
    assert listed == events.event_log.model_dump(mode="json")
    assert events.asked == [("events", 7, 9)]


def test_the_audit_log_is_listed(dmctl: Dmctl, control: FakeControl) -> None:
    detail = {"rpo_s": "300", "site": "paris"}
    entry = AuditEntry(
        number=7, at=NOW, actor="token alice", action=Action.PLAN_CREATED, object="web", detail=detail, hash="ab" * 32
    )
    control.audit_log = AuditReply(entries=(entry, entry.model_copy(update={"detail": {}})), more=False)
    title, _, *rows = (" ".join(line.split()) for line in dmctl("audit", "list").stdout.splitlines())
    assert title == "Audit log: 2"
    assert rows[0] == "7 2026-03-01 12:00:00Z token alice plan.created web rpo_s=300, site=paris"
    assert rows[1].endswith("web -")
    assert json.loads(dmctl("audit", "list", "--json").stdout)["entries"][0]["hash"] == "ab" * 32


@pytest.mark.parametrize("option", [["--limit", "0"], ["--limit", "501"], ["--before", "0"]])
@pytest.mark.parametrize("noun", ["event", "audit"])
def test_a_wrong_command_line(dmctl: Dmctl, control: FakeControl, noun: str, option: list[str]) -> None:
    assert dmctl(noun, "list", *option).exit_code == ExitCode.USAGE
    assert control.asked == []
