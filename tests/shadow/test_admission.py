"""What `begin` means: every pair of what is held and what is asked has one decided answer."""

import itertools
from uuid import UUID

import pytest

from dmcore.errors import DmcoreError
from dmcore.model.enums import Reason, Rung
from dmcore.model.ids import NO_IMAGE, DiskId, NodeId, image_of
from dmcore.model.phase import COMMITTED, FINISHED, Phase
from dmcore.shadow.admission import Answer, check_disks, decide
from dmcore.shadow.errors import BaseDiffers, CycleDropped, SizeChanged, StaleEpoch
from dmcore.shadow.state import Cycle, CycleDisk, GroupState, ShadowImage
from tests.shadow.group_lab import BLOCK, DISK_A, GROUP, NODE, PLAN, a_cycle, cycle_id

OTHER_NODE = NodeId("f" * 64)
EPOCH = 5
PLANNED = CycleDisk(
    machine="vm", label="disk", disk_bytes=8 * BLOCK, block_bytes=BLOCK, rung=Rung.SEED, reason=Reason.NO_IMAGE,
    base_image=NO_IMAGE, next_token="token", dek_version=1,
)  # fmt: skip
FRESH = GroupState(plan=PLAN, group=GROUP, target="shadows")


def cycle(number: int = 1, **changes: object) -> Cycle:
    return a_cycle(number, EPOCH, {DISK_A: PLANNED}).model_copy(update=changes)


def holding(phase: Phase, *, resumable: bool = True) -> GroupState:
    held = cycle(phase=phase, resumable=resumable, problem="why it ended")
    return FRESH.model_copy(update={"epoch": EPOCH, "node": NODE, "cycle": held})


def outcome(state: GroupState, asked: Cycle, *, made: bool = False) -> Answer | type[DmcoreError]:
    try:
        return decide(state, asked, made=made)
    except DmcoreError as error:
        return type(error)


def expected_of_same(
    phase: Phase, epoch: int, node: NodeId, *, resumable: bool, snapshot: bool, disks: bool
) -> Answer | type[DmcoreError]:
    """The rules, in the order in which they count."""
    if epoch < EPOCH or (epoch == EPOCH and node != NODE):
        return StaleEpoch
    if phase in COMMITTED:
        return Answer.COMMITTED
    if phase in {Phase.DROPPED, Phase.DROPPING}:
        return CycleDropped
    may_go_on = resumable or epoch == EPOCH
    return Answer.CONTINUE if may_go_on and snapshot and disks else Answer.DROP


@pytest.mark.parametrize("phase", Phase)
def test_the_same_cycle(phase: Phase) -> None:
    yes_no = (True, False)
    for epoch, node, resumable, snapshot, disks in itertools.product(
        (EPOCH - 1, EPOCH, EPOCH + 1), (NODE, OTHER_NODE), yes_no, yes_no, yes_no
    ):
        asked = cycle(
            epoch=epoch,
            node=node,
            snapshot_identity="snapshot-1" if snapshot else "another",
            disks={DISK_A: PLANNED if disks else PLANNED.model_copy(update={"next_token": "another"})},
        )
        expected = expected_of_same(phase, epoch, node, resumable=resumable, snapshot=snapshot, disks=disks)
        found = outcome(holding(phase, resumable=resumable), asked)
        assert found is expected, (phase, epoch, node, resumable, snapshot, disks)


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("node", [NODE, OTHER_NODE], ids=["same-node", "other-node"])
def test_another_cycle(phase: Phase, node: NodeId) -> None:
    """Its epoch must be newer; nothing else of it counts yet."""
    state = holding(phase)
    for epoch in (EPOCH - 1, EPOCH):
        assert outcome(state, cycle(2, epoch=epoch, node=node)) is StaleEpoch
    expected = Answer.BUSY
    if phase in FINISHED:
        expected = Answer.START
    elif phase is Phase.RECEIVING:
        expected = Answer.REPLACE
    assert outcome(state, cycle(2, epoch=EPOCH + 1, node=node)) is expected


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("held", [0, 3])
def test_a_successor_under_the_same_epoch(phase: Phase, held: int) -> None:
    """It takes the place of a new epoch: only upwards, and only for the node that presented the epoch."""
    state = holding(phase).model_copy(update={"successor": held})
    expected = {Phase.RECEIVING: Answer.REPLACE}.get(phase, Answer.START if phase in FINISHED else Answer.BUSY)
    assert outcome(state, cycle(2, successor=held + 1)) is expected
    assert outcome(state, cycle(2, successor=held + 7)) is expected
    assert outcome(state, cycle(2, successor=held)) is StaleEpoch
    assert outcome(state, cycle(2, successor=held + 1, node=OTHER_NODE)) is StaleEpoch
    assert outcome(state, cycle(2, epoch=EPOCH - 1, successor=held + 1)) is StaleEpoch
    assert outcome(state, cycle(2, epoch=EPOCH + 1, successor=0)) is expected


