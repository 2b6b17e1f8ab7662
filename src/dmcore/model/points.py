"""The states of a recovery point and which may follow which. Every pair is decided, and tested."""

from enum import StrEnum


class PointState(StrEnum):
    """What a point is good for. *Preserved* and *locked* are flags beside it."""

    CREATING = "creating"
    AVAILABLE = "available"
    DEGRADED = "degraded"
    """A verification found damage."""
    FAILED = "failed"
    EXPIRED = "expired"


TRANSITIONS: dict[PointState, frozenset[PointState]] = {
    PointState.CREATING: frozenset({PointState.AVAILABLE, PointState.FAILED}),
    PointState.AVAILABLE: frozenset({PointState.DEGRADED, PointState.EXPIRED}),
    PointState.DEGRADED: frozenset({PointState.AVAILABLE, PointState.EXPIRED}),
    PointState.FAILED: frozenset({PointState.EXPIRED}),
    PointState.EXPIRED: frozenset(),
}

GOOD = PointState.AVAILABLE
"""Only these count when the last good point is kept."""


def may_follow(before: PointState, after: PointState) -> bool:
    """Whether a point may go from one state to the other."""
    return after in TRANSITIONS[before]
