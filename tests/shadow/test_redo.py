"""What redo does with frames that do not open, and how the next cycle heals them."""

import numpy as np
import pytest

from dmcore.blocks import extents as ex
from dmcore.model.ids import image_of, point_id
from dmcore.model.phase import Phase
from dmcore.native.patching import BlockIO
from dmcore.shadow import redo
from dmcore.shadow.errors import CoverageDiffers, CycleUnknown, LogCorrupt, StateUnreadable
from dmcore.shadow.group import GroupShadow
from dmcore.shadow.segments import segment_path
from dmcore.shadow.storage import Storage
from tests.shadow.faults import SystemCalls, Trigger
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
    recovered,
    roll_forward,
    run_cycle,
    send_disk,
)

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
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(LogCorrupt, match=str(cycle.id)):
        roll_forward(shadow)
    assert shadow.state.dirty


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
