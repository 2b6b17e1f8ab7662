"""How far a cycle is, for whoever watches, and what it came to in the end."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from dmcore.model.enums import Consistency, Reason, Rung, Stage
from dmcore.model.ids import CycleId, DiskId, GroupId, PlanId, PointId


@dataclass
class DiskStats:
    """One disk's part of a cycle. Counters grow while it runs, over all tries of one process; each has one writer."""

    disk: DiskId
    machine: str
    label: str
    disk_bytes: int
    rung: Rung
    reason: Reason
    to_read_bytes: int = 0
    """What will be read in all, as far as is known: the bar's end."""
    read_bytes: int = 0
    changed_bytes: int = 0
    """What the cycle covers: changed blocks, whole."""
    data_bytes: int = 0
    zero_bytes: int = 0
    sealed_bytes: int = 0
    wire_bytes: int = 0
    """To and from the connector, TLS included."""
    resumed_bytes: int = 0
    """Durable from an earlier try when the last one began: neither read nor sent again."""
    untracked_bytes: int | None = None
    """Of a compare against the source: what differed where its tracking told of no change."""
    seconds: float = 0.0
    meter: Callable[[], int] | None = field(default=None, repr=False, compare=False)
    """While a connection is open: what `wire_bytes` would be if it ended now."""

    @property
    def moved_bytes(self) -> int:
        """`wire_bytes` as of now. It grows, however slowly a limit lets a batch go."""
        meter = self.meter
        return max(self.wire_bytes, meter() if meter else 0)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        fields = {name: value for name, value in vars(self).items() if name != "meter"}
        return {**fields, "disk": str(self.disk)}


@dataclass
class CycleProgress:
    """Live. Read it from any thread; written by the cycle's."""

    stage: Stage = Stage.CONNECTING
    disks: dict[DiskId, DiskStats] = field(default_factory=dict)
    applied_bytes: int = 0
    to_apply_bytes: int = 0
    answers: int = 0
    """What the connector has said of its commit."""
    tries: int = 0
    """How often the cycle was begun or gone on with over a new connection."""
    begun: bool = False
    """Whether the connector has taken the cycle, and with it the epoch of its lease."""
    seconds: dict[Stage, float] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def during(self, stage: Stage) -> Iterator[None]:
        """Name the stage, and count its time."""
        self.stage, began = stage, self.clock()
        try:
            yield
        finally:
            with self._lock:
                self.seconds[stage] = self.seconds.get(stage, 0.0) + self.clock() - began

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "stage": self.stage,
            "disks": [disk.as_dict() for disk in list(self.disks.values())],
            "applied_bytes": self.applied_bytes,
            "to_apply_bytes": self.to_apply_bytes,
            "seconds": {stage.value: round(spent, 4) for stage, spent in dict(self.seconds).items()},
        }


@dataclass(frozen=True)
class CycleReport:
    """What a finished cycle came to."""

    plan: PlanId
    group: GroupId
    cycle: CycleId
    point: PointId
    source_time: datetime | None
    """None: an earlier attempt committed, and its source snapshot is gone; the connector's catalogue knows."""
    consistency: Consistency
    disks: tuple[DiskStats, ...]
    seconds: dict[Stage, float]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "plan": str(self.plan),
            "group": str(self.group),
            "cycle": str(self.cycle),
            "point": str(self.point),
            "source_time": self.source_time.isoformat() if self.source_time else None,
            "consistency": self.consistency,
            "disks": [disk.as_dict() for disk in self.disks],
            "seconds": {stage.value: round(spent, 4) for stage, spent in self.seconds.items()},
        }
