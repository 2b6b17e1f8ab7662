"""States and reasons. Each is a string in files, messages and logs, and nothing outside these enums is."""

from enum import StrEnum


class Role(StrEnum):
    """What a node is; part of its certificate's name."""

    APPLIANCE = "appliance"
    CONNECTOR = "connector"


class Rung(StrEnum):
    """The resync ladder, cheapest first."""

    DELTA = "delta"
    COMPARE = "compare"
    SEED = "seed"


class Reason(StrEnum):
    """Why a disk was taken on its rung."""

    TRACKED = "tracked"
    NO_IMAGE = "no-image"
    NO_TRACKING = "no-tracking"
    NO_TOKEN = "no-token"  # noqa: S105 - a tracking token, not a secret
    TRACKING_LOST = "tracking-lost"
    TRACKING_RESET = "tracking-reset"
    RESIZED = "resized"
    REQUESTED = "requested"


class Consistency(StrEnum):
    """What the source snapshot promises about the guest's file systems."""

    CRASH = "crash"
    FILESYSTEM = "filesystem"
    APPLICATION = "application"


class SnapshotKind(StrEnum):
    """How a source or target made a snapshot."""

    NONE = "none"
    REFLINK = "reflink"
    SPARSE_COPY = "sparse-copy"


class Stage(StrEnum):
    """What an appliance's cycle is doing."""

    CONNECTING = "connecting"
    SNAPSHOT = "snapshot"
    TRANSFER = "transfer"
    COMMIT = "commit"
    CLEANUP = "cleanup"
    DONE = "done"
