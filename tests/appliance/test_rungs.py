"""The cheapest rung that is safe, and why: no error of the source's tracking costs more than one rung."""

from uuid import UUID

import pytest

from dmcore.appliance.rungs import choose
from dmcore.blocks import extents as ex
from dmcore.blocks.grid import Grid
from dmcore.errors import SourceError
from dmcore.model.enums import Reason, Rung
from dmcore.model.ids import DiskId, ImageId
from dmcore.sources.base import SnapshotDisk
from dmcore.sources.errors import JournalFailed, SnapshotFailed, SourceChanged, SourceReadFailed, TrackingLost
from dmcore.wire.messages import DiskState
from tests.sources.faulty import FaultySource
from tests.sources.memory import MemorySource

BLOCK = 4096
GRID = Grid(10 * BLOCK + 512, BLOCK)
WHOLE = [[0, GRID.disk_bytes]]


class Tracked:
    """A disk of ten and a bit blocks; what was written since `since` is blocks 2, 3 and the short one."""

    def __init__(self) -> None:
        self.source = MemorySource()
        self.source.add("vm", "a", bytes(GRID.disk_bytes))
        self.since = self.source.snapshot(["vm"], "one").disks["vm", "a"].next_token
        self.source.write("vm", "a", 2 * BLOCK + 100, bytes(BLOCK))
        self.source.write("vm", "a", 10 * BLOCK + 511, b"x")
        self.faulty = FaultySource(self.source)

    def disk(self) -> SnapshotDisk:
        return self.faulty.snapshot(["vm"], "two").disks["vm", "a"]

    def held(self, **changes: object) -> DiskState:
        state = DiskState(
            disk=DiskId(UUID(int=1)), image=ImageId(UUID(int=2)), token=self.since, disk_bytes=GRID.disk_bytes,
            block_bytes=BLOCK, unknown_blocks=0,
        )  # fmt: skip
        return state.model_copy(update=changes)


@pytest.fixture
def tracked() -> Tracked:
    return Tracked()


@pytest.mark.parametrize("wish", [None, *Rung])
def test_no_image(tracked: Tracked, wish: Rung | None) -> None:
    choice = choose(tracked.disk(), None, GRID, wish)
    assert (choice.rung, choice.reason, choice.extents.tolist()) == (Rung.SEED, Reason.NO_IMAGE, WHOLE)


@pytest.mark.parametrize("wish", [None, *Rung])
def test_a_grown_disk_is_compared_whatever_its_tracking_says(tracked: Tracked, wish: Rung | None) -> None:
    choice = choose(tracked.disk(), tracked.held(disk_bytes=9 * BLOCK), GRID, wish)
    assert (choice.rung, choice.reason, choice.extents.tolist()) == (Rung.COMPARE, Reason.RESIZED, WHOLE)


@pytest.mark.parametrize("wish", [None, Rung.DELTA])
def test_tracked(tracked: Tracked, wish: Rung | None) -> None:
    choice = choose(tracked.disk(), tracked.held(), GRID, wish)
    assert (choice.rung, choice.reason) == (Rung.DELTA, Reason.TRACKED)
    assert choice.extents.tolist() == [[2 * BLOCK, 2 * BLOCK], [10 * BLOCK, 512]]  # whole blocks


def test_tracked_and_nothing_changed(tracked: Tracked) -> None:
    disk = tracked.disk()
    choice = choose(disk, tracked.held(token=disk.next_token), GRID, None)
    assert (choice.rung, choice.extents.tolist()) == (Rung.DELTA, ex.empty().tolist())


@pytest.mark.parametrize("wish", [Rung.COMPARE, Rung.SEED])
def test_requested(tracked: Tracked, wish: Rung) -> None:
    """An image that is there is compared: a seed of it would be the same with more on the wire."""
    tracked.faulty.plan.fail("changed_since", AssertionError("asked for changes"))
    choice = choose(tracked.disk(), tracked.held(), GRID, wish)
    assert (choice.rung, choice.reason, choice.extents.tolist()) == (Rung.COMPARE, Reason.REQUESTED, WHOLE)


def test_no_token(tracked: Tracked) -> None:
    choice = choose(tracked.disk(), tracked.held(token=None), GRID, None)
    assert (choice.rung, choice.reason, choice.extents.tolist()) == (Rung.COMPARE, Reason.NO_TOKEN, WHOLE)


@pytest.mark.parametrize("reason", [Reason.TRACKING_LOST, Reason.TRACKING_RESET, Reason.NO_TRACKING])
def test_tracking_lost(tracked: Tracked, reason: Reason) -> None:
    tracked.faulty.plan.fail("changed_since", TrackingLost(path="a", token="t", problem="p", reason=reason))
    choice = choose(tracked.disk(), tracked.held(), GRID, None)
    assert (choice.rung, choice.reason, choice.extents.tolist()) == (Rung.COMPARE, reason, WHOLE)
    tracked.faulty.plan.verify_exercised()


@pytest.mark.parametrize(
    "error",
    [
        SourceReadFailed(path="a", offset=0, length=1, problem="p"),
        JournalFailed(path="a", problem="p"),
        SourceChanged(path="a", problem="p"),
        SnapshotFailed(path="a", name="n", problem="p"),
    ],
    ids=lambda error: error.code,
)
def test_any_other_error_of_the_source_costs_one_rung_too(tracked: Tracked, error: SourceError) -> None:
    tracked.faulty.plan.fail("changed_since", error)
    choice = choose(tracked.disk(), tracked.held(), GRID, None)
    assert (choice.rung, choice.reason, choice.extents.tolist()) == (Rung.COMPARE, Reason.TRACKING_LOST, WHOLE)
    tracked.faulty.plan.verify_exercised()


def test_a_bug_is_not_taken_for_lost_tracking(tracked: Tracked) -> None:
    tracked.faulty.plan.fail("changed_since", ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        choose(tracked.disk(), tracked.held(), GRID, None)
