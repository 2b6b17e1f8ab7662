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
from dmcore.connector.clock_guard import ClockGuard
from dmcore.connector.errors import GroupBroken, PointBusy, PointKept
from dmcore.connector.facts import fact_of, fact_of_gone
from dmcore.connector.groups import Groups
from dmcore.connector.keyring import PlanKeyring
from dmcore.connector.recovery import Progress, RecoveredDisk, recover_point, recover_whole
from dmcore.connector.retention import Held, why_kept
from dmcore.connector.uses import PointUses
from dmcore.errors import DmcoreError
from dmcore.host.clock import Clock
from dmcore.model.ids import PointId
from dmcore.model.points import PointState
from dmcore.node.settings import RetentionSettings
from dmcore.seal.derive import digest_key
from dmcore.shadow import expiry
from dmcore.shadow.errors import CycleUnknown, PointDamaged, PointUnknown, StateUnreadable
from dmcore.shadow.points import Catalogue, Point, PointFlags
from dmcore.shadow.verify import Verifier

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

    def size_of(self, points: Sequence[PointId]) -> int:
        """The bytes of all disks of those of these points that are there."""
        total = 0
        for point in points:
            with suppress(PointUnknown, StateUnreadable):
                total += sum(disk.disk_bytes for disk in self._find(point)[0].disks)
        return total

    def verify(self, point: PointId, progress: Progress) -> dict[str, Any]:
        """Read a point whole and check it against the digests it was committed with. What is found is kept with it.

        Raises:
            PointDamaged: which disk, how many blocks. PointUnknown, PointNotVerifiable, PointBusy, GroupBroken.
        """
        with self._uses.reading(point):
            found, catalogue = self._find(point)
            if catalogue.flags(point).expiring:
                raise PointBusy(point=str(point), doing="removed")
            try:
                self._check(found, progress)
            except PointDamaged:
                self._change(found, catalogue, state=PointState.DEGRADED, verified_at=self._clock())
                raise
            self._change(found, catalogue, state=PointState.AVAILABLE, verified_at=self._clock())
        checked = sum(disk.disk_bytes for disk in found.disks)
        return {"point": str(point), "disks": len(found.disks), "checked_bytes": checked, "damaged_blocks": 0}

    def recover(self, point: PointId, folder: Path, progress: Progress) -> list[RecoveredDisk]:
        """Write a point's disks into a folder; of a broken group too.

        Raises:
            PointUnknown, PointBusy, RecoveryRefused, TargetError: what is whole by then stays, the rest is removed.
        """
        with self._uses.reading(point):
            found, _ = self._find(point)
            return recover_point(found, self._groups.target(found.target), folder, progress)

    def recover_under(self, point: PointId, root: Path, job: UUID, progress: Progress) -> None:
        """Write a point's disks into a new folder below `root`, all or nothing. Again for the same job changes nothing.

        Raises: as `recover`.
        """
        with self._uses.reading(point):
            found, _ = self._find(point)
            recover_whole(found, self._groups.target(found.target), root, job, progress)

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

    def _finish(self, point: Point, catalogue: Catalogue) -> None:
        target = self._groups.target(point.target)
        expiry.finish(catalogue, target, point, lambda gone, flags: self._tell(fact_of_gone(gone, flags)))

    def _require_removable(self, point: Point, catalogue: Catalogue) -> None:
        try:
            cycle = self._groups.get(point.group).state.open_cycle
        except (GroupBroken, CycleUnknown) as error:
            raise PointKept(point=str(point.id), why=str(error)) from error
        if cycle is not None and cycle.id == point.cycle:
            raise PointBusy(point=str(point.id), doing="published")
        held = [Held(each, catalogue.flags(each.id), catalogue.made_at(each.id)) for each in catalogue.all()]
        if why := why_kept(point.id, held, self._retention, self._guard.now()):
            raise PointKept(point=str(point.id), why=why)

    def _change(self, point: Point, catalogue: Catalogue, **changes: Any) -> PointFlags:
        flags = catalogue.change(point.id, **changes)
        self._tell(fact_of(point, flags))
        return flags

    def _check(self, point: Point, progress: Progress) -> None:
        shadow = self._groups.get(point.group)
        keys = self._keyring.lookup(point.plan)
        maps = shadow.maps_of(point)
        try:
            for disk in point.disks:
                root = keys(shadow.state.images[disk.disk].dek_version).digest_root
                with closing(self._groups.target(point.target).open_snapshot(disk.snapshot)) as image:
                    bad = Verifier(image, maps[disk.disk], digest_key(root, disk.disk)).run(progress)
                if len(bad):
                    blocks = -(-int(bad[:, 1].sum()) // disk.block_bytes)
                    raise PointDamaged(point=str(point.id), disk=str(disk.disk), blocks=blocks, offset=int(bad[0, 0]))
        finally:
            for digest_map in maps.values():
                digest_map.close()

    def _find(self, point: PointId) -> tuple[Point, Catalogue]:
        for catalogue in self._groups.catalogues():
            with suppress(PointUnknown):
                return catalogue.get(point), catalogue
        raise PointUnknown(point=str(point))
