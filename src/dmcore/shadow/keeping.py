"""Which cycles keep what they overwrite of a map, and until when (docs/staging-log.md, section 6)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dmcore.model.enums import Rung
from dmcore.model.ids import DiskId
from dmcore.model.phase import Phase
from dmcore.native.batches import OpenedBatch
from dmcore.shadow.digestmap import DigestMap
from dmcore.shadow.kit import GroupKit
from dmcore.shadow.old_digests import OldDigests, cut_torn, file_of, forget
from dmcore.shadow.points import Catalogue
from dmcore.shadow.redo import KeepOld
from dmcore.shadow.state import Cycle, GroupState

WRITING = frozenset({Phase.RECEIVING, Phase.SEALED, Phase.DROPPING})
"""The phases in which a map is written under the cycle's own number; later it is the next one's."""


@contextmanager
def keeping(kit: GroupKit, cycle: Cycle, disk: DiskId, digest_map: DigestMap) -> Iterator[KeepOld | None]:
    """What a redo calls before it writes a map; None: there is no point that could need it.

    A seed's disk is in no point. The file is made when there is something to keep.
    """
    if cycle.disks[disk].rung is Rung.SEED or not Catalogue(kit.storage, kit.places.points).count():
        yield None
        return
    held: list[OldDigests] = []

    def keep(batches: Sequence[OpenedBatch]) -> None:
        if not held:
            held.append(OldDigests(kit.storage, file_of(kit.places.old_digests(disk), cycle.number), digest_map))
        held[0].keep([batch.rows for batch in batches])

    try:
        yield keep
    finally:
        for old in held:
            old.close()


def next_number(state: GroupState) -> int:
    """Under which number something is overwritten now: the running cycle's, or the next one's."""
    cycle = state.cycle
    return cycle.number if cycle and cycle.phase in WRITING else state.cycles + 1


def cut_unfinished(kit: GroupKit, state: GroupState) -> None:
    """Cut what a crash has left of a record that was being kept. Older files are whole, or damaged."""
    for disk in kit.storage.names(kit.places.old):
        for number in {next_number(state), state.cycles + 1}:
            cut_torn(kit.storage, file_of(kit.places.old / disk, number))


def forget_unneeded(kit: GroupKit, catalogue: Catalogue) -> None:
    """Remove what no point needs any more. A point that cannot be read may need everything. Raises OSError."""

    def points() -> Iterator[int]:
        count, readable = catalogue.count(), catalogue.all()
        yield from (point.number for point in readable)
        yield from [0] * (count - len(readable))

    for disk in kit.storage.names(kit.places.old):
        forget(kit.storage, kit.places.old / disk, points())
