"""What a node says: signed, in time, in messages that are not too long."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
import structlog
from structlog.testing import capture_logs

from dmcore.api.base import MAX_BODY_BYTES
from dmcore.api.client_errors import ControlAnswerBroken, ControlDenied, ControlRefused, ControlUnreachable
from dmcore.api.jobs import MAX_DISKS, DiskTotals, Progress
from dmcore.api.nodes import MAX_OFFLINE, OfflineCycle
from dmcore.api.points import MAX_POINTS, PointFact
from dmcore.api.signing import MAX_SKEW_S, claimed_issuer, verify_request
from dmcore.errors import DmcoreError
from dmcore.host.clock import utc_now
from dmcore.model.enums import Consistency, Reason, Rung
from dmcore.model.ids import CycleId, DiskId, GroupId, PlanId, PointId
from dmcore.model.points import PointState
from dmcore.node.control_client import MAX_ANSWER_BYTES, NodeClient
from dmcore.node.offer import Offer
from tests.api.fake_control import Asked, FakeControl, Fault, Refuse, Say
from tests.node.control_kit import (
    CONTROL,
    GO_ON,
    NO_PLANS,
    NOTHING,
    OFFLINE,
    PLANS,
    POINTS,
    POLL,
    Node,
    completed,
    heartbeat,
    new_job,
    outcome_of,
    polled,
)

BIG = 1 << 52
JOB = UUID(int=5)


@pytest.fixture
def client(node: Node) -> Iterator[NodeClient]:
    made = node.client()
    yield made
    made.close()


def require_signed(node: Node, asked: Asked) -> None:
    header = asked.headers["Authorization"]
    assert claimed_issuer(header) == node.identity.node
    verify_request(node.identity.private_key.public_key(), header, CONTROL, asked.method, asked.path, asked.body)


def many_disks(count: int = MAX_DISKS) -> Progress:
    disks = tuple(
        DiskTotals(
            disk=DiskId(uuid4()), rung=Rung.COMPARE, reason=Reason.TRACKING_LOST, to_read_bytes=BIG, read_bytes=BIG,
            changed_bytes=BIG, zero_bytes=BIG, sealed_bytes=BIG, wire_bytes=BIG, resumed_bytes=BIG,
        )
        for _ in range(count)
    )  # fmt: skip
    return Progress(counter=7, done_bytes=9, total_bytes=11, disks=disks)


def fact() -> PointFact:
    return PointFact(
        id=PointId(uuid4()), plan=PlanId(uuid4()), group=GroupId(uuid4()), cycle=CycleId(uuid4()),
        source_time=datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC), consistency=Consistency.APPLICATION,
        state=PointState.AVAILABLE, disks=BIG, lacking=BIG, rungs=(Rung.DELTA, Rung.COMPARE, Rung.SEED), preserved=True,
        verified_at=datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC), revision=BIG,
    )  # fmt: skip


def offline_cycle(progress: Progress | None = None) -> OfflineCycle:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    return OfflineCycle(
        plan=PlanId(uuid4()), group=GroupId(uuid4()), base_cycle=CycleId(uuid4()), successor=1, started_at=now,
        ended_at=now, outcome=completed(progress=progress or Progress()),
    )  # fmt: skip


class TestCalls:
    def test_a_poll_tells_what_the_node_has_and_brings_a_job(self, node: Node, client: NodeClient) -> None:
        job, busy = new_job(), GroupId(uuid4())
        node.control.answers[POLL] = polled(job, plans_version=4)
        offer = Offer(slots=2, sources=("vms",), targets=("shadows",), recoveries=("spare",), busy=(busy,))
        reply = client.poll(offer, plans_version=3, wait_s=0.5)
        assert (reply.job, reply.plans_version) == (job, 4)
        [asked] = node.control.asked
        require_signed(node, asked)
        said = asked.json
        assert said.pop("version")
        assert said == {
            "incarnation": str(client.incarnation), "sources": ["vms"], "targets": ["shadows"],
            "recoveries": ["spare"], "busy": [str(busy)], "slots": 2, "plans_version": 3, "wait_s": 0.5,
        }  # fmt: skip

    def test_the_others(self, node: Node, client: NodeClient) -> None:
        node.control.answers = {
            PLANS: NO_PLANS,
            heartbeat(JOB): GO_ON,
            outcome_of(JOB): None,
            POINTS: None,
            OFFLINE: None,
        }
        assert client.plans() == NO_PLANS
        assert client.heartbeat(JOB, 3, Progress(counter=1)) == GO_ON
        client.outcome(JOB, completed(3))
        client.points([fact()])
        client.offline([offline_cycle()])
        assert node.control.routes() == [PLANS, heartbeat(JOB), outcome_of(JOB), POINTS, OFFLINE]
        for asked in node.control.asked:
            require_signed(node, asked)
        beat, ended = (node.control.asked[number].json for number in (1, 2))
        assert beat["incarnation"] == ended["incarnation"] == str(client.incarnation)
        assert (beat["epoch"], beat["progress"]["counter"]) == (3, 1)
        assert (ended["outcome"]["epoch"], ended["outcome"]["result"]) == (3, "completed")

    def test_nothing_to_say_is_not_said(self, node: Node, client: NodeClient) -> None:
        client.points([])
        client.offline([])
        assert node.control.asked == []

    @pytest.mark.parametrize(
        ("fault", "expected"),
        [
            (Refuse(409, "lease.lost"), ControlRefused),
            (Refuse(401, "node.unknown"), ControlDenied),
            (Fault.PAGE_200, ControlAnswerBroken),
            (Fault.CUT, ControlUnreachable),
        ],
    )
    def test_faults(self, node: Node, client: NodeClient, fault: Fault | Refuse, expected: type[DmcoreError]) -> None:
        node.control.faults = [fault]
        with pytest.raises(expected):
            client.heartbeat(JOB, 1, Progress())
        assert len(node.control.asked) == 1

    def test_a_branch_is_the_same_process_and_closes_alone(self, node: Node, client: NodeClient) -> None:
        node.control.answers[POLL] = NOTHING
        branch = client.branch()
        assert branch.incarnation == client.incarnation
        branch.close()
        with pytest.raises(ControlUnreachable, match="closed"):
            branch.poll(Offer())
        assert client.poll(Offer()) == NOTHING


class TestLength:
    def test_of_a_heartbeat_and_an_outcome_with_many_disks(self, node: Node, client: NodeClient) -> None:
        """Beyond what one message may hold the totals are said, and the disks are not."""
        node.control.answers = {heartbeat(JOB): GO_ON, outcome_of(JOB): None}
        client.heartbeat(JOB, 1, many_disks())
        client.outcome(JOB, completed(progress=many_disks()))
        beat, ended = node.control.asked
        assert max(len(beat.body), len(ended.body)) <= MAX_BODY_BYTES
        for progress in (beat.json["progress"], ended.json["outcome"]["progress"]):
            assert (progress["counter"], progress["done_bytes"], progress["disks"]) == (7, 9, [])
        client.heartbeat(JOB, 1, many_disks(100))
        assert len(node.control.asked[2].json["progress"]["disks"]) == 100

    def test_of_points(self, node: Node, client: NodeClient) -> None:
        node.control.answers[POINTS] = None
        client.points([fact() for _ in range(MAX_POINTS + 1)])
        assert [len(asked.json["points"]) for asked in node.control.asked] == [MAX_POINTS, 1]
        assert all(len(asked.body) <= MAX_BODY_BYTES for asked in node.control.asked)

    def test_of_offline_cycles(self, node: Node, client: NodeClient) -> None:
        node.control.answers[OFFLINE] = None
        cycles = [offline_cycle(many_disks(10)) for _ in range(MAX_OFFLINE)] + [offline_cycle(many_disks())]
        client.offline(cycles)
        said = [cycle for asked in node.control.asked for cycle in asked.json["cycles"]]
        assert [cycle["group"] for cycle in said] == [str(cycle.group) for cycle in cycles]
        assert all(len(asked.body) <= MAX_BODY_BYTES for asked in node.control.asked)
        assert [len(cycle["outcome"]["progress"]["disks"]) for cycle in said] == [10] * MAX_OFFLINE + [0]


class TestClock:
    """The control plane refuses what was signed more than half a minute from its own clock."""

    @pytest.fixture(autouse=True)
    def _judging(self, control: FakeControl, node: Node) -> None:
        def judge(asked: Asked) -> Say:
            header = asked.headers["Authorization"]
            key = node.identity.private_key.public_key()
            claims = verify_request(key, header, CONTROL, asked.method, asked.path, asked.body)
            if abs(claims.skew_s(utc_now() + control.ahead)) > MAX_SKEW_S:
                return Refuse(401, "clock.skewed")
            return NOTHING

        control.answers[POLL] = judge

    @pytest.mark.parametrize("minutes", [10, -10])
    def test_that_is_off_is_corrected_and_told_of_once(self, node: Node, minutes: int) -> None:
        off = timedelta(minutes=minutes)
        client = node.client(lambda: utc_now() + off)
        with capture_logs() as logs:
            for _ in range(3):
                assert client.poll(Offer()) == NOTHING
        client.close()
        assert node.control.routes() == [POLL] * 4  # the first one twice
        [warning] = [each for each in logs if each["log_level"] == "warning"]
        assert abs(warning["behind_s"] + 60 * minutes) <= 5

    def test_that_jumps_is_corrected_again(self, node: Node) -> None:
        off = [timedelta(minutes=10)]
        client = node.client(lambda: utc_now() + off[0])
        client.poll(Offer())
        off[0] = timedelta(minutes=-10)
        branch = client.branch()
        assert branch.poll(Offer()) == NOTHING
        assert client.poll(Offer()) == NOTHING
        assert node.control.routes() == [POLL] * 5  # what one has learnt the other knows
        client.close()
        branch.close()

    def test_that_is_right_is_left_alone(self, node: Node, client: NodeClient) -> None:
        with capture_logs() as logs:
            client.poll(Offer())
        assert (logs, client.signer.skew) == ([], timedelta(0))

    def test_that_cannot_be_corrected_is_an_error(self, node: Node, client: NodeClient) -> None:
        """A control plane that refuses whatever is signed is asked twice, not for ever."""
        node.control.answers[POLL] = Refuse(401, "clock.skewed")
        with pytest.raises(ControlDenied) as caught:
            client.poll(Offer())
        assert caught.value.reason == "clock.skewed"
        assert len(node.control.asked) == 2

    @pytest.mark.parametrize("years", [5000, 7500, -100])
    def test_a_time_that_no_clock_shows_is_not_believed(self, node: Node, client: NodeClient, years: int) -> None:
        """Nothing could be signed by it, and the node would end."""
        node.control.ahead = timedelta(days=365 * years)
        for _ in range(2):
            with pytest.raises(ControlDenied):
                client.poll(Offer())
        assert client.signer.skew == timedelta(0)

    @pytest.mark.parametrize("fault", [Refuse(401, "node.unknown"), Refuse(403, "clock.skewed"), Fault.PAGE_500])
    def test_other_refusals_do_not_move_it(self, node: Node, client: NodeClient, fault: Fault | Refuse) -> None:
        node.control.ahead = timedelta(hours=1)
        node.control.faults = [fault]
        with pytest.raises(DmcoreError):
            client.poll(Offer())
        assert client.signer.skew == timedelta(0)


@pytest.fixture(autouse=True)
def _plain_logs() -> Iterator[None]:
    yield
    structlog.reset_defaults()


class TestWhatIsNotTaken:
    def test_a_page_of_somebody_in_between_does_not_take_anything(self, node: Node, client: NodeClient) -> None:
        """What it is thought to have is forgotten here."""
        node.control.answers = {outcome_of(JOB): {}, OFFLINE: Fault.PAGE_200, POINTS: {"fine": True}}
        with pytest.raises(ControlAnswerBroken, match="200 instead of 204"):
            client.outcome(JOB, completed())
        with pytest.raises(ControlAnswerBroken, match="200 instead of 204"):
            client.offline([offline_cycle()])
        with pytest.raises(ControlAnswerBroken, match="200 instead of 204"):
            client.points([fact()])

    def test_one_that_is_never_taken_is_not_in_the_way_of_the_others(self, node: Node, client: NodeClient) -> None:
        cycles, facts = [offline_cycle() for _ in range(20)], [fact() for _ in range(20)]
        poison = [str(cycles[13].group), str(facts[4].id)]
        taken: list[str] = []

        def take(asked: Asked) -> Say:
            if any(each in asked.body.decode() for each in poison):
                return Refuse(422, "request.invalid")
            taken.extend([each.get("group") for each in asked.json.get("cycles", asked.json.get("points"))])
            return None

        node.control.answers = {OFFLINE: take, POINTS: take}
        with capture_logs() as logs:
            client.offline(cycles)
            client.points(facts)
        del cycles[13], facts[4]
        assert taken == [str(each.group) for each in cycles] + [str(each.group) for each in facts]
        assert [(each["event"], each["code"]) for each in logs] == [
            ("the control plane does not take this", "request.invalid")
        ] * 2

    @pytest.mark.parametrize("refusal", [Refuse(503, "store.busy"), Refuse(401, "node.unknown"), Refuse(404, "x.y")])
    def test_other_refusals_are_not_of_what_is_told(self, node: Node, client: NodeClient, refusal: Refuse) -> None:
        node.control.answers = {OFFLINE: refusal}
        with pytest.raises(ControlRefused):
            client.offline([offline_cycle(), offline_cycle()])
        assert len(node.control.asked) == 1


def test_an_answer_that_is_too_long_for_a_node(node: Node, client: NodeClient) -> None:
    node.control.answers[PLANS] = {"x": "x" * MAX_ANSWER_BYTES}
    with pytest.raises(ControlAnswerBroken, match=f"more than {MAX_ANSWER_BYTES} bytes"):
        client.plans()


def test_a_clock_that_was_set_back_after_it_was_corrected_still_signs(node: Node, client: NodeClient) -> None:
    """A time before 1970 cannot be signed by: the thread that tried would end, and the node with it."""
    node.control.answers[POLL] = NOTHING
    client.signer.skew = timedelta(days=-365 * 80)
    client.poll(Offer())
    [asked] = node.control.asked
    require_signed(node, asked)
