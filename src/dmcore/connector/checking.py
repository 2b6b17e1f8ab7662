"""One verification of a point: its disks read, the damage named, logged and marked."""

from collections.abc import Iterator
from contextlib import closing
from itertools import islice

import structlog

from dmcore.connector.recovery import Progress
from dmcore.errors import DmcoreError
from dmcore.model.ids import DiskId
from dmcore.seal.derive import digest_key
from dmcore.shadow.errors import PointDamaged
from dmcore.shadow.group import GroupShadow
from dmcore.shadow.marking import Damage
from dmcore.shadow.points import Point, PointDisk
from dmcore.shadow.receiver import KeyLookup
from dmcore.shadow.verify import Sample, Verifier
from dmcore.targets.base import Target

NAMED = 32
"""Runs of damaged blocks that are named: an operator looks at some, not at a million."""
MARK_WAIT_S = 30.0

log = structlog.get_logger()


class PointCheck:
    """Used once, by one thread, which closes it."""

    def __init__(self, point: Point, shadow: GroupShadow, target: Target, keys: KeyLookup) -> None:
        """Raises PointNotVerifiable, StateUnreadable."""
        self._point, self._shadow, self._target, self._keys = point, shadow, target, keys
        self._maps = shadow.maps_of(point)
        self.damaged: dict[DiskId, Damage] = {}

    def run(self, progress: Progress, sample: Sample | None) -> int:
        """Check every disk, whole or a sample of it. Returns how many bytes were checked."""
        checked_bytes = 0

        def count(length: int) -> None:
            nonlocal checked_bytes
            checked_bytes += length
            progress(length)

        for disk in self._point.disks:
            self._check(disk, count, sample)
        return checked_bytes

    def mark(self) -> PointDamaged:
        """Log the damage, mark what the newest shadow should have of it, and give the error that says so."""
        blocks = sum(self._blocks(disk) for disk in self._point.disks)
        where = "; ".join(islice(self._runs(), NAMED))
        marked = self._mark()
        error = PointDamaged(point=str(self._point.id), blocks=blocks, marked=marked, where=where)
        log.error("recovery point damaged", point=str(self._point.id), blocks=blocks, marked=marked, where=where)
        return error

    def close(self) -> None:
        """Close the maps."""
        for digest_map in self._maps.values():
            digest_map.close()

    def _check(self, disk: PointDisk, progress: Progress, sample: Sample | None) -> None:
        digest_map = self._maps[disk.disk]
        root = self._keys(self._shadow.state.images[disk.disk].dek_version).digest_root
        chosen = sample.of(digest_map.grid, disk.disk.bytes) if sample else None
        with closing(self._target.open_snapshot(disk.snapshot)) as image:
            found = Verifier(image, digest_map, digest_key(root, disk.disk)).run(progress, chosen)
        if len(found):
            self.damaged[disk.disk] = Damage(found, digest_map)

    def _mark(self) -> int:
        try:
            return self._shadow.mark_damaged(self.damaged, MARK_WAIT_S)
        except (DmcoreError, OSError) as error:
            log.error("damage not marked: verify the point again", point=str(self._point.id), problem=str(error))
            return 0

    def _blocks(self, disk: PointDisk) -> int:
        found = self.damaged.get(disk.disk)
        return 0 if found is None else int((-(-found.extents[:, 1] // disk.block_bytes)).sum())

    def _runs(self) -> Iterator[str]:
        for disk in self._point.disks:
            if disk.disk in self.damaged:
                for offset, length in self.damaged[disk.disk].extents.tolist():
                    yield f"disk {disk.disk}: {-(-length // disk.block_bytes)} blocks at offset {offset}"
