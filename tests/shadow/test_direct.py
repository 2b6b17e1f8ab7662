"""Direct cycles: redone while they are received, within little staging; and given up without a wrong block."""

import errno
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dmcore.blocks import extents as ex
from dmcore.model.enums import Rung
from dmcore.model.ids import DiskId, image_of, point_id
from dmcore.model.phase import Phase
from dmcore.native.batches import Patched
from dmcore.shadow import segments
from dmcore.shadow.admission import Answer
from dmcore.shadow.checkpoint import load_checkpoint
from dmcore.shadow.errors import (
    CoverageDiffers,
    CycleDropped,
    CycleUnknown,
    GroupBusy,
    LogCorrupt,
    StagingFull,
)
from dmcore.shadow.group import GroupShadow
from dmcore.shadow.kit import GroupLimits
from dmcore.shadow.records import MAX_BODY_BYTES
from dmcore.shadow.segments import segment_files
from dmcore.shadow.state import Cycle
from dmcore.targets.folder import FolderTarget
from dmcore.targets.volume import FolderVolume
from tests.shadow.group_lab import (
    BLOCK,
    DISK_A,
    DISK_B,
    GROUP,
    DiskContent,
    GroupLab,
    Sender,
    content,
    coverage_of,
    cycle_id,
    recovered,
    roll_forward,
    run_cycle,
    send_disk,
)
from tests.shadow.test_crash_gaps import failing, send_spoiled

