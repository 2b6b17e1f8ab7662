"""The phases of a cycle at the connector and which may follow which. Every pair is decided, and tested."""

from enum import StrEnum


class Phase(StrEnum):
    """What is durable about a group's cycle. docs/staging-log.md says what each promises."""

    RECEIVING = "receiving"
    SEALED = "sealed"
    APPLIED = "applied"
    SNAPSHOTTED = "snapshotted"
    PUBLISHED = "published"
    RECLAIMED = "reclaimed"
    DROPPING = "dropping"
    """A direct cycle is given up: what it had written is being accounted for."""
    DROPPED = "dropped"
    FAILED = "failed"


TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    Phase.RECEIVING: frozenset({Phase.SEALED, Phase.DROPPED, Phase.DROPPING}),
    Phase.DROPPING: frozenset({Phase.DROPPED}),
    Phase.SEALED: frozenset({Phase.APPLIED, Phase.FAILED}),
    Phase.APPLIED: frozenset({Phase.SNAPSHOTTED, Phase.FAILED}),
    Phase.SNAPSHOTTED: frozenset({Phase.PUBLISHED}),
    Phase.PUBLISHED: frozenset({Phase.RECLAIMED}),
    Phase.RECLAIMED: frozenset(),
    Phase.DROPPED: frozenset(),
    Phase.FAILED: frozenset(),
}

FINISHED = frozenset(phase for phase, following in TRANSITIONS.items() if not following)
"""No cycle is open in these: the next `begin` may start one."""

COMMITTED = frozenset({Phase.SEALED, Phase.APPLIED, Phase.SNAPSHOTTED, Phase.PUBLISHED, Phase.RECLAIMED, Phase.FAILED})
"""At or past SEALED: a new attempt only cleans up and completes the job."""

ANSWERED = frozenset({Phase.SNAPSHOTTED, Phase.PUBLISHED, Phase.RECLAIMED, Phase.FAILED, Phase.DROPPED})
"""`commit` is repeated until one of these is the answer."""


def may_follow(before: Phase, after: Phase) -> bool:
    """Whether a cycle's state file may go from one phase to the other."""
    return after in TRANSITIONS[before]
