"""The kinds and states of jobs, and which state may follow which. Every pair is decided, and tested."""

from enum import StrEnum


class JobKind(StrEnum):
    """What a job asks for. Cycles are an appliance's, the rest a connector's."""

    CYCLE = "cycle"
    VERIFY = "verify"
    RECOVER = "recover"
    EXPIRE = "expire"
    PRESERVE = "preserve"
    INDEX = "index"
    """Send the whole catalogue again: the control plane's copy is rebuilt."""


class JobState(StrEnum):
    """Where a job is in the queue."""

    QUEUED = "queued"
    LEASED = "leased"
    """A node has it; it has not said yet that it runs."""
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    # A job whose lease was lost is queued again. Until another lease begins, its last holder may come back and
    # go on, or report what came of it: lost contact is not a lost lease.
    JobState.QUEUED: frozenset(
        {JobState.LEASED, JobState.RUNNING, JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED}
    ),
    JobState.LEASED: frozenset(
        {JobState.RUNNING, JobState.QUEUED, JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED}
    ),
    JobState.RUNNING: frozenset({JobState.QUEUED, JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED}),
    JobState.COMPLETED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}

IN_FLIGHT = frozenset(state for state, following in TRANSITIONS.items() if following)
"""At most one job of a group is in these."""

HELD = frozenset({JobState.LEASED, JobState.RUNNING})
"""A node has a lease on it."""


def may_follow(before: JobState, after: JobState) -> bool:
    """Whether a job may go from one state to the other."""
    return after in TRANSITIONS[before]
