"""Redo: in rounds, from checkpoints; what it does with frames that do not open, and how the next cycle heals them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from dmcore.blocks import extents as ex
from dmcore.blocks.grid import Grid
from dmcore.model.ids import image_of, point_id
from dmcore.model.phase import Phase
from dmcore.native.batches import OpenedBatch
from dmcore.native.patching import BlockIO
from dmcore.shadow import redo, segments
from dmcore.shadow.checkpoint import CHECKPOINT_FILE, Checkpoint, save_checkpoint
from dmcore.shadow.digestmap import DigestMap
from dmcore.shadow.errors import CoverageDiffers, CycleUnknown, LogCorrupt, StateUnreadable
from dmcore.shadow.group import GroupShadow
from dmcore.shadow.redo import Redo
from dmcore.shadow.segments import segment_path
from dmcore.shadow.state import Cycle
from dmcore.shadow.storage import Storage
from tests.shadow.faults import SteppedStorage, SystemCalls, Trigger, cut
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
    known_keys,
    recovered,
    roll_forward,
    run_cycle,
    send_disk,
)
from tests.targets.memory import MemoryTarget

SIZE = 64 * BLOCK


def seed(lab: GroupLab, shadow: GroupShadow, held: DiskContent) -> None:
    cycle = lab.plan(shadow, 1, {DISK_A: held})
    assert run_cycle(shadow, cycle, {DISK_A: (held, ex.whole(SIZE))}) is Phase.RECLAIMED


def send_with_wrong_digest(lab: GroupLab, shadow: GroupShadow, held: DiskContent, number: int) -> None:
    """Two blocks, the first under a digest that is not its own: its tag is right, its content is not what it says."""
    cycle = lab.plan(shadow, number, {DISK_A: held})
    shadow.begin(cycle)
    sender = Sender(shadow, cycle, DISK_A, held)
    sender.start()
    raw = bytes(held.data[: 2 * BLOCK])
    digests = np.frombuffer(b"\x01" * 16 + b"\x02" * 16, dtype=np.uint8).reshape(2, 16)
    sealed = sender.writer.seal(np.array([0, 1], dtype=np.int64), raw, sender.out, digests=digests)
    sender.append(sealed.used)
    sender.finish()
    shadow.commit(cycle.id, cycle.epoch, {DISK_A: coverage_of(held, ex.from_pairs([(0, 2 * BLOCK)]))})


def test_a_frame_that_does_not_open_makes_its_block_unknown_and_no_point(lab: GroupLab, shadow: GroupShadow) -> None:
    held = content(1, SIZE)
    seed(lab, shadow, held)
    held.change(2)
    send_with_wrong_digest(lab, shadow, held, 2)
    assert roll_forward(shadow) is Phase.FAILED
    state = shadow.state
    assert state.cycle is not None
    assert "2 frames did not open" in state.cycle.problem
    assert (state.images[DISK_A].image, state.images[DISK_A].unknown_blocks) == (image_of(state.cycle.id), 2)
    assert state.images[DISK_A].token == "token-2"
    assert len(shadow.catalogue.all()) == 1
    digest_map = shadow.digest_map(DISK_A)
    assert digest_map.unknown().tolist() == [[0, BLOCK], [BLOCK, BLOCK]]
    digest_map.close()


def test_unknown_blocks_must_be_covered_and_are_healed(lab: GroupLab, shadow: GroupShadow) -> None:
    held = content(1, SIZE)
    seed(lab, shadow, held)
    send_with_wrong_digest(lab, shadow, held, 2)
    roll_forward(shadow)
    cycle = lab.plan(shadow, 3, {DISK_A: held})
    with pytest.raises(CoverageDiffers, match="unknown blocks at offset 0"):
        run_cycle(shadow, cycle, {DISK_A: (held, ex.from_pairs([(8 * BLOCK, BLOCK)]))})
    cycle = lab.plan(shadow, 4, {DISK_A: held})
    assert run_cycle(shadow, cycle, {DISK_A: (held, ex.from_pairs([(0, 4 * BLOCK)]))}) is Phase.RECLAIMED
    assert shadow.state.images[DISK_A].unknown_blocks == 0
    assert recovered(lab, shadow, point_id(cycle.id, GROUP)) == {DISK_A: bytes(held.data)}


def test_unknown_blocks_of_a_disk_that_is_left_out_fail_nobody_else(lab: GroupLab, shadow: GroupShadow) -> None:
    """The disk was taken out of its machine: what is unknown of it is in no later point."""
    a, b = content(1, SIZE), content(2, SIZE)
    cycle = lab.plan(shadow, 1, {DISK_A: a, DISK_B: b})
    run_cycle(shadow, cycle, {DISK_A: (a, ex.whole(SIZE)), DISK_B: (b, ex.whole(SIZE))})
    send_with_wrong_digest(lab, shadow, a, 2)
    assert roll_forward(shadow) is Phase.FAILED
    cycle = lab.plan(shadow, 3, {DISK_B: b})
    assert run_cycle(shadow, cycle, {DISK_B: (b, b.change(3))}) is Phase.RECLAIMED
    point = shadow.catalogue.all()[-1]
    assert (point.lacking, recovered(lab, shadow, point.id)) == (["disk-a"], {DISK_B: bytes(b.data)})
    assert shadow.state.images[DISK_A].unknown_blocks == 2


def test_progress_adds_up_to_the_length_of_the_log(lab: GroupLab, shadow: GroupShadow) -> None:
    held = content(1, SIZE)
    cycle = lab.plan(shadow, 1, {DISK_A: held})
    shadow.begin(cycle)
    send_disk(shadow, cycle, DISK_A, held, ex.whole(SIZE))
    shadow.commit(cycle.id, cycle.epoch, {DISK_A: coverage_of(held, ex.whole(SIZE))})
    told: list[int] = []
    shadow.advance(lambda _: None, told.append)
    assert shadow.state.cycle is not None
    assert sum(told) == shadow.state.cycle.disks[DISK_A].log_bytes


def test_a_damaged_sealed_log_stops_and_says_so(lab: GroupLab, shadow: GroupShadow) -> None:
    held = content(1, SIZE)
    cycle = lab.plan(shadow, 1, {DISK_A: held})
    shadow.begin(cycle)
    sender = Sender(shadow, cycle, DISK_A, held)
    sender.start()
    sender.send(ex.whole(SIZE))
    sender.finish()
    shadow.commit(cycle.id, cycle.epoch, {DISK_A: coverage_of(held, ex.whole(SIZE))})
    path = segment_path(lab.root / "staging" / str(GROUP) / str(cycle.id) / str(DISK_A), 0)
    damaged = bytearray(path.read_bytes())
    damaged[200] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(LogCorrupt, match=str(cycle.id)):
        roll_forward(shadow)
    assert shadow.state.dirty


def sealed(lab: GroupLab, shadow: GroupShadow, held: DiskContent) -> Cycle:
    cycle = lab.plan(shadow, 1, {DISK_A: held})
    shadow.begin(cycle)
    send_disk(shadow, cycle, DISK_A, held, ex.whole(SIZE))
    shadow.commit(cycle.id, cycle.epoch, {DISK_A: coverage_of(held, ex.whole(SIZE))})
    return cycle


def test_redo_begins_at_the_checkpoint_of_the_one_before(lab: GroupLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 3 * BLOCK)
    monkeypatch.setattr(redo, "ROUND_BYTES", 6 * BLOCK)
    held, told = content(1, SIZE), list[int]()
    shadow = lab.open()
    cycle = sealed(lab, shadow, held)

    def stop_halfway(count: int) -> None:
        told.append(count)
        if sum(told) > SIZE // 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shadow.advance(lambda _: None, stop_halfway)
    shadow.close()
    shadow = lab.open()
    told.clear()
    assert shadow.advance(lambda _: None, told.append) is Phase.APPLIED
    assert shadow.state.cycle is not None
    assert sum(told) + shadow.skipped_bytes == shadow.state.cycle.disks[DISK_A].log_bytes
    assert 0 < shadow.skipped_bytes <= SIZE // 4
    roll_forward(shadow)
    assert recovered(lab, shadow, point_id(cycle.id, GROUP)) == {DISK_A: bytes(held.data)}
    shadow.close()


def test_nothing_before_a_checkpoint_can_be_lost(lab: GroupLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """When it is saved, shadow and map are synced, also where a round ends with less than a round to be settled."""
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 10 * BLOCK)
    monkeypatch.setattr(redo, "ROUND_BYTES", 5 * BLOCK)
    lab.storage = storage = SteppedStorage(Trigger(None, cut))
    held, saved = content(1, SIZE), list[int]()

    def watched(where: Storage, folder: Path, checkpoint: Checkpoint) -> None:
        assert storage.cache.unsynced == {}
        image = (lab.root / "target" / "volumes" / f"{DISK_A}.img").read_bytes()
        for offset, length in checkpoint.covered.tolist():
            assert image[offset : offset + length] == held.data[offset : offset + length]
        saved.append(checkpoint.segment)
        save_checkpoint(where, folder, checkpoint)

    monkeypatch.setattr("dmcore.shadow.forward.save_checkpoint", watched)
    shadow = lab.open()
    sealed(lab, shadow, held)
    assert roll_forward(shadow) is Phase.RECLAIMED
    assert len(saved) > 2
    shadow.close()


def test_a_damaged_checkpoint_is_named(lab: GroupLab, shadow: GroupShadow) -> None:
    cycle = sealed(lab, shadow, content(1, SIZE))
    path = lab.root / "staging" / str(GROUP) / str(cycle.id) / str(DISK_A) / CHECKPOINT_FILE
    path.write_bytes(b"not one")
    with pytest.raises(StateUnreadable, match=str(path)):
        shadow.advance(lambda _: None)
    assert shadow.state.dirty


def test_what_is_overwritten_is_kept_before_the_map_is_written(tmp_path: Path) -> None:
    """What the map held is told in time, of every block, the unknown ones too."""
    target, storage, grid = MemoryTarget(), Storage(), Grid(8 * BLOCK, BLOCK)
    target.create("v", grid.disk_bytes)
    DigestMap.create(storage, tmp_path / "map", grid)
    held = DigestMap(storage, tmp_path / "map", grid)
    seen: list[tuple[list[list[int]], bool]] = []

    def keep(batches: Sequence[OpenedBatch]) -> None:
        rows = [row[:2] for batch in batches for row in batch.rows.tolist()]
        seen.append((rows, bool(len(held.unknown()))))

    Redo(target.open("v"), held, known_keys, keep).mark_unknown(ex.from_pairs([(0, BLOCK), (3 * BLOCK, 2 * BLOCK)]))
    assert seen == [([[0, BLOCK], [3 * BLOCK, 2 * BLOCK]], False)]
    assert ex.normalize(held.unknown()).tolist() == [[0, BLOCK], [3 * BLOCK, 2 * BLOCK]]
    held.close()


@pytest.mark.parametrize(("limit", "value"), [("ROUND_BYTES", 4 * BLOCK), ("ROUND_FRAMES", 4)])
def test_map_is_never_written_before_the_shadow_is_flushed(
    lab: GroupLab, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    """Every write to the map's file follows a sync of the shadow's, in every round."""
    monkeypatch.setattr(redo, limit, value)
    calls: list[tuple[str, int]] = []

    class Ordered(SystemCalls):
        def pwritev(self, fd: int, buffers: object, offset: int) -> int:
            calls.append(("write", fd))
            return super().pwritev(fd, buffers, offset)  # type: ignore[arg-type]

        def fdatasync(self, fd: int) -> None:
            calls.append(("sync", fd))
            super().fdatasync(fd)

    lab.storage = Storage(BlockIO(Ordered(Trigger(None, lambda _: None))))
    shadow = lab.open()
    held = content(1, SIZE)
    cycle = lab.plan(shadow, 1, {DISK_A: held})
    shadow.begin(cycle)
    sender = Sender(shadow, cycle, DISK_A, held)
    sender.start()
    sender.send(ex.whole(SIZE))
    shadow.commit(cycle.id, cycle.epoch, {DISK_A: coverage_of(held, ex.whole(SIZE))})
    calls.clear()
    shadow.advance(lambda _: None)
    volume = calls[0][1]
    unflushed = False
    map_writes = 0
    for what, fd in calls:
        if fd == volume:
            unflushed = what == "write"
        elif what == "write" and map_writes < 8:
            map_writes += 1
            assert not unflushed
    assert map_writes > 2
    shadow.close()


def test_missing_or_foreign_files_are_named(lab: GroupLab, shadow: GroupShadow) -> None:
    with pytest.raises(CycleUnknown, match="no image"):
        shadow.digest_map(DISK_A)
    held = content(1, SIZE)
    seed(lab, shadow, held)
    map_path = lab.root / "state" / "maps" / f"{DISK_A}.map"
    map_path.write_bytes(b"short")
    with pytest.raises(StateUnreadable, match="5 bytes for 64 blocks"):
        shadow.digest_map(DISK_A)
    map_path.unlink()
    with pytest.raises(StateUnreadable, match="no digest map"):
        shadow.digest_map(DISK_A)
