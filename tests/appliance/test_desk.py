"""What the desk takes of a control plane that means harm, or is confused; and what happens at the same time."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import structlog

from dmcore.api.client_errors import ControlDenied
from dmcore.api.nodes import MAX_OFFLINE, OfflineCycle, PollReply
from dmcore.appliance import offline
from dmcore.appliance.agent import Appliance
from dmcore.appliance.service import ApplianceService
from dmcore.model.ids import GroupId
from dmcore.node import lease
from dmcore.node.lease import MAX_HEARTBEAT_S
from tests.api.fake_control import FakeControl, Fault, Say
from tests.appliance.cycle_lab import CycleLab
from tests.appliance.scripted_control import AWAY
from tests.appliance.service_lab import RPO_S, Group, ServiceLab, quick
from tests.appliance.test_offline import record
from tests.appliance.test_offline_state import report
from tests.node.control_kit import NO_PLANS, OFFLINE, PLANS, POLL, Node, completed, outcome_of

JOB = UUID(int=5)


@pytest.fixture
def house(lab: CycleLab, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServiceLab]:
    made = ServiceLab(lab, monkeypatch)
    yield made
    made.stop()


@pytest.fixture
def group(house: ServiceLab) -> Group:
    made = house.group()
    house.assign(made)
    house.start()
    return made


class TestHarm:
    def test_a_successor_is_nobodys_job(self, house: ServiceLab, group: Group) -> None:
        """Its outcome would be told nobody, and its heartbeats would go on for ever."""
        with structlog.testing.capture_logs() as logs:
            house.service.desk.start(house.job(group, successor=3), 15)
        assert [entry["log_level"] for entry in logs] == ["error"]
        assert house.service.desk.crew.duties() == []
        assert house.service.state.record(group.id) is None

    @pytest.mark.parametrize(("heartbeat_s", "grace_s"), [(1e10, 2 * MAX_HEARTBEAT_S), (0, 0.5)])
    def test_an_absurd_interval_does_not_decide_when_the_node_is_alone(
        self, house: ServiceLab, group: Group, heartbeat_s: float, grace_s: float
    ) -> None:
        desk, job = house.service.desk, house.job(group)
        desk.start(job, heartbeat_s)
        house.control.outcome(job)
        house.control.away()
        house.until(lambda: desk._away_since is not None)
        house.times.advance(grace_s * 0.9)
        assert not desk.is_alone
        house.times.advance(grace_s * 0.2)
        assert desk.is_alone

    @pytest.mark.parametrize("reason", ["clock.skewed", "auth.signature", "auth.required"])
    def test_a_signature_that_is_not_taken_is_no_revocation(self, house: ServiceLab, group: Group, reason: str) -> None:
        """A clock that is off, or a proxy that changes requests: an outage as others are."""
        house.run_once(group)
        house.control.away(ControlDenied(reason=reason, message="no", status=401))
        house.until(lambda: house.service.desk._away_since is not None)
        house.times.advance(31)
        assert house.service.desk.is_alone
        assert not house.service.state.denied


class TestAtOnce:
    def test_a_lease_that_comes_while_the_one_before_ends_is_what_is_known(
        self, house: ServiceLab, group: Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ended, second = offline.ended, list[Any]()
        taking: list[threading.Thread] = []

        def meanwhile(*arguments: Any, **named: Any) -> Any:
            if not taking:
                second.append(house.job(group))
                taking.append(threading.Thread(target=house.service.desk.start, args=(second[0], 15)))
                taking[0].start()
                taking[0].join(0.3)
            return ended(*arguments, **named)

        monkeypatch.setattr(offline, "ended", meanwhile)
        first = house.job(group)
        house.control.enqueue(first)
        house.control.outcome(first)
        house.until(lambda: second)
        house.control.outcome(second[0])
        taking[0].join()
        house.idle()
        record = house.service.state.record(group.id)
        assert record is not None
        assert (record.job.epoch, record.again) == (second[0].epoch, False)

    def test_a_cycle_that_ended_while_the_others_were_looked_at_is_not_begun_again(
        self, house: ServiceLab, group: Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        house.run_once(group)
        house.alone()
        house.times.advance(RPO_S)
        house.until_points(2)
        monkeypatch.setattr(house.service._standby, "_look", lambda: None)  # this test looks itself
        house.times.advance(RPO_S)
        house.idle()
        known = house.service.state.record
        seen: list[Any] = []

        def record(asked: GroupId) -> Any:
            seen.append(known(asked))
            return seen[0].model_copy(update={"again": True}) if len(seen) == 1 else seen[-1]

        monkeypatch.setattr(house.service.state, "record", record)
        house.service.desk.look()
        house.until(lambda: len(house.reports()) >= len(house.points()) - 1)
        house.until_points(3)
        assert [each.successor for each in house.reports()][:2] == [1, 2]


class TestReports:
    def test_are_told_a_page_at_a_time(self, house: ServiceLab, group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is taken is not told again because a later page is not."""
        house.run_once(group)
        house.control.away()
        record = house.service.state.record(group.id)
        assert record is not None
        for number in range(1, MAX_OFFLINE + 6):
            house.service.state.keep_report(report(record, number))
        pages: list[int] = []

        def take(told: list[OfflineCycle]) -> None:
            pages.append(len(told))
            if len(pages) > 1:
                raise AWAY

        client = house.control.client()
        monkeypatch.setattr(client, "offline", take)
        with pytest.raises(type(AWAY)):
            house.service.desk.before_poll(client)
        assert pages == [MAX_OFFLINE, 5]
        assert [each.successor for each in house.reports()] == list(range(MAX_OFFLINE + 1, MAX_OFFLINE + 6))


class TestStop:
    """A control plane that takes a request and says nothing, or says it for ever, holds up no stop."""

    @pytest.mark.parametrize("fault", [Fault.SILENT, Fault.HEAD_DRIP, Fault.DRIP, Fault.CONTINUE])
    @pytest.mark.parametrize("route", [POLL, PLANS, OFFLINE, outcome_of(JOB)])
    def test_is_soon_done(
        self, lab: CycleLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, route: str, fault: Fault
    ) -> None:
        monkeypatch.setattr(lease, "STOP_S", 0.2)
        answers: dict[str, Say] = {POLL: PollReply(plans_version=3), PLANS: NO_PLANS, OFFLINE: None}
        with FakeControl.make(tmp_path) as control, Appliance(lab.settings) as node:
            control.answers = {**answers, outcome_of(JOB): None, route: fault}
            client = Node(lab.settings.state_dir, control, node.identity).client()
            made = ApplianceService(node, client, backoff=quick)
            made.state.keep_report(report(record()))
            made.start()
            if route == outcome_of(JOB):
                made.keeper.finish(JOB, completed())
            control.wait_asked(route)
            began = time.monotonic()
            made.stop()
            assert time.monotonic() - began < 3
