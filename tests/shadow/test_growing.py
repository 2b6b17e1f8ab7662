"""A disk that has grown: carried by a compare; shadow and map grow behind SEALED, or before a direct write."""

from pathlib import Path

import numpy as np
import pytest

from dmcore.blocks import extents as ex
from dmcore.blocks.extents import Extents
from dmcore.errors import DmcoreError
from dmcore.model.enums import Reason, Rung
from dmcore.model.ids import point_id
from dmcore.model.phase import Phase
from dmcore.shadow.errors import CoverageDiffers, SizeChanged
from dmcore.shadow.group import GroupShadow
from dmcore.shadow.state import Cycle
from tests.shadow.faults import PowerCut, SteppedStorage, SteppedTarget, Trigger, cut
from tests.shadow.group_lab import (
    BLOCK,
    DISK_A,
    GROUP,
    DiskContent,
    GroupLab,
    content,
    coverage_of,
    recovered,
    roll_forward,
    run_cycle,
    send_disk,
)

BEFORE = 6 * BLOCK + 512
SIZES = [BEFORE + 512, 7 * BLOCK, 7 * BLOCK + 1, 20 * BLOCK + 100]


def grow(held: DiskContent, size: int) -> Extents:
    """More of it at the end, and a changed block. Returns what a compare finds: that, and what was unknown."""
    fresh = np.random.default_rng(size).integers(1, 8, size - len(held.data), dtype=np.uint8).tobytes()
    held.data.extend(fresh)
    held.data[BLOCK : BLOCK + 9] = b"x" * 9
    return ex.from_pairs([(BLOCK, BLOCK), (BEFORE // BLOCK * BLOCK, size - BEFORE // BLOCK * BLOCK)])


def planned(lab: GroupLab, shadow: GroupShadow, number: int, held: DiskContent, rung: Rung = Rung.COMPARE) -> Cycle:
    cycle = lab.plan(shadow, number, {DISK_A: held})
    disks = {DISK_A: cycle.disks[DISK_A].model_copy(update={"rung": rung, "reason": Reason.RESIZED})}
    return cycle.model_copy(update={"disks": disks})


@pytest.fixture
def lab(tmp_path: Path) -> GroupLab:
    return GroupLab(tmp_path)


def seeded(lab: GroupLab) -> tuple[GroupShadow, DiskContent]:
    shadow, held = lab.open(), content(1, BEFORE)
    assert run_cycle(shadow, lab.plan(shadow, 1, {DISK_A: held}), {DISK_A: (held, ex.whole(BEFORE))}) is Phase.RECLAIMED
    return shadow, held


@pytest.mark.parametrize("size", SIZES)
def test_the_point_has_the_new_size_and_the_older_one_its_own(lab: GroupLab, size: int) -> None:
    shadow, held = seeded(lab)
    first = bytes(held.data)
    changed = grow(held, size)
    cycle = planned(lab, shadow, 2, held)
    assert run_cycle(shadow, cycle, {DISK_A: (held, changed)}) is Phase.RECLAIMED
    points = shadow.catalogue.all()
    assert [point.disks[0].disk_bytes for point in points] == [BEFORE, size]
    assert [recovered(lab, shadow, point.id)[DISK_A] for point in points] == [first, bytes(held.data)]
    assert shadow.state.images[DISK_A].disk_bytes == size
    delta = held.change(5)
    assert run_cycle(shadow, lab.plan(shadow, 3, {DISK_A: held}), {DISK_A: (held, delta)}) is Phase.RECLAIMED
    assert recovered(lab, shadow, shadow.catalogue.all()[-1].id)[DISK_A] == bytes(held.data)
    shadow.close()
    lab.close()


def test_what_it_has_grown_by_must_be_covered(lab: GroupLab) -> None:
    shadow, held = seeded(lab)
    changed = grow(held, 9 * BLOCK)
    cycle = planned(lab, shadow, 2, held)
    shadow.begin(cycle)
    send_disk(shadow, cycle, DISK_A, held, ex.subtract(changed, ex.from_pairs([(6 * BLOCK, BLOCK)])))
    receiver, _ = shadow.open(cycle.id, cycle.epoch, DISK_A)
    with pytest.raises(CoverageDiffers, match="unknown blocks at offset"):
        shadow.commit(cycle.id, cycle.epoch, {DISK_A: ex.coverage_hash(receiver.durable())})
    send_disk(shadow, cycle, DISK_A, held, changed)
    shadow.commit(cycle.id, cycle.epoch, {DISK_A: coverage_of(held, changed)})
    assert roll_forward(shadow) is Phase.RECLAIMED
    shadow.close()
    lab.close()


def test_a_shadow_is_not_grown_before_its_cycle_is_sealed(lab: GroupLab) -> None:
    shadow, held = seeded(lab)
    changed = grow(held, 9 * BLOCK)
    cycle = planned(lab, shadow, 2, held)
    shadow.begin(cycle)
    send_disk(shadow, cycle, DISK_A, held, changed)
    assert (lab.root / "target" / "volumes" / f"{DISK_A}.img").stat().st_size == BEFORE
    shadow.drop("an operator")
    assert roll_forward(shadow) is Phase.DROPPED
    assert shadow.state.images[DISK_A].disk_bytes == BEFORE
    shadow.close()
    lab.close()


def test_a_direct_cycle_that_is_dropped_leaves_what_it_has_grown_by_unknown(lab: GroupLab) -> None:
    shadow, held = seeded(lab)
    changed = grow(held, 9 * BLOCK)
    cycle = planned(lab, shadow, 2, held)
    shadow.begin(cycle)
    shadow.go_direct(DISK_A)
    send_disk(shadow, cycle, DISK_A, held, ex.from_pairs([(BLOCK, BLOCK), (7 * BLOCK, BLOCK)]))
    shadow.drop("an operator")
    assert roll_forward(shadow) is Phase.DROPPED
    image = shadow.state.images[DISK_A]
    assert (image.disk_bytes, image.token) == (9 * BLOCK, "token-1")
    digest_map = shadow.digest_map(DISK_A)
    assert (digest_map.unknown()[:, 0] // BLOCK).tolist() == [1, 6, 7, 8]
    digest_map.close()
    again = lab.plan(shadow, 3, {DISK_A: held})
    assert run_cycle(shadow, again, {DISK_A: (held, changed)}) is Phase.RECLAIMED
    assert recovered(lab, shadow, point_id(again.id, GROUP))[DISK_A] == bytes(held.data)
    shadow.close()
    lab.close()


@pytest.mark.parametrize(("size", "rung"), [(BEFORE + BLOCK, Rung.DELTA), (BEFORE - 1, Rung.COMPARE)])
def test_only_a_compare_grows_and_nothing_shrinks(lab: GroupLab, size: int, rung: Rung) -> None:
    shadow, _ = seeded(lab)
    with pytest.raises(SizeChanged):
        shadow.begin(planned(lab, shadow, 2, content(2, size), rung))
    shadow.close()
    lab.close()


def test_every_gap_of_growing(tmp_path: Path) -> None:
    """A power cut before each durable call of the roll-forward: the next start grows what is left to grow."""
    at = 0
    while True:
        at += 1
        root = tmp_path / str(at)
        root.mkdir()
        (root / "target").mkdir()
        lab = GroupLab(root)
        shadow, held = seeded(lab)
        changed = grow(held, SIZES[-1])
        cycle = planned(lab, shadow, 2, held)
        shadow.begin(cycle)
        send_disk(shadow, cycle, DISK_A, held, changed)
        shadow.commit(cycle.id, cycle.epoch, {DISK_A: coverage_of(held, changed)})
        shadow.close()
        lab.close()
        storage = SteppedStorage(Trigger(at, cut))
        stopping = GroupLab(root, storage)
        stopping.target = SteppedTarget(root / "target", storage)
        finished = _rolled(stopping)
        storage.cache.end(lambda _: True)
        after = GroupLab(root)
        shadow = after.open()
        assert roll_forward(shadow) is Phase.RECLAIMED
        assert recovered(after, shadow, point_id(cycle.id, GROUP))[DISK_A] == bytes(held.data)
        shadow.close()
        after.close()
        if finished:
            assert at > 10
            return


def _rolled(lab: GroupLab) -> bool:
    """Whether the roll-forward came to its end."""
    try:
        shadow = lab.open()
        roll_forward(shadow)
        shadow.close()
    except (PowerCut, DmcoreError):
        return False
    else:
        return True
    finally:
        lab.close()