@pytest.mark.parametrize("phase", Phase)
def test_an_earlier_cycle_that_has_its_point_is_not_made_again(phase: Phase) -> None:
    """Whatever the group does now. The same attempt may ask again, as after a lost connection."""
    state = holding(phase)
    assert outcome(state, cycle(2, epoch=EPOCH + 1, node=OTHER_NODE), made=True) is Answer.COMMITTED
    assert outcome(state, cycle(2), made=True) is Answer.COMMITTED
    assert outcome(state, cycle(2, node=OTHER_NODE), made=True) is StaleEpoch
    assert outcome(state, cycle(2, epoch=EPOCH - 1), made=True) is StaleEpoch
    assert outcome(state.model_copy(update={"successor": 1}), cycle(2), made=True) is StaleEpoch


def test_a_point_without_a_state_counts_too() -> None:
    assert outcome(FRESH, cycle(), made=True) is Answer.COMMITTED


def test_an_earlier_successor_never_comes_back() -> None:
    state = holding(Phase.RECLAIMED).model_copy(update={"successor": 3})
    assert outcome(state, cycle(2, successor=2)) is StaleEpoch
    assert outcome(state, cycle(2, successor=0)) is StaleEpoch


def test_the_first_cycle_of_a_group_starts() -> None:
    assert decide(FRESH, cycle(), made=False) is Answer.START


def test_a_dropped_cycle_says_why_it_was() -> None:
    with pytest.raises(CycleDropped, match="why it ended"):
        decide(holding(Phase.DROPPED), cycle(epoch=EPOCH + 1), made=False)


def test_a_stale_epoch_names_the_current_one() -> None:
    with pytest.raises(StaleEpoch, match=f"epoch 3 is behind the current one, {EPOCH}"):
        decide(holding(Phase.RECEIVING), cycle(epoch=3), made=False)


IMAGE = image_of(cycle_id(1))
SHADOW = ShadowImage(
    image=IMAGE, token="token-1", disk_bytes=8 * BLOCK, block_bytes=BLOCK, dek_version=1, machine="vm", label="disk"
)  # fmt: skip
HELD = FRESH.with_images({DISK_A: SHADOW})


def planned(**changes: object) -> Cycle:
    delta = {"rung": Rung.DELTA, "reason": Reason.TRACKED, "base_image": IMAGE}
    return cycle(2, disks={DISK_A: PLANNED.model_copy(update={**delta, **changes})})


@pytest.mark.parametrize("rung", [Rung.DELTA, Rung.COMPARE], ids=str)
def test_a_plan_on_the_held_image_fits(rung: Rung) -> None:
    check_disks(HELD, planned(rung=rung))


def test_a_seed_fits_a_new_disk_only() -> None:
    check_disks(FRESH, cycle())
    new = DiskId(UUID(int=99))
    check_disks(HELD, cycle(2, disks={new: PLANNED}))


@pytest.mark.parametrize(
    "changes",
    [
        {"base_image": image_of(cycle_id(9))},
        {"base_image": NO_IMAGE},
        {"rung": Rung.SEED},
        {"rung": Rung.SEED, "base_image": NO_IMAGE},
    ],
    ids=["another-image", "no-image", "seed-over-image", "seed"],
)
def test_a_plan_on_another_image_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(BaseDiffers, match=str(IMAGE)):
        check_disks(HELD, planned(**changes))


def test_a_delta_of_a_disk_without_an_image_is_refused() -> None:
    with pytest.raises(BaseDiffers):
        check_disks(FRESH, planned(base_image=NO_IMAGE))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"disk_bytes": 9 * BLOCK}, "36864 in the plan"),
        ({"disk_bytes": 7 * BLOCK}, "28672 in the plan"),
        ({"disk_bytes": 7 * BLOCK, "rung": Rung.COMPARE}, "28672 in the plan"),
        ({"block_bytes": 2 * BLOCK}, "block size"),
    ],
    ids=["grown", "shrunk", "shrunk-compare", "block-size"],
)
def test_another_size_is_refused(changes: dict[str, object], named: str) -> None:
    with pytest.raises(SizeChanged, match=named):
        check_disks(HELD, planned(**changes))


def test_a_disk_that_has_grown_is_compared() -> None:
    check_disks(HELD, planned(disk_bytes=9 * BLOCK, rung=Rung.COMPARE))
