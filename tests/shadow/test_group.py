"""Whole cycles against the oracle: what was at the source is what a point gives back."""

from uuid import UUID

import pytest

from dmcore.blocks import extents as ex
from dmcore.errors import TargetError
from dmcore.model.enums import Rung
from dmcore.model.ids import DiskId, NodeId, image_of, point_id
from dmcore.model.phase import Phase
from dmcore.shadow.admission import Answer
from dmcore.shadow.errors import (
    BaseDiffers,
    BlockRepeated,
    CoverageDiffers,
    CycleDropped,
    CycleUnknown,
    GroupBusy,
    SizeChanged,
    StaleEpoch,
    StreamRefused,
)
from dmcore.shadow.group import GroupShadow
from dmcore.shadow.kit import GroupLimits
from dmcore.shadow.points import Point
from dmcore.targets.errors import FlushFailed, SnapshotMissing
from dmcore.targets.folder import FolderTarget
from tests.shadow.group_lab import (
    DISK_A,
    DISK_B,
    GROUP,
    DiskContent,
    GroupLab,
    Sender,
    another,
    content,
    coverage_of,
    recovered,
    roll_forward,
    run_cycle,
    send_disk,
)

SIZE_A = 64 * 4096
SIZE_B = 33 * 4096 + 512


def seed(lab: GroupLab, shadow: GroupShadow, number: int = 1) -> dict[str, DiskContent]:
    a, b = content(1, SIZE_A), content(2, SIZE_B)
    cycle = lab.plan(shadow, number, {DISK_A: a, DISK_B: b})
    phase = run_cycle(shadow, cycle, {DISK_A: (a, ex.whole(SIZE_A)), DISK_B: (b, ex.whole(SIZE_B))})
    assert phase is Phase.RECLAIMED
    return {"a": a, "b": b}


def test_seed_then_delta_gives_both_points_back(lab: GroupLab, shadow: GroupShadow) -> None:
    disks = seed(lab, shadow)
    first = {DISK_A: bytes(disks["a"].data), DISK_B: bytes(disks["b"].data)}
    changed = {DISK_A: (disks["a"], disks["a"].change(3)), DISK_B: (disks["b"], disks["b"].change(4, 2))}
    cycle = lab.plan(shadow, 2, {DISK_A: disks["a"], DISK_B: disks["b"]})
    assert {plan.rung for plan in cycle.disks.values()} == {Rung.DELTA}
    assert run_cycle(shadow, cycle, changed) is Phase.RECLAIMED
    points = shadow.catalogue.all()
    assert [len(point.disks) for point in points] == [2, 2]
    assert recovered(lab, shadow, points[0].id) == first
    assert recovered(lab, shadow, points[1].id) == {DISK_A: bytes(disks["a"].data), DISK_B: bytes(disks["b"].data)}


def test_a_cycle_without_changes_makes_a_point_too(lab: GroupLab, shadow: GroupShadow) -> None:
    disks = seed(lab, shadow)
    held = {DISK_A: disks["a"], DISK_B: disks["b"]}
    cycle = lab.plan(shadow, 2, held)
    assert run_cycle(shadow, cycle, {disk: (c, ex.empty()) for disk, c in held.items()}) is Phase.RECLAIMED
    assert shadow.state.images[DISK_A].image == image_of(cycle.id)
    assert shadow.state.images[DISK_A].token == "token-2"
    newest = shadow.catalogue.all()[-1]
    assert recovered(lab, shadow, newest.id) == {disk: bytes(c.data) for disk, c in held.items()}


def test_staging_is_reclaimed_and_point_is_published_once_it_is_there(lab: GroupLab, shadow: GroupShadow) -> None:
    a = content(1, SIZE_A)
    cycle = lab.plan(shadow, 1, {DISK_A: a})
    shadow.begin(cycle)
    send_disk(shadow, cycle, DISK_A, a, ex.whole(SIZE_A))
    shadow.commit(cycle.id, cycle.epoch, {DISK_A: coverage_of(a, ex.whole(SIZE_A))})
    published: list[Point] = []
    assert roll_forward(shadow, published) is Phase.RECLAIMED
    assert [point.id for point in published] == [point_id(cycle.id, GROUP)]
    assert list((lab.root / "staging" / str(GROUP)).iterdir()) == []


