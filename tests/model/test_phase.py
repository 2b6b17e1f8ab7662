from itertools import product

import pytest

from dmcore.model.phase import ANSWERED, COMMITTED, FINISHED, TRANSITIONS, Phase, may_follow

# Written out, not derived: the way that every good cycle takes, then the exits.
LEGAL = {
    (Phase.RECEIVING, Phase.SEALED),
    (Phase.SEALED, Phase.APPLIED),
    (Phase.APPLIED, Phase.SNAPSHOTTED),
    (Phase.SNAPSHOTTED, Phase.PUBLISHED),
    (Phase.PUBLISHED, Phase.RECLAIMED),
    (Phase.RECEIVING, Phase.DROPPED),
    (Phase.RECEIVING, Phase.DROPPING),
    (Phase.DROPPING, Phase.DROPPED),
    (Phase.SEALED, Phase.FAILED),
    (Phase.APPLIED, Phase.FAILED),
}


@pytest.mark.parametrize(("before", "after"), list(product(Phase, Phase)), ids=lambda phase: phase.value)
def test_every_pair_is_decided(before: Phase, after: Phase) -> None:
    assert may_follow(before, after) is ((before, after) in LEGAL)


def test_every_phase_has_a_row() -> None:
    assert set(TRANSITIONS) == set(Phase)


def test_every_phase_but_the_first_can_be_reached() -> None:
    assert {after for _, after in LEGAL} == set(Phase) - {Phase.RECEIVING}


def test_a_finished_cycle_stays_as_it_is() -> None:
    assert {Phase.RECLAIMED, Phase.DROPPED, Phase.FAILED} == FINISHED


def test_past_sealed_a_cycle_only_rolls_forward() -> None:
    """Nothing at or past SEALED can be dropped: images, tokens and maps of its group move together."""
    given_up = {Phase.DROPPING, Phase.DROPPED}
    assert set(Phase) - {Phase.RECEIVING} - given_up == COMMITTED
    assert not any(may_follow(phase, exit_) for phase in COMMITTED for exit_ in given_up)


def test_commit_is_answered_at_the_end_or_past_the_snapshot() -> None:
    assert {Phase.SNAPSHOTTED, Phase.PUBLISHED, Phase.RECLAIMED, Phase.FAILED, Phase.DROPPED} == ANSWERED
    assert not ANSWERED & {Phase.RECEIVING, Phase.SEALED, Phase.APPLIED, Phase.DROPPING}


@pytest.mark.parametrize("phase", list(Phase))
def test_phases_are_their_own_words(phase: Phase) -> None:
    assert Phase(phase.name.lower()) is phase
