from itertools import product

import pytest

from dmcore.model.jobs import HELD, IN_FLIGHT, TRANSITIONS, JobKind, JobState, may_follow

# Written out, not derived: the way of a good job, then retries, late outcomes and the ways out.
LEGAL = {
    (JobState.QUEUED, JobState.LEASED),
    (JobState.LEASED, JobState.RUNNING),
    (JobState.RUNNING, JobState.COMPLETED),
    (JobState.LEASED, JobState.QUEUED),
    (JobState.RUNNING, JobState.QUEUED),
    (JobState.QUEUED, JobState.RUNNING),
    (JobState.QUEUED, JobState.COMPLETED),
    (JobState.QUEUED, JobState.FAILED),
    (JobState.QUEUED, JobState.CANCELLED),
    (JobState.LEASED, JobState.COMPLETED),
    (JobState.LEASED, JobState.FAILED),
    (JobState.LEASED, JobState.CANCELLED),
    (JobState.RUNNING, JobState.FAILED),
    (JobState.RUNNING, JobState.CANCELLED),
}


@pytest.mark.parametrize(("before", "after"), list(product(JobState, JobState)), ids=lambda state: state.value)
def test_every_pair_is_decided(before: JobState, after: JobState) -> None:
    assert may_follow(before, after) is ((before, after) in LEGAL)


def test_every_state_has_a_row() -> None:
    assert set(TRANSITIONS) == set(JobState)


def test_every_state_can_be_reached() -> None:
    assert {after for _, after in LEGAL} == set(JobState)


def test_what_is_over_stays_so() -> None:
    over = {JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED}
    assert set(JobState) - over == IN_FLIGHT
    assert not any(may_follow(state, after) for state in over for after in JobState)


def test_a_lease_is_held_in_flight_only() -> None:
    assert {JobState.LEASED, JobState.RUNNING} == HELD
    assert HELD < IN_FLIGHT


@pytest.mark.parametrize("word", [*JobState, *JobKind])
def test_words_are_their_own(word: JobState | JobKind) -> None:
    assert type(word)(word.name.lower()) is word
