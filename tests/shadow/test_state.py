"""The state file: whole and of this version, or refused; no phase that may not follow is ever written."""

import json
from pathlib import Path

import pytest

from dmcore.errors import ExitCode
from dmcore.model.enums import Reason, Rung
from dmcore.model.ids import NO_IMAGE, NodeId, image_of
from dmcore.model.phase import FINISHED, Phase, may_follow
from dmcore.shadow.errors import PhaseImpossible, StateUnreadable
from dmcore.shadow.state import STATE_FILE, CycleDisk, GroupState, ShadowImage, load_state, save_state
from dmcore.shadow.storage import Storage
from tests.shadow.faults import PowerCut, SteppedStorage, Trigger, cut
from tests.shadow.group_lab import BLOCK, DISK_A, DISK_B, GROUP, NODE, PLAN, a_cycle, cycle_id

FRESH = GroupState(plan=PLAN, group=GROUP, target="shadows")
PLANNED = CycleDisk(
    machine="vm", label="disk", disk_bytes=(1 << 62) + 512, block_bytes=BLOCK, rung=Rung.COMPARE,
    reason=Reason.TRACKING_LOST, base_image=NO_IMAGE, next_token=None, dek_version=3, expected_bytes=1 << 61,
    covered_bytes=5, log_bytes=6, log_chain=(1 << 64) - 1,
)  # fmt: skip
IMAGE = ShadowImage(
    image=image_of(cycle_id(1)), token="token\u00e9", disk_bytes=512, block_bytes=BLOCK, dek_version=1, machine="vm",
    label="a \"label\"", unknown_blocks=2,
)  # fmt: skip


def state_at(phase: Phase) -> GroupState:
    held = a_cycle(1, 7, {DISK_A: PLANNED}).model_copy(update={"phase": phase})
    return FRESH.model_copy(update={"epoch": 7, "node": NODE, "cycle": held, "images": {DISK_B: IMAGE}})


@pytest.mark.parametrize("state", [FRESH, *map(state_at, Phase)], ids=["fresh", *Phase])
def test_what_is_saved_is_loaded(tmp_path: Path, state: GroupState) -> None:
    save_state(Storage(), tmp_path, state)
    assert load_state(Storage(), tmp_path) == state


def test_saving_cut_short_leaves_the_old_state_or_the_new(tmp_path: Path) -> None:
    save_state(Storage(), tmp_path, FRESH)
    found = []
    for at in range(1, 5):
        with pytest.raises(PowerCut):
            save_state(SteppedStorage(Trigger(at, cut)), tmp_path, state_at(Phase.SEALED))
        found.append(load_state(Storage(), tmp_path))
    assert found == [FRESH, FRESH, FRESH, state_at(Phase.SEALED)]


def test_a_missing_state_is_named(tmp_path: Path) -> None:
    with pytest.raises(StateUnreadable, match=f"{tmp_path}.*No such file"):
        load_state(Storage(), tmp_path)


def spoiled(tmp_path: Path, **changes: object) -> StateUnreadable:
    path = tmp_path / STATE_FILE
    path.write_text(json.dumps({**json.loads(state_at(Phase.RECEIVING).model_dump_json()), **changes}))
    with pytest.raises(StateUnreadable) as caught:
        load_state(Storage(), tmp_path)
    return caught.value


def test_a_key_of_another_version_is_refused_rather_than_lost(tmp_path: Path) -> None:
    assert "checkpoint: Extra inputs" in str(spoiled(tmp_path, checkpoint=1))


def test_another_version_is_refused(tmp_path: Path) -> None:
    assert "version: " in str(spoiled(tmp_path, version=2))


@pytest.mark.parametrize(
    ("key", "value"),
    [("epoch", "seven"), ("cycle", {"phase": "half-way"}), ("plan", "../plan"), ("images", [])],
    ids=str,
)
def test_a_value_that_cannot_be_is_refused(tmp_path: Path, key: str, value: object) -> None:
    error = spoiled(tmp_path, **{key: value})
    assert key in error.problem
    assert error.exit_code is ExitCode.INTEGRITY


@pytest.mark.parametrize("length", [0, 1, 100])
def test_a_damaged_state_is_refused(tmp_path: Path, length: int) -> None:
    save_state(Storage(), tmp_path, state_at(Phase.RECEIVING))
    path = tmp_path / STATE_FILE
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(StateUnreadable):
        load_state(Storage(), tmp_path)


@pytest.mark.parametrize("before", Phase)
@pytest.mark.parametrize("after", Phase)
def test_a_cycle_goes_only_where_it_may(before: Phase, after: Phase) -> None:
    state = state_at(before)
    if not may_follow(before, after):
        with pytest.raises(PhaseImpossible, match=f"from {before} to {after}"):
            state.at(after)
        return
    moved = state.at(after, problem="told")
    assert moved.cycle is not None
    assert (moved.cycle.phase, moved.cycle.problem) == (after, "told")
    assert state == state_at(before)


def test_a_group_without_a_cycle_goes_nowhere() -> None:
    with pytest.raises(PhaseImpossible, match="from no cycle to sealed"):
        FRESH.at(Phase.SEALED)


@pytest.mark.parametrize("phase", Phase)
def test_dirty_is_where_shadows_may_be_half_patched(phase: Phase) -> None:
    state = state_at(phase)
    assert state.dirty is (phase in {Phase.SEALED, Phase.DROPPING})
    assert state.direct_disks == []
    assert (state.open_cycle is None) is (phase in FINISHED)
    assert (state.receiving is None) is (phase is not Phase.RECEIVING)
    assert state.cycle is not None
    direct = state.with_cycle(disks=state.cycle.with_direct([DISK_A]).disks)
    assert direct.dirty is (phase in {Phase.SEALED, Phase.DROPPING, Phase.RECEIVING})
    assert direct.direct_disks == ([DISK_A] if phase is Phase.RECEIVING else [])


def test_disks_become_direct_one_by_one() -> None:
    cycle = a_cycle(1, 7, {DISK_A: PLANNED, DISK_B: PLANNED})
    assert cycle.with_direct([DISK_B]).direct_disks == [DISK_B]
    assert cycle.with_direct(iter([DISK_A, DISK_B])).direct_disks == [DISK_A, DISK_B]
    assert cycle.with_direct([DISK_B]).with_direct([DISK_A]).direct_disks == [DISK_A, DISK_B]
    assert cycle.with_direct([]) == cycle


def test_a_group_without_a_cycle_is_never_dirty() -> None:
    assert (FRESH.dirty, FRESH.receiving, FRESH.direct_disks) == (False, None, [])
    assert FRESH.with_cycle(abandoned=True) == FRESH


def test_an_epoch_moves_with_an_open_cycle_only() -> None:
    node = NodeId("e" * 64)
    lease = FRESH.model_copy(update={"epoch": 9, "successor": 2, "node": node})
    moved = state_at(Phase.RECEIVING).under(lease)
    assert moved.cycle is not None
    for each in (moved, moved.cycle):
        assert (each.epoch, each.successor, each.node) == (9, 2, node)
    ended = state_at(Phase.RECLAIMED).under(lease)
    assert ended.cycle == state_at(Phase.RECLAIMED).cycle
    assert FRESH.under(lease).cycle is None


def test_a_disk_without_an_image_holds_none() -> None:
    state = state_at(Phase.RECEIVING)
    assert (state.image_of(DISK_A), state.image_of(DISK_B)) == (NO_IMAGE, IMAGE.image)
