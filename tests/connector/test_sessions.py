"""What the wire's order of messages keeps away from the sessions; they refuse it all the same."""

from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest

from dmcore.blocks.grid import Grid
from dmcore.connector.control_session import ControlSession, Desk
from dmcore.connector.disk_session import DiskSession
from dmcore.connector.errors import NotBegun
from dmcore.model.enums import Role
from dmcore.model.ids import CycleId, DiskId, GroupId, NodeId, PlanId
from dmcore.model.names import NodeName
from dmcore.shadow.group import GroupShadow
from dmcore.shadow.state import GroupState
from dmcore.wire.coding import Received, ReceivedBatch, ReceivedMessage
from dmcore.wire.connection import Connection
from dmcore.wire.credit import CreditBudget
from dmcore.wire.errors import ProtocolError
from dmcore.wire.messages import CommitRequest, Message, OpenRequest

PEER = NodeName("paris", Role.APPLIANCE, NodeId("ab" * 32))
NOTHING = memoryview(b"")


class FakeConnection:
    peer, received_bytes = "peer", 0

    def __init__(self, *received: Received) -> None:
        self._received = list(received)

    def receive(self, _: float) -> Received | None:
        return self._received.pop(0)

    def clock(self) -> float:
        return 0.0

    def wakeup(self) -> None:
        pass

    def send_message(self, message: Message) -> None:
        raise AssertionError(f"answered with {message}")


def control(*received: Received) -> ControlSession:
    return ControlSession(cast("Connection", FakeConnection(*received)), PEER, cast("Desk", None))


def said(message: Message) -> ReceivedMessage:
    return ReceivedMessage(message, NOTHING)


def open_request() -> OpenRequest:
    return OpenRequest(group=GroupId(uuid4()), cycle=CycleId(uuid4()), epoch=1, disk=DiskId(uuid4()))


@pytest.mark.parametrize("received", [said(open_request()), ReceivedBatch(NOTHING)], ids=["open", "batch"])
def test_control_session(received: Received) -> None:
    with pytest.raises(ProtocolError, match="not a message of a control connection"):
        control(received).run()


def test_commit_before_begin() -> None:
    with pytest.raises(NotBegun, match="commit before begin"):
        control(said(CommitRequest(cycle=CycleId(uuid4()), coverages=()))).run()


def test_commit_in_a_group_that_has_gone_on_without_a_point() -> None:
    state = GroupState(plan=PlanId(uuid4()), group=GroupId(uuid4()), target="shadows")
    shadow = SimpleNamespace(state=state, has_made=lambda _: False)
    with pytest.raises(NotBegun, match="gone on"):
        control()._progress(cast("GroupShadow", shadow), CycleId(uuid4()))


def test_disk_session() -> None:
    connection = cast("Connection", FakeConnection(said(open_request())))
    desk: Any = SimpleNamespace(groups=SimpleNamespace(room=SimpleNamespace(short=False)))
    session = DiskSession(connection, PEER, desk, CreditBudget())
    syncer: Any = SimpleNamespace(error=None, durable=None)
    intake: Any = SimpleNamespace(waiting=False, go_on=lambda: None)
    session._share.take()
    with pytest.raises(ProtocolError, match="not a message of a disk connection"):
        session._receive(intake, syncer, None, Grid(4096, 4096))
