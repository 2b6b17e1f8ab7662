"""From a job and a snapshot to what `begin` is told."""

from uuid import UUID, uuid4

import pytest

from dmcore.api.jobs import Job
from dmcore.appliance.errors import GroupUnfit, MachineUnfit, MachineUnknown
from dmcore.appliance.planning import DiskWork, begin_request, machines_of, plan_disks
from dmcore.model.enums import Reason, Rung
from dmcore.model.ids import NO_IMAGE, CycleId, DiskId, GroupId, ImageId, NodeId, PlanId, disk_id
from dmcore.sources.base import DiskInfo, MachineInfo, SourceSnapshot
from dmcore.wire.fields import MAX_DISKS
from dmcore.wire.messages import DiskState, StateReply
from tests.sources.memory import MemorySource

BLOCK = 4096
PLAN = PlanId(UUID(int=1))
EMPTY = StateReply(busy=False, epoch=0, cycle=None, disks=())


def job(*machines: str) -> Job:
    return Job(
        job=uuid4(), ticket="t", plan=PLAN, group=GroupId(UUID(int=2)), cycle=CycleId(UUID(int=3)), epoch=1,
        connector=NodeId("0" * 64), machines=machines or ("vm",), source="machines", target="shadows",
    )  # fmt: skip


def source(**disks: int) -> MemorySource:
    made = MemorySource()
    for name, size in (disks or {"a": 10 * BLOCK}).items():
        made.add("vm", name, bytes(size))
    return made


def held(disk: str, **changes: object) -> DiskState:
    state = DiskState(
        disk=disk_id(PLAN, "vm", disk), image=ImageId(UUID(int=9)), token=None, disk_bytes=10 * BLOCK,
        block_bytes=BLOCK, unknown_blocks=0,
    )  # fmt: skip
    return state.model_copy(update=changes)


def planned(made: MemorySource, *states: DiskState) -> tuple[SourceSnapshot, dict[str, DiskWork]]:
    snapshot = made.snapshot(["vm"], "one")
    work = plan_disks(job(), snapshot, EMPTY.model_copy(update={"disks": states}), 65536)
    return snapshot, {each.disk.info.label: each for each in work}


class TestMachines:
    def test_in_the_jobs_order_and_each_once(self) -> None:
        made = source()
        made.add("db", "a", bytes(BLOCK))
        assert [machine.identity for machine in machines_of(made, job("vm", "db", "vm"))] == ["vm", "db"]

    def test_one_that_is_not_there(self) -> None:
        with pytest.raises(MachineUnknown, match=r"has no machine web; it has: vm"):
            machines_of(source(), job("vm", "web"))
        with pytest.raises(MachineUnknown, match=r"it has: none"):
            machines_of(MemorySource(), job())

    def test_one_that_cannot_be_protected(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made = source()
        unfit = MachineInfo("vm", "vm", (), problem="disk a.img is empty")
        monkeypatch.setattr(made, "machines", lambda: [unfit])
        with pytest.raises(MachineUnfit, match=r"vm of source machines cannot be protected: disk a\.img is empty"):
            machines_of(made, job())


class TestDisks:
    def test_a_new_disk(self) -> None:
        _, work = planned(source(a=10 * BLOCK + 512))
        plan = work["a"].plan()
        assert (plan.rung, plan.reason, plan.base_image) == (Rung.SEED, Reason.NO_IMAGE, NO_IMAGE)
        assert (plan.disk, plan.machine, plan.label) == (disk_id(PLAN, "vm", "a"), "vm", "a")
        assert (plan.disk_bytes, plan.block_bytes) == (10 * BLOCK + 512, 65536)
        assert plan.expected_bytes == 10 * BLOCK + 512

    def test_a_shrunk_disk_is_a_new_disk_and_the_same_one_from_then_on(self) -> None:
        _, first = planned(source(), held("a", disk_bytes=11 * BLOCK))
        work = first["a"]
        assert work.id != held("a").disk
        assert (work.choice.rung, work.choice.reason) == (Rung.SEED, Reason.NO_IMAGE)
        shrunk = held("a").model_copy(update={"disk": work.id})
        _, again = planned(source(), held("a", disk_bytes=11 * BLOCK), shrunk)
        assert (again["a"].id, again["a"].choice.reason) == (work.id, Reason.NO_TOKEN)

    def test_a_shadow_keeps_its_block_size_and_names_its_image(self) -> None:
        made = source()
        token = made.snapshot(["vm"], "zero").disks["vm", "a"].next_token
        made.write("vm", "a", 5 * BLOCK, b"changed")
        _, work = planned(made, held("a", token=token))
        plan = work["a"].plan()
        assert (plan.rung, plan.block_bytes, plan.base_image) == (Rung.DELTA, BLOCK, UUID(int=9))
        assert plan.expected_bytes == BLOCK
        assert plan.next_token == made._disks["vm", "a"].token

    def test_what_a_compare_will_find_cannot_be_told(self) -> None:
        _, work = planned(source(), held("a"))
        assert (work["a"].plan().rung, work["a"].plan().expected_bytes) == (Rung.COMPARE, 0)

    def test_each_disk_by_itself(self) -> None:
        _, work = planned(source(a=BLOCK, b=BLOCK), held("b", disk_bytes=BLOCK), held("gone"))
        assert {name: each.choice.rung for name, each in work.items()} == {"a": Rung.SEED, "b": Rung.COMPARE}
        assert {each.id for each in work.values()} == {disk_id(PLAN, "vm", name) for name in "ab"}


class TestBegin:
    def test_says_what_the_snapshot_is(self) -> None:
        snapshot, work = planned(source())
        request = begin_request(job(), snapshot, list(work.values()), resumable=True)
        assert (request.snapshot_identity, request.source_time) == (snapshot.identity, snapshot.taken_at)
        assert [disk.disk for disk in request.disks] == [disk_id(PLAN, "vm", "a")]

    @pytest.mark.parametrize("label", ["d\x1b[31m.img", "x" * 300, "a\udcff.img"])
    def test_a_name_that_cannot_be_told(self, label: str) -> None:
        snapshot, work = planned(source())
        work["a"].disk.info = DiskInfo("a", label, 10 * BLOCK)  # type: ignore[misc]
        with pytest.raises(GroupUnfit, match=r"machines vm of source machines cannot be protected together: label"):
            begin_request(job(), snapshot, list(work.values()), resumable=True)

    def test_more_disks_than_a_cycle_takes(self) -> None:
        snapshot, work = planned(source())
        with pytest.raises(GroupUnfit, match="disks"):
            begin_request(job(), snapshot, list(work.values()) * (MAX_DISKS + 1), resumable=True)


def test_stats_begin_at_nothing() -> None:
    _, work = planned(source())
    stats = work["a"].stats()
    assert (stats.disk, stats.rung, stats.read_bytes) == (DiskId(disk_id(PLAN, "vm", "a")), Rung.SEED, 0)
