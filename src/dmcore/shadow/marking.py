"""What a verification has found damaged is marked unknown, where the shadow should still be the same there.

Any crash leaves it harmless: first the old digests are kept, then the state says how many blocks are unknown (too many
are only looked for), then the map is written. So there is never an unknown block that the next cycle is not told of.
"""

from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from dmcore.blocks import extents as ex
from dmcore.blocks.extents import Extents
from dmcore.blocks.grid import Grid
from dmcore.model.ids import DiskId
from dmcore.model.phase import Phase
from dmcore.shadow.digestmap import WINDOW_BLOCKS, DigestMap
from dmcore.shadow.keeping import next_number
from dmcore.shadow.kit import GroupKit
from dmcore.shadow.old_digests import OldDigests, file_of
from dmcore.shadow.state import GroupState

STILL = frozenset({Phase.SNAPSHOTTED, Phase.PUBLISHED})
"""The phases of an open cycle in which its point is made, and nothing writes a map."""


@dataclass(frozen=True)
class Damage:
    """Of one disk of a point."""

    extents: Extents
    """Whole blocks."""
    digest_map: DigestMap
    """What the point was committed with."""


def may_mark(state: GroupState, disks: Collection[DiskId]) -> bool:
    """Whether nothing writes the maps of these disks, or is about to make a point of them."""
    cycle = state.open_cycle
    if cycle is None or cycle.phase in STILL:
        return True
    return cycle.phase is Phase.RECEIVING and not set(disks) & set(cycle.direct_disks)


class Marking:
    """One mark of some disks. `prepare`, save the state that it gives, `write`; nothing else goes on meanwhile."""

    def __init__(self, kit: GroupKit, state: GroupState, damaged: Mapping[DiskId, Damage]) -> None:
        self._kit, self._state = kit, state
        found = {disk: self._still_expected(disk, damage) for disk, damage in damaged.items()}
        self._marks = {disk: marks for disk, marks in found.items() if len(marks)}

    @property
    def blocks(self) -> int:
        """How many are marked."""
        return sum(self._blocks(disk) for disk in self._marks)

    def prepare(self) -> GroupState:
        """Keep the old digests, durably. Returns the state to save. Raises OSError."""
        number, images = next_number(self._state), dict(self._state.images)
        for disk, marks in self._marks.items():
            with closing(self._map(disk)) as digest_map:
                path = file_of(self._kit.places.old_digests(disk), number)
                with closing(OldDigests(self._kit.storage, path, digest_map)) as old:
                    old.keep([marks])
            unknown = images[disk].unknown_blocks + self._blocks(disk)
            images[disk] = images[disk].model_copy(update={"unknown_blocks": unknown})
        return self._state.with_images(images)

    def write(self) -> None:
        """Mark them, durably. Raises OSError."""
        for disk, marks in self._marks.items():
            with closing(self._map(disk)) as digest_map:
                for offset, length in marks.tolist():
                    digest_map.set_unknown(offset, length)
                digest_map.flush()

    def _still_expected(self, disk: DiskId, damage: Damage) -> Extents:
        """The damaged blocks of which the newest map says what the point's map says."""
        with closing(self._map(disk)) as newest:
            size, found = newest.grid.block_bytes, [ex.empty()]
            for offset, length in ex.split(damage.extents, WINDOW_BLOCKS * size).tolist():
                first, count = offset // size, -(-length // size)
                same = (newest.read(first, count) == damage.digest_map.read(first, count)).all(axis=1)
                offsets = (first + np.flatnonzero(same)) * size
                found.append(np.stack([offsets, np.minimum(size, newest.grid.disk_bytes - offsets)], axis=1))
        return ex.normalize(np.concatenate(found))

    def _blocks(self, disk: DiskId) -> int:
        return int((-(-self._marks[disk][:, 1] // self._state.images[disk].block_bytes)).sum())

    def _map(self, disk: DiskId) -> DigestMap:
        image = self._state.images[disk]
        grid = Grid(image.disk_bytes, image.block_bytes)
        return DigestMap(self._kit.storage, self._kit.places.digest_map(disk), grid)