BLOCKS = 64
SIZE = BLOCKS * BLOCK
HALF = ex.from_pairs([(0, SIZE // 4)])
WHOLE = ex.whole(SIZE)


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 3 * BLOCK)


@pytest.fixture
def disk() -> DiskContent:
    return content(1, SIZE)


@pytest.fixture
def seeded(lab: GroupLab, shadow: GroupShadow, disk: DiskContent) -> GroupShadow:
    """With one point."""
    assert run_cycle(shadow, lab.plan(shadow, 1, {DISK_A: disk}), {DISK_A: (disk, WHOLE)}) is Phase.RECLAIMED
    return shadow


def drain_all(shadow: GroupShadow) -> int:
    rounds = 0
    while shadow.drain():
        rounds += 1
    return rounds


def begin(lab: GroupLab, shadow: GroupShadow, number: int, disk: DiskContent) -> Cycle:
    cycle = lab.plan(shadow, number, {DISK_A: disk})
    assert shadow.begin(cycle) is Answer.START
    return cycle


def finish(lab: GroupLab, shadow: GroupShadow, cycle: Cycle, disk: DiskContent, carried: ex.Extents) -> None:
    """Send the rest, commit, and see that the point is what the source held."""
    send_disk(shadow, cycle, DISK_A, disk, carried)
    shadow.commit(cycle.id, cycle.epoch, {DISK_A: coverage_of(disk, carried)})
    assert roll_forward(shadow) is Phase.RECLAIMED
    assert recovered(lab, shadow, point_id(cycle.id, GROUP)) == {DISK_A: bytes(disk.data)}


def log_folder(lab: GroupLab, cycle: Cycle, disk: DiskId = DISK_A) -> Path:
    return lab.root / "staging" / str(GROUP) / str(cycle.id) / str(disk)


def log_files(lab: GroupLab, cycle: Cycle) -> list[int]:
    return [number for number, _ in segment_files(lab.storage, log_folder(lab, cycle))]


def volume_of(lab: GroupLab, disk: DiskId = DISK_A) -> bytes:
    return (lab.root / "target" / "volumes" / f"{disk}.img").read_bytes()


def damage(lab: GroupLab, cycle: Cycle) -> None:
    """A byte of the first segment that is needed flips, below what was acknowledged."""
    _, path = segment_files(lab.storage, log_folder(lab, cycle))[0]
    held = bytearray(path.read_bytes())
    held[200] ^= 1
    path.write_bytes(held)


# Seeds


def test_a_seed_is_redone_while_it_is_received_and_its_segments_are_freed(
    lab: GroupLab, shadow: GroupShadow, disk: DiskContent
) -> None:
    cycle = begin(lab, shadow, 1, disk)
    assert shadow.state.direct_disks == [DISK_A]
    send_disk(shadow, cycle, DISK_A, disk, HALF)
    assert len(log_files(lab, cycle)) > 3
    assert drain_all(shadow) >= 1
    assert len(log_files(lab, cycle)) <= 2  # the one that is written, and one made ahead
    assert volume_of(lab)[: SIZE // 8] == bytes(disk.data[: SIZE // 8])
    assert shadow.state.dirty
    finish(lab, shadow, cycle, disk, WHOLE)
    assert shadow.skipped_bytes > 0
    assert not shadow.state.dirty


def test_draining_twice_does_nothing_more(lab: GroupLab, shadow: GroupShadow, disk: DiskContent) -> None:
    assert not shadow.drain()
    cycle = begin(lab, shadow, 1, disk)
    assert not shadow.drain()
    send_disk(shadow, cycle, DISK_A, disk, HALF)
    drain_all(shadow)
    held = (log_folder(lab, cycle) / "checkpoint").stat()
    told: list[int] = []
    assert not shadow.drain(told.append)
    assert told == []
    assert (log_folder(lab, cycle) / "checkpoint").stat() == held


def test_a_restart_goes_on_from_the_checkpoint(lab: GroupLab, disk: DiskContent) -> None:
    shadow = lab.open()
    cycle = begin(lab, shadow, 1, disk)
    send_disk(shadow, cycle, DISK_A, disk, HALF)
    drain_all(shadow)
    shadow.close()
    shadow = lab.open()
    resumed = cycle.model_copy(update={"epoch": cycle.epoch + 1})
    assert shadow.begin(resumed) is Answer.CONTINUE
    receiver, _ = shadow.open(cycle.id, resumed.epoch, DISK_A)
    assert ex.coverage_hash(receiver.durable()) == coverage_of(disk, HALF)  # what was freed counts, too
    finish(lab, shadow, resumed, disk, WHOLE)
    shadow.close()


def test_a_salt_from_before_the_checkpoint_is_remembered(lab: GroupLab, disk: DiskContent) -> None:
    shadow = lab.open()
    cycle = begin(lab, shadow, 1, disk)
    sender = Sender(shadow, cycle, DISK_A, disk)
    sender.start()
    sender.send(HALF)
    drain_all(shadow)
    held = load_checkpoint(lab.storage, log_folder(lab, cycle))
    assert held is not None
    assert (held.salts, held.attempt) == (frozenset({sender.writer.header.salt}), sender.attempt)
    assert held.failed_frames == 0
    assert len(ex.subtract(held.covered, HALF)) == 0 < len(held.covered)
    shadow.close()


@pytest.mark.parametrize("when", ["at begin", "later"])
def test_a_delta_goes_direct(lab: GroupLab, seeded: GroupShadow, disk: DiskContent, when: str) -> None:
    changed = disk.change(2, 40)
    cycle = lab.plan(seeded, 2, {DISK_A: disk})
    if when == "at begin":
        huge = cycle.disks[DISK_A].model_copy(update={"expected_bytes": 1 << 60})
        cycle = cycle.model_copy(update={"disks": {DISK_A: huge}})
    before = volume_of(lab)
    assert seeded.begin(cycle) is Answer.START
    assert seeded.state.direct_disks == ([DISK_A] if when == "at begin" else [])
    send_disk(seeded, cycle, DISK_A, disk, changed[:20])
    if when == "later":
        assert not seeded.drain()
        assert volume_of(lab) == before
        assert not seeded.state.dirty
        seeded.go_direct(DISK_A)
        seeded.go_direct(DISK_A)  # once is enough
    assert drain_all(seeded) >= 1
    assert seeded.state.dirty
    assert volume_of(lab) != before
    finish(lab, seeded, cycle, disk, changed)


def test_a_group_may_be_direct_in_part(lab: GroupLab, shadow: GroupShadow, disk: DiskContent) -> None:
    run_cycle(shadow, lab.plan(shadow, 1, {DISK_A: disk}), {DISK_A: (disk, WHOLE)})
    other = content(2, SIZE)
    cycle = lab.plan(shadow, 2, {DISK_A: disk, DISK_B: other})
    shadow.begin(cycle)
    assert shadow.state.direct_disks == [DISK_B]
    changed = disk.change(3, 20)
    before = volume_of(lab)
    send_disk(shadow, cycle, DISK_A, disk, changed)
    send_disk(shadow, cycle, DISK_B, other, WHOLE)
    drain_all(shadow)
    assert volume_of(lab) == before
    assert volume_of(lab, DISK_B) != bytes(SIZE)
    named = {DISK_A: coverage_of(disk, changed), DISK_B: coverage_of(other, WHOLE)}
    shadow.commit(cycle.id, cycle.epoch, named)
    roll_forward(shadow)
    found = recovered(lab, shadow, point_id(cycle.id, GROUP))
    assert found == {DISK_A: bytes(disk.data), DISK_B: bytes(other.data)}


def test_only_what_is_received_goes_direct(lab: GroupLab, seeded: GroupShadow, disk: DiskContent) -> None:
    with pytest.raises(CycleUnknown, match="is not received"):
        seeded.go_direct(DISK_A)
    begin(lab, seeded, 2, disk)
    with pytest.raises(CycleUnknown, match="is not received"):
        seeded.go_direct(DISK_B)


def test_no_room_for_one_batch_is_refused(lab: GroupLab, disk: DiskContent) -> None:
    lab.limits = GroupLimits(reserve_bytes=0, quota_bytes=1 << 20)
    shadow = lab.open()
    with pytest.raises(StagingFull):
        shadow.begin(lab.plan(shadow, 1, {DISK_A: disk}))
    assert shadow.state.cycle is None
    shadow.close()


def test_a_begin_that_fails_keeps_no_room(lab: GroupLab, disk: DiskContent, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.limits = GroupLimits(reserve_bytes=0, quota_bytes=MAX_BODY_BYTES)
    shadow = lab.open()
    with monkeypatch.context() as patch:
        patch.setattr(FolderTarget, "create", lambda *_: failing(errno.EIO)("create"))
        with pytest.raises(OSError, match="Input/output error"):
            shadow.begin(lab.plan(shadow, 1, {DISK_A: disk}))
    begin(lab, shadow, 2, disk)
    shadow.drop("nothing was staged, but room was kept")
    begin(lab, shadow, 3, disk)
    shadow.close()


def test_streams_go_on_while_a_disk_is_drained(
    lab: GroupLab, shadow: GroupShadow, disk: DiskContent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the midst of a drain a batch is appended, synced, and the disk opened by another attempt."""
    cycle = begin(lab, shadow, 1, disk)
    sender = Sender(shadow, cycle, DISK_A, disk)
    sender.start()
    sender.send(HALF)
    patch, todo = FolderVolume.patch, [lambda: sender.send(ex.from_pairs([(SIZE // 2, BLOCK)]))]
    todo.append(lambda: send_disk(shadow, cycle, DISK_A, disk, ex.from_pairs([(SIZE // 2 + BLOCK, BLOCK)])))

    def patched(self: FolderVolume, rows: np.ndarray, raw: bytes) -> Patched:
        if todo:
            meanwhile = threading.Thread(target=todo.pop(0))
            meanwhile.start()
            meanwhile.join(10)
            assert not meanwhile.is_alive()
        return patch(self, rows, raw)

    monkeypatch.setattr(FolderVolume, "patch", patched)
    assert drain_all(shadow) >= 1
    assert todo == []
    finish(lab, shadow, cycle, disk, WHOLE)


def test_a_round_is_bounded(
    lab: GroupLab, shadow: GroupShadow, disk: DiskContent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dmcore.shadow.redo.ROUND_BYTES", 6 * BLOCK)
    cycle = begin(lab, shadow, 1, disk)
    send_disk(shadow, cycle, DISK_A, disk, HALF)
    rounds = drain_all(shadow)
    assert rounds >= 2
    finish(lab, shadow, cycle, disk, WHOLE)


# Given up


def test_a_dropped_seed_goes_on_as_a_compare(lab: GroupLab, shadow: GroupShadow, disk: DiskContent) -> None:
    cycle = begin(lab, shadow, 1, disk)
    send_disk(shadow, cycle, DISK_A, disk, HALF)
    drain_all(shadow)
    shadow.drop("its snapshot is gone")
    assert shadow.state.cycle is not None
    assert shadow.state.cycle.phase is Phase.DROPPING
    assert shadow.state.dirty
    assert roll_forward(shadow) is Phase.DROPPED
    image = shadow.state.images[DISK_A]
    assert (image.image, image.token, image.unknown_blocks) == (image_of(cycle.id), None, 0)
    assert shadow.state.cycle is not None
    assert shadow.state.cycle.problem == "its snapshot is gone"
    assert volume_of(lab) == bytes(disk.data[: SIZE // 4]) + bytes(SIZE - SIZE // 4)
    assert_map_is_true(lab, shadow)
    assert list((lab.root / "staging" / str(GROUP)).iterdir()) == []
    compare = lab.plan(shadow, 2, {DISK_A: disk})
    plan = compare.disks[DISK_A].model_copy(update={"rung": Rung.COMPARE})
    compare = compare.model_copy(update={"disks": {DISK_A: plan}})
    assert shadow.begin(compare) is Answer.START
    finish(lab, shadow, compare, disk, ex.subtract(WHOLE, HALF))


def assert_map_is_true(lab: GroupLab, shadow: GroupShadow) -> None:
    """Zeros exactly where the shadow has a block of zeros, and no block unknown."""
    digest_map = shadow.digest_map(DISK_A)
    digests = digest_map.read(0, BLOCKS)
    assert digest_map.unknown().tolist() == []
    digest_map.close()
    held = volume_of(lab)
    zeros = [not any(held[at : at + BLOCK]) for at in range(0, SIZE, BLOCK)]
    assert [not row.any() for row in digests] == zeros


def test_a_dropped_delta_leaves_the_old_image_with_unknown_blocks(
    lab: GroupLab, seeded: GroupShadow, disk: DiskContent
) -> None:
    old = seeded.state.images[DISK_A]
    changed = disk.change(2, 30)
    cycle = begin(lab, seeded, 2, disk)
    seeded.go_direct(DISK_A)
    send_disk(seeded, cycle, DISK_A, disk, changed[:20])
    drain_all(seeded)
    seeded.drop("an operator dropped it")
    assert roll_forward(seeded) is Phase.DROPPED
    blocks = ex.total_bytes(changed[:20]) // BLOCK
    assert seeded.state.images[DISK_A] == old.model_copy(update={"unknown_blocks": blocks})
    digest_map = seeded.digest_map(DISK_A)
    assert ex.normalize(digest_map.unknown()).tolist() == changed[:20].tolist()
    digest_map.close()
    later = disk.change(3, 5)
    cycle = begin(lab, seeded, 3, disk)
    with pytest.raises(CoverageDiffers, match="unknown blocks"):
        send_and_commit(seeded, cycle, disk, changed[20:])
    finish(lab, seeded, cycle, disk, ex.union(changed, later))
    assert seeded.state.images[DISK_A].unknown_blocks == 0


def send_and_commit(shadow: GroupShadow, cycle: Cycle, disk: DiskContent, extents: ex.Extents) -> None:
    send_disk(shadow, cycle, DISK_A, disk, extents)
    shadow.commit(cycle.id, cycle.epoch, {DISK_A: coverage_of(disk, extents)})


def test_nothing_received_is_nothing_to_account_for(lab: GroupLab, shadow: GroupShadow, disk: DiskContent) -> None:
    begin(lab, shadow, 1, disk)
    cycle = lab.plan(shadow, 2, {DISK_A: disk})
    assert shadow.begin(cycle) is Answer.REPLACE
    assert shadow.state.images == {}
    finish(lab, shadow, cycle, disk, WHOLE)


def test_opened_and_nothing_received_leaves_no_image(lab: GroupLab, shadow: GroupShadow, disk: DiskContent) -> None:
    cycle = begin(lab, shadow, 1, disk)
    shadow.open(cycle.id, cycle.epoch, DISK_A)
    shadow.drop("why not")
    assert roll_forward(shadow) is Phase.DROPPED
    assert shadow.state.images == {}


def test_a_staged_disk_of_a_dropped_group_is_as_it_was(lab: GroupLab, seeded: GroupShadow, disk: DiskContent) -> None:
    old, other = seeded.state.images[DISK_A], content(2, SIZE)
    cycle = lab.plan(seeded, 2, {DISK_A: disk, DISK_B: other})
    seeded.begin(cycle)
    changed = disk.change(2, 20)
    send_disk(seeded, cycle, DISK_A, disk, changed)
    send_disk(seeded, cycle, DISK_B, other, HALF)
    seeded.drop("why not")
    assert roll_forward(seeded) is Phase.DROPPED
    assert seeded.state.images[DISK_A] == old
    assert seeded.state.images[DISK_B].token is None


def test_begin_while_a_cycle_is_dropping(lab: GroupLab, shadow: GroupShadow, disk: DiskContent) -> None:
    first = begin(lab, shadow, 1, disk)
    send_disk(shadow, first, DISK_A, disk, HALF)
    second = lab.plan(shadow, 2, {DISK_A: disk})
    assert shadow.begin(second) is Answer.BUSY  # it drops the first, and what that has written is not known yet
    assert shadow.begin(second) is Answer.BUSY
    with pytest.raises(CycleDropped, match="a newer cycle began"):
        shadow.begin(first)
    with pytest.raises(CycleUnknown):
        shadow.open(first.id, first.epoch, DISK_A)
    assert shadow.commit(first.id, first.epoch, {}) is Phase.DROPPING
    shadow.drop("it is dropping anyway")
    assert roll_forward(shadow) is Phase.DROPPED
    second = lab.plan(shadow, 2, {DISK_A: disk}, epoch=second.epoch)
    assert second.disks[DISK_A].base_image == image_of(first.id)
    assert shadow.begin(second) is Answer.START


def test_another_snapshot_of_a_direct_cycle(lab: GroupLab, shadow: GroupShadow, disk: DiskContent) -> None:
    cycle = begin(lab, shadow, 1, disk)
    send_disk(shadow, cycle, DISK_A, disk, HALF)
    other = cycle.model_copy(update={"epoch": cycle.epoch + 1, "snapshot_identity": "another"})
    with pytest.raises(CycleDropped):
        shadow.begin(other)
    assert roll_forward(shadow) is Phase.DROPPED
    with pytest.raises(CycleDropped):
        shadow.begin(other.model_copy(update={"epoch": cycle.epoch + 2}))
    assert shadow.state.images[DISK_A].image == image_of(cycle.id)


def test_a_restart_goes_on_with_dropping(lab: GroupLab, disk: DiskContent) -> None:
    shadow = lab.open()
    cycle = begin(lab, shadow, 1, disk)
    send_disk(shadow, cycle, DISK_A, disk, HALF)
    shadow.drop("why not")
    shadow.close()
    shadow = lab.open()
    assert roll_forward(shadow) is Phase.DROPPED
    assert shadow.state.images[DISK_A].image == image_of(cycle.id)
    shadow.close()


# Frames that do not open


def test_failed_frames_are_counted_over_drains_and_restarts(lab: GroupLab, disk: DiskContent) -> None:
    shadow = lab.open()
    cycle = begin(lab, shadow, 1, disk)
    send_spoiled(shadow, cycle, DISK_A, disk, ex.from_pairs([(0, 12 * BLOCK)]))
    drain_all(shadow)
    held = load_checkpoint(lab.storage, log_folder(lab, cycle))
    assert held is not None
    assert 0 < held.failed_frames <= 12
    shadow.close()
    shadow = lab.open()
    send_disk(shadow, cycle, DISK_A, disk, WHOLE)
    drain_all(shadow)
    shadow.commit(cycle.id, cycle.epoch, {DISK_A: coverage_of(disk, WHOLE)})
    assert roll_forward(shadow) is Phase.FAILED
    assert shadow.state.cycle is not None
    assert "12 frames did not open; 12 blocks are unknown" in shadow.state.cycle.problem
    image = shadow.state.images[DISK_A]
    assert (image.image, image.token, image.unknown_blocks) == (image_of(cycle.id), "token-1", 12)
    assert shadow.catalogue.all() == []
    heal = begin(lab, shadow, 2, disk)
    finish(lab, shadow, heal, disk, ex.from_pairs([(0, 12 * BLOCK)]))
    shadow.close()


def test_a_dropped_seed_with_frames_that_do_not_open(lab: GroupLab, shadow: GroupShadow, disk: DiskContent) -> None:
    cycle = begin(lab, shadow, 1, disk)
    send_spoiled(shadow, cycle, DISK_A, disk, ex.from_pairs([(0, 5 * BLOCK)]))
    shadow.drop("why not")
    assert roll_forward(shadow) is Phase.DROPPED
    image = shadow.state.images[DISK_A]
    assert (image.token, image.unknown_blocks) == (None, 5)


# Damaged logs


def dropping(lab: GroupLab, shadow: GroupShadow, number: int, disk: DiskContent) -> Cycle:
    """A direct cycle that is given up and whose log is damaged."""
    cycle = begin(lab, shadow, number, disk)
    if number > 1:
        shadow.go_direct(DISK_A)
    send_disk(shadow, cycle, DISK_A, disk, HALF)
    drain_all(shadow)
    shadow.drop("why not")
    damage(lab, cycle)
    with pytest.raises(LogCorrupt):
        roll_forward(shadow)
    assert shadow.begin(lab.plan(shadow, number + 1, {DISK_A: disk})) is Answer.BUSY
    return cycle


def test_a_damaged_log_of_a_dropped_seed_is_given_up(lab: GroupLab, shadow: GroupShadow, disk: DiskContent) -> None:
    dropping(lab, shadow, 1, disk)
    shadow.drop("an operator", lost=True)
    assert roll_forward(shadow) is Phase.DROPPED
    assert shadow.state.images == {}
    finish(lab, shadow, begin(lab, shadow, 2, disk), disk, WHOLE)


def test_a_damaged_log_of_a_dropped_delta_is_given_up(lab: GroupLab, seeded: GroupShadow, disk: DiskContent) -> None:
    dropping(lab, seeded, 2, disk)
    seeded.drop("an operator", lost=True)
    assert roll_forward(seeded) is Phase.DROPPED
    image = seeded.state.images[DISK_A]
    assert (image.token, image.unknown_blocks) == (None, BLOCKS)
    finish(lab, seeded, begin(lab, seeded, 3, disk), disk, WHOLE)


@pytest.fixture
def sealed(lab: GroupLab, seeded: GroupShadow, disk: DiskContent) -> Callable[[bool], Cycle]:
    """Seal a delta of one disk and the seed of another; the log of the first is damaged, if wanted."""
    other = content(2, SIZE)

    def seal(damaged: bool) -> Cycle:
        cycle = lab.plan(seeded, 2, {DISK_A: disk, DISK_B: other})
        seeded.begin(cycle)
        changed = disk.change(2, 20)
        send_disk(seeded, cycle, DISK_A, disk, changed)
        send_disk(seeded, cycle, DISK_B, other, WHOLE)
        seeded.commit(cycle.id, cycle.epoch, {DISK_A: coverage_of(disk, changed), DISK_B: coverage_of(other, WHOLE)})
        if damaged:
            damage(lab, cycle)
        return cycle

    return seal


def test_a_sealed_cycle_whose_log_is_damaged_is_given_up(
    lab: GroupLab, seeded: GroupShadow, disk: DiskContent, sealed: Callable[[bool], Cycle]
) -> None:
    cycle = sealed(True)
    with pytest.raises(LogCorrupt):
        roll_forward(seeded)
    with pytest.raises(GroupBusy):
        seeded.drop("an operator")
    seeded.drop("an operator", lost=True)
    assert roll_forward(seeded) is Phase.FAILED
    state = seeded.state
    assert state.cycle is not None
    assert "the staging log of disk-a was damaged and is given up" in state.cycle.problem
    a, b = state.images[DISK_A], state.images[DISK_B]
    assert (a.image, a.token, a.unknown_blocks) == (image_of(cycle.id), None, BLOCKS)
    assert (b.image, b.token, b.unknown_blocks) == (image_of(cycle.id), "token-2", 0)
    assert [point.cycle for point in seeded.catalogue.all()] == [cycle_id(1)]
    finish(lab, seeded, begin(lab, seeded, 3, disk), disk, WHOLE)


def test_giving_up_what_is_whole_changes_nothing(
    lab: GroupLab, seeded: GroupShadow, disk: DiskContent, sealed: Callable[[bool], Cycle]
) -> None:
    cycle = sealed(False)
    seeded.drop("an operator", lost=True)
    assert roll_forward(seeded) is Phase.RECLAIMED
    assert recovered(lab, seeded, point_id(cycle.id, GROUP))[DISK_A] == bytes(disk.data)
    seeded.drop("there is nothing to drop", lost=True)


def test_a_cycle_that_is_applied_is_not_given_up(
    lab: GroupLab, seeded: GroupShadow, sealed: Callable[[bool], Cycle]
) -> None:
    sealed(False)
    assert seeded.advance(lambda _: None) is Phase.APPLIED
    with pytest.raises(GroupBusy, match="applied"):
        seeded.drop("an operator", lost=True)


def test_a_damaged_log_stops_a_drain(lab: GroupLab, shadow: GroupShadow, disk: DiskContent) -> None:
    cycle = begin(lab, shadow, 1, disk)
    send_disk(shadow, cycle, DISK_A, disk, HALF)
    damage(lab, cycle)
    with pytest.raises(LogCorrupt, match="keep the files"):
        shadow.drain()
