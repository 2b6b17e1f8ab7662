"""What is done to recovery points, whoever asks for it: an operator at the connector, or a job of the control plane."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog

from dmcore.api.points import PointFact
from dmcore.connector.checking import PointCheck
from dmcore.connector.clock_guard import ClockGuard
from dmcore.connector.errors import GroupBroken, PointBusy, PointKept
from dmcore.connector.facts import fact_of, fact_of_gone
from dmcore.connector.groups import Groups
from dmcore.connector.keyring import PlanKeyring
from dmcore.connector.recovery import Progress, RecoveredDisk, recover_point, recover_whole
from dmcore.connector.retention import Held, why_kept, young_until
from dmcore.connector.uses import PointUses
from dmcore.errors import DmcoreError
from dmcore.host.clock import Clock
from dmcore.model.ids import PointId
from dmcore.model.points import PointState
from dmcore.node.settings import RetentionSettings
from dmcore.shadow import expiry
from dmcore.shadow.errors import CycleUnknown, PointUnknown, StateUnreadable
from dmcore.shadow.group import GroupShadow
from dmcore.shadow.points import Catalogue, Point, PointFlags
from dmcore.shadow.verify import Sample

Tell = Callable[[PointFact], None]
"""Keeps durably what the control plane is to be told; does nothing where there is none."""

log = structlog.get_logger()


class PointKeeper:
    """Thread-safe. A point that somebody reads is not removed, and one that is being removed is not read."""

    def __init__(
        self,
        groups: Groups,
        keyring: PlanKeyring,
        retention: RetentionSettings,
        guard: ClockGuard,
        clock: Clock,
        tell: Tell,
    ) -> None:
        self._groups, self._keyring, self._retention = groups, keyring, retention
        self._guard, self._clock, self._tell = guard, clock, tell
        self._uses = PointUses()
        self._deciding = threading.Lock()
        """Two removals must not each count on the point that the other one removes."""

    def all(self) -> list[tuple[Point, PointFlags]]:
        """Every point, oldest first."""
        found = [(point, held.flags(point.id)) for held in self._groups.catalogues() for point in held.all()]
        return sorted(found, key=lambda pair: pair[0].source_time)

    def facts(self) -> Iterator[PointFact]:
        """What the control plane may know of every point. One catalogue at a time is read."""
        for catalogue in self._groups.catalogues():
            for point in catalogue.all():
                yield fact_of(point, catalogue.flags(point.id))

    def publish(self, point: Point) -> None:
        """Keep durably what is to be told of a new point, or of one that was told of before. Raises OSError."""
        self._guard.look()
        log.info("recovery point", point=str(point.id), group=str(point.group), cycle=str(point.cycle))
        self._tell(fact_of(point, self._groups.get(point.group).catalogue.flags(point.id)))

    # Read

    def size_of(self, points: Sequence[PointId], sample: Sample | None = None) -> int:
        """The bytes of all disks of those of these points that are there, or of a sample of them."""
        total = 0
        for point in points:
            with suppress(PointUnknown, StateUnreadable):
                sizes = [disk.disk_bytes for disk in self._find(point)[0].disks]
                total += sum(sample.bytes_of(size) if sample else size for size in sizes)
        return total

    def verify(self, point: PointId, progress: Progress, sample: Sample | None = None) -> dict[str, Any]:
        """Read a point, whole or a sample of it, and check it against the digests it was committed with.

        Damage degrades it, and what the shadow should still have of it is marked, so that the next cycle carries it.
        Only a point that was read whole and found good is verified: no sample makes a degraded one good again.

        Raises:
            PointDamaged: where, how many blocks. PointUnknown, PointNotVerifiable, PointBusy, GroupBroken.
        """
        with self._uses.reading(point):
            found, catalogue = self._find(point)
            if catalogue.flags(point).expiring:
                raise PointBusy(point=str(point), doing="removed")
            shadow = self._groups.get(found.group)
            keys, target = self._keyring.lookup(found.plan), self._groups.target(found.target)
            with closing(PointCheck(found, shadow, target, keys)) as check:
                checked_bytes = check.run(progress, sample)
                if check.damaged:
                    self._change(found, catalogue, state=PointState.DEGRADED, **self._verified(sample))
                    raise check.mark()
            if sample is None:
                self._change(found, catalogue, state=PointState.AVAILABLE, **self._verified(sample))
        return {"point": str(point), "disks": len(found.disks), "checked_bytes": checked_bytes, "damaged_blocks": 0}

    def recover(self, point: PointId, folder: Path, progress: Progress) -> list[RecoveredDisk]:
        """Write a point's disks into a folder; of a broken group too.

        Raises:
            PointUnknown, PointBusy, RecoveryRefused, TargetError: what is whole by then stays, the rest is removed.
        """
        with self._uses.reading(point):
            found, _ = self._find(point)
            return recover_point(found, self._groups.target(found.target), folder, progress, self._groups.storage)

    def recover_under(self, point: PointId, root: Path, job: UUID, progress: Progress) -> None:
        """Write a point's disks into a new folder below `root`, all or nothing. Again for the same job changes nothing.

        Raises: as `recover`.
        """
        with self._uses.reading(point):
            found, _ = self._find(point)
            recover_whole(found, self._groups.target(found.target), root, job, progress, self._groups.storage)

    # Change

    def preserve(self, point: PointId, *, preserved: bool) -> PointFlags:
        """Keep a point whatever its age, or no longer.

        Raises:
            PointUnknown, StateUnreadable: its file, or its flags, cannot be read. PointBusy: it is being removed.
        """
        with self._uses.reading(point):
            found, catalogue = self._find(point)
            with self._deciding:
                if catalogue.flags(point).expiring:
                    raise PointBusy(point=str(point), doing="removed")
                return self._change(found, catalogue, preserved=preserved)

    def expire(self, point: PointId) -> None:
        """Remove a point, if this connector's own rules let it go.

        Raises:
            PointKept: they do not. PointBusy: somebody is at it. PointUnknown: it is gone, or never was.
            ClockJumped: how old points are is not known. ExpiryFailed: it could not be removed, and may be asked again.
        """
        with self._uses.removing(point):
            found, catalogue = self._find(point)
            with self._deciding:
                if not catalogue.flags(point).expiring:
                    self._require_removable(found, catalogue)
                    expiry.mark(catalogue, found)
            self._finish(found, catalogue)
        log.info("recovery point expired", point=str(point), group=str(found.group))

    def finish_expiries(self) -> None:
        """Go on with what a stop or crash has left half removed. What fails is logged, and stays listed."""
        for catalogue in self._groups.catalogues():
            steps: list[Callable[[], None]] = [catalogue.remove_stray_flags]
            steps += [partial(self._finish, point, catalogue) for point in catalogue.expiring()]
            for step in steps:
                try:
                    step()
                except (DmcoreError, OSError) as error:
                    log.error("recovery point not expired", problem=str(error))
        for shadow in self._groups.all():
            _forget_old_digests(shadow)

    def _finish(self, point: Point, catalogue: Catalogue) -> None:
        target = self._groups.target(point.target)
        expiry.finish(catalogue, target, point, lambda gone, flags: self._tell(fact_of_gone(gone, flags)))
        with suppress(GroupBroken, CycleUnknown):
            _forget_old_digests(self._groups.get(point.group))

    def _require_removable(self, point: Point, catalogue: Catalogue) -> None:
        try:
            cycle = self._groups.get(point.group).state.open_cycle
        except (GroupBroken, CycleUnknown) as error:
            raise PointKept(point=str(point.id), why=str(error)) from error
        if cycle is not None and cycle.id == point.cycle:
            raise PointBusy(point=str(point.id), doing="published")
        held = [Held(each, catalogue.flags(each.id), catalogue.made_at(each.id)) for each in catalogue.all()]
        now = self._guard.now()
        if why := why_kept(point.id, held, self._retention, now):
            (asked,) = (each for each in held if each.point.id == point.id)
            raise PointKept(point=str(point.id), why=why, until=young_until(asked, self._retention, now))

    def _change(self, point: Point, catalogue: Catalogue, **changes: Any) -> PointFlags:
        flags = catalogue.change(point.id, **changes)
        self._tell(fact_of(point, flags))
        return flags

    def _verified(self, sample: Sample | None) -> dict[str, Any]:
        return {} if sample else {"verified_at": self._clock()}

    def _find(self, point: PointId) -> tuple[Point, Catalogue]:
        for catalogue in self._groups.catalogues():
            with suppress(PointUnknown):
                return catalogue.get(point), catalogue
        raise PointUnknown(point=str(point))


def _forget_old_digests(shadow: GroupShadow) -> None:
    """What no point needs; what cannot be removed is left to the next start."""
    try:
        shadow.forget_old_digests()
    except OSError as error:
        log.error("old digests not removed", group=str(shadow.group), problem=str(error))
