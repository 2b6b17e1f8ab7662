"""The digest map that a point was committed with: the newest map, and what every later cycle has overwritten of it."""

from pathlib import Path

from dmcore.blocks.grid import Grid
from dmcore.shadow import old_digests
from dmcore.shadow.digestmap import DigestMap
from dmcore.shadow.storage import Storage


def past_map(storage: Storage, newest: DigestMap, folder: Path, number: int, grid: Grid, unfinished: int) -> DigestMap:
    """A disk's map as the cycle of this number has left it, of a disk of this grid: a copy, the caller's to close.

    The newest map may be written meanwhile, by a cycle after that one: first it is copied, then what was overwritten
    is read, and that is kept before it is overwritten.

    Raises:
        StateUnreadable: what an earlier cycle has kept is damaged. OSError: it could not be made.
    """
    held = newest.copy(grid)
    try:
        for later in reversed(old_digests.numbers(storage, folder)):
            if later <= number:
                break
            path = old_digests.file_of(folder, later)
            for record in old_digests.records(storage, path, torn=later >= unfinished):
                held.put(record.runs, record.digests)
    except BaseException:
        held.close()
        raise
    return held