def test_a_broken_stream_goes_on_from_what_is_durable(lab: GroupLab, shadow: GroupShadow) -> None:
    a = content(1, SIZE_A)
    cycle = lab.plan(shadow, 1, {DISK_A: a})
    shadow.begin(cycle)
    sender = Sender(shadow, cycle, DISK_A, a)
    sender.start()
    half = ex.from_pairs([(0, SIZE_A // 2)])
    sender.send(half)
    resumed = cycle.model_copy(update={"epoch": cycle.epoch + 1})
    assert shadow.begin(resumed) is Answer.CONTINUE
    with pytest.raises(StreamRefused, match="another attempt"):
        sender.receiver.sync(sender.attempt)
    receiver, attempt = shadow.open(cycle.id, resumed.epoch, DISK_A)
    assert attempt > sender.attempt
    assert ex.coverage_hash(receiver.durable()) == coverage_of(a, half)
    send_disk(shadow, resumed, DISK_A, a, ex.whole(SIZE_A))
    shadow.commit(cycle.id, resumed.epoch, {DISK_A: coverage_of(a, ex.whole(SIZE_A))})
    assert roll_forward(shadow) is Phase.RECLAIMED
    assert recovered(lab, shadow, point_id(cycle.id, GROUP)) == {DISK_A: bytes(a.data)}


def test_commit_with_missing_blocks_is_refused_and_can_be_repeated(lab: GroupLab, shadow: GroupShadow) -> None:
    a = content(1, SIZE_A)
    cycle = lab.plan(shadow, 1, {DISK_A: a})
    shadow.begin(cycle)
    whole = {DISK_A: coverage_of(a, ex.whole(SIZE_A))}
    with pytest.raises(CoverageDiffers):
        shadow.commit(cycle.id, cycle.epoch, whole)
    send_disk(shadow, cycle, DISK_A, a, ex.whole(SIZE_A))
    assert shadow.commit(cycle.id, cycle.epoch, whole) is Phase.SEALED
    assert shadow.commit(cycle.id, cycle.epoch, whole) is Phase.SEALED


def test_a_block_covered_twice_is_refused(lab: GroupLab, shadow: GroupShadow) -> None:
    a = content(1, SIZE_A)
    cycle = lab.plan(shadow, 1, {DISK_A: a})
    shadow.begin(cycle)
    sender = Sender(shadow, cycle, DISK_A, a)
    sender.start()
    sender.send(ex.from_pairs([(0, 8 * 4096)]))
    with pytest.raises(BlockRepeated, match="offset 16384"):
        sender.send(ex.from_pairs([(4 * 4096, 4096)]))


def test_stale_epochs_are_refused_everywhere(lab: GroupLab, shadow: GroupShadow) -> None:
    a = content(1, SIZE_A)
    cycle = lab.plan(shadow, 1, {DISK_A: a}, epoch=7)
    shadow.begin(cycle)
    old = cycle.model_copy(update={"epoch": 6})
    with pytest.raises(StaleEpoch, match="current one, 7"):
        shadow.begin(old)
    with pytest.raises(StaleEpoch):
        shadow.open(cycle.id, 6, DISK_A)
    with pytest.raises(StaleEpoch):
        shadow.commit(cycle.id, 6, {})
    with pytest.raises(StaleEpoch):
        shadow.begin(another(cycle))


def test_a_sender_let_in_before_a_newer_epoch_is_fenced_off_all_the_same(lab: GroupLab, shadow: GroupShadow) -> None:
    """It passed the group's check, and gets to the disk only after the newer attempt has begun."""
    a = content(1, SIZE_A)
    cycle = lab.plan(shadow, 1, {DISK_A: a})
    shadow.begin(cycle)
    receiver, _ = shadow.open(cycle.id, cycle.epoch, DISK_A)
    assert shadow.begin(cycle.model_copy(update={"epoch": cycle.epoch + 1})) is Answer.CONTINUE
    with pytest.raises(StreamRefused, match="fenced off"):
        receiver.open(cycle.epoch)


def test_a_newer_cycle_drops_one_that_is_receiving(lab: GroupLab, shadow: GroupShadow) -> None:
    a = seed(lab, shadow)["a"]
    first = lab.plan(shadow, 2, {DISK_A: a})
    shadow.begin(first)
    send_disk(shadow, first, DISK_A, a, ex.from_pairs([(0, 4096)]))
    second = lab.plan(shadow, 3, {DISK_A: a})
    assert shadow.begin(second) is Answer.REPLACE
    with pytest.raises(CycleUnknown):
        shadow.open(first.id, second.epoch, DISK_A)
    receiver, _ = shadow.open(second.id, second.epoch, DISK_A)
    assert not len(receiver.durable())


def test_another_snapshot_of_the_same_cycle_drops_it(lab: GroupLab, shadow: GroupShadow) -> None:
    a = content(1, SIZE_A)
    cycle = lab.plan(shadow, 1, {DISK_A: a})
    shadow.begin(cycle)
    other = cycle.model_copy(update={"epoch": cycle.epoch + 1, "snapshot_identity": "another"})
    with pytest.raises(CycleDropped):
        shadow.begin(other)
    assert shadow.state.cycle is not None
    assert shadow.state.cycle.phase is Phase.DROPPED
    with pytest.raises(CycleDropped):
        shadow.begin(other.model_copy(update={"epoch": cycle.epoch + 2}))


def test_a_source_without_snapshots_never_resumes(lab: GroupLab, shadow: GroupShadow) -> None:
    a = content(1, SIZE_A)
    cycle = lab.plan(shadow, 1, {DISK_A: a}, resumable=False)
    shadow.begin(cycle)
    with pytest.raises(CycleDropped):
        shadow.begin(cycle.model_copy(update={"epoch": cycle.epoch + 1}))


def test_busy_while_another_cycle_rolls_forward_and_committed_for_the_same(lab: GroupLab, shadow: GroupShadow) -> None:
    a = content(1, SIZE_A)
    cycle = lab.plan(shadow, 1, {DISK_A: a})
    shadow.begin(cycle)
    send_disk(shadow, cycle, DISK_A, a, ex.whole(SIZE_A))
    shadow.commit(cycle.id, cycle.epoch, {DISK_A: coverage_of(a, ex.whole(SIZE_A))})
    assert shadow.begin(lab.plan(shadow, 2, {DISK_A: a})) is Answer.BUSY
    assert shadow.begin(cycle.model_copy(update={"epoch": shadow.state.epoch + 1})) is Answer.COMMITTED
    with pytest.raises(GroupBusy):
        shadow.drop("operator")


def test_an_attempt_that_was_told_busy_may_ask_again_under_its_epoch(lab: GroupLab, shadow: GroupShadow) -> None:
    a = content(1, SIZE_A)
    first = lab.plan(shadow, 1, {DISK_A: a})
    shadow.begin(first)
    send_disk(shadow, first, DISK_A, a, ex.whole(SIZE_A))
    shadow.commit(first.id, first.epoch, {DISK_A: coverage_of(a, ex.whole(SIZE_A))})
    second = lab.plan(shadow, 2, {DISK_A: a})
    assert shadow.begin(second) is Answer.BUSY
    roll_forward(shadow)
    second = lab.plan(shadow, 2, {DISK_A: a}, epoch=second.epoch)
    assert shadow.begin(second) is Answer.START


def test_the_current_epoch_is_its_nodes_alone(lab: GroupLab, shadow: GroupShadow) -> None:
    cycle = lab.plan(shadow, 1, {DISK_A: content(1, SIZE_A)})
    shadow.begin(cycle)
    with pytest.raises(StaleEpoch):
        shadow.begin(cycle.model_copy(update={"node": NodeId("f" * 64)}))
    assert shadow.begin(cycle) is Answer.CONTINUE


def test_an_operator_can_drop_what_is_receiving(lab: GroupLab, shadow: GroupShadow) -> None:
    shadow.drop("nothing to drop")
    shadow.begin(lab.plan(shadow, 1, {DISK_A: content(1, SIZE_A)}))
    shadow.drop("operator")
    assert shadow.state.cycle is not None
    assert (shadow.state.cycle.phase, shadow.state.cycle.problem) == (Phase.DROPPED, "operator")


def test_changed_size_and_block_size_and_base_are_refused(lab: GroupLab, shadow: GroupShadow) -> None:
    disks = seed(lab, shadow)
    grown = DiskContent(disks["a"].data + bytes(4096))
    with pytest.raises(SizeChanged, match=str(SIZE_A)):
        shadow.begin(lab.plan(shadow, 2, {DISK_A: grown}))
    with pytest.raises(SizeChanged, match="block size"):
        shadow.begin(lab.plan(shadow, 2, {DISK_A: DiskContent(disks["a"].data, 8192)}))
    cycle = lab.plan(shadow, 2, {DISK_A: disks["a"]})
    stale = cycle.disks[DISK_A].model_copy(update={"base_image": image_of(cycle.id)})
    with pytest.raises(BaseDiffers):
        shadow.begin(cycle.model_copy(update={"disks": {DISK_A: stale}}))
    reseed = cycle.disks[DISK_A].model_copy(update={"rung": Rung.SEED})
    with pytest.raises(BaseDiffers):
        shadow.begin(cycle.model_copy(update={"disks": {DISK_A: reseed}}))


def test_a_cycle_is_staged_only_as_far_as_the_quota_allows(lab: GroupLab) -> None:
    lab.limits = GroupLimits(reserve_bytes=0, quota_bytes=16 << 20)
    shadow = lab.open()
    a = seed(lab, shadow)["a"]
    for number, expected, direct in ((2, (16 << 20) + 1, [DISK_A]), (3, 16 << 20, [])):
        cycle = lab.plan(shadow, number, {DISK_A: a})
        plan = cycle.disks[DISK_A].model_copy(update={"expected_bytes": expected})
        cycle = cycle.model_copy(update={"disks": {DISK_A: plan}})
        shadow.begin(cycle)
        assert shadow.state.direct_disks == direct
        again = cycle.model_copy(update={"epoch": cycle.epoch + 1})  # which disks are direct is not the appliance's
        assert shadow.begin(again) is Answer.CONTINUE
        shadow.drop("the next one, please")
    shadow.close()


def refuse_snapshots(
    lab: GroupLab, monkeypatch: pytest.MonkeyPatch, error: TargetError, volume: DiskId, times: int
) -> None:
    snapshot, left = FolderTarget.snapshot, [error] * times

    def refused(self: FolderTarget, name: str, tag: str) -> str:
        if name == str(volume) and left:
            raise left.pop()
        return snapshot(self, name, tag)

    monkeypatch.setattr(FolderTarget, "snapshot", refused)


def test_a_snapshot_that_is_refused_for_good_fails_the_cycle(
    lab: GroupLab, shadow: GroupShadow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images advance, there is no point, and of the snapshots that were made none is left."""
    disks = seed(lab, shadow)
    held = {DISK_A: disks["a"], DISK_B: disks["b"]}
    refuse_snapshots(lab, monkeypatch, SnapshotMissing(path="/shadows", snapshot="any"), DISK_B, 1)
    cycle = lab.plan(shadow, 2, held)
    assert run_cycle(shadow, cycle, {disk: (c, c.change(2, 3)) for disk, c in held.items()}) is Phase.FAILED
    state = shadow.state
    assert state.cycle is not None
    assert "no snapshot could be made: /shadows" in state.cycle.problem
    assert {(image.image, image.token) for image in state.images.values()} == {(image_of(cycle.id), "token-2")}
    assert lab.target is not None
    assert [name for name in lab.target.snapshots() if str(cycle.id) in name] == []
    assert len(shadow.catalogue.all()) == 1
    assert list((lab.root / "staging" / str(GROUP)).iterdir()) == []
    cycle = lab.plan(shadow, 3, held)
    assert run_cycle(shadow, cycle, {disk: (c, c.change(3, 3)) for disk, c in held.items()}) is Phase.RECLAIMED
    assert recovered(lab, shadow, point_id(cycle.id, GROUP)) == {disk: bytes(c.data) for disk, c in held.items()}


def test_a_snapshot_that_fails_for_now_is_tried_again(
    lab: GroupLab, shadow: GroupShadow, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = content(1, SIZE_A)
    refuse_snapshots(lab, monkeypatch, FlushFailed(path="/shadows", problem="for now"), DISK_A, 1)
    cycle = lab.plan(shadow, 1, {DISK_A: a})
    with pytest.raises(FlushFailed):
        run_cycle(shadow, cycle, {DISK_A: (a, ex.whole(SIZE_A))})
    assert roll_forward(shadow) is Phase.RECLAIMED


def test_a_disk_left_out_is_named_in_the_point(lab: GroupLab, shadow: GroupShadow) -> None:
    disks = seed(lab, shadow)
    cycle = lab.plan(shadow, 2, {DISK_A: disks["a"]})
    run_cycle(shadow, cycle, {DISK_A: (disks["a"], disks["a"].change(5))})
    assert shadow.catalogue.all()[-1].lacking == ["disk-b"]


def test_stream_headers_of_something_else_are_refused(lab: GroupLab, shadow: GroupShadow) -> None:
    a = content(1, SIZE_A)
    cycle = lab.plan(shadow, 1, {DISK_A: a, DISK_B: content(2, SIZE_B)})
    shadow.begin(cycle)
    sender = Sender(shadow, cycle, DISK_A, a)
    with pytest.raises(StreamRefused, match="before a stream header"):
        sender.receiver.append(sender.attempt, b"")
    other = Sender(shadow, cycle, DISK_B, content(2, SIZE_B))
    with pytest.raises(StreamRefused, match="another plan, disk"):
        sender.receiver.start(sender.attempt, other.writer.header, b"")
    with pytest.raises(CycleUnknown):
        shadow.open(cycle.id, cycle.epoch, DiskId(UUID(int=0xE)))
    sender.start()
    with pytest.raises(StreamRefused, match="salt"):
        sender.receiver.start(sender.attempt, sender.writer.header, b"")
