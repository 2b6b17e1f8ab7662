"""Extents in pages of at most 1 MiB, sorted and merged across all pages of a list."""

from collections.abc import Iterator, Sequence

import numpy as np

from dmcore.blocks import extents as ex
from dmcore.blocks.extents import EXTENT_BYTES, Extents
from dmcore.blocks.grid import Grid
from dmcore.wire.errors import ProtocolError
from dmcore.wire.records import MAX_PAYLOAD_BYTES

PAGE_EXTENTS = MAX_PAYLOAD_BYTES // EXTENT_BYTES


def page_count(extents: Extents) -> int:
    """How many pages the extents take; none for no extents."""
    return -(-len(extents) // PAGE_EXTENTS)


def pages(extents: Extents) -> Iterator[bytes]:
    """The payloads."""
    for first in range(0, len(extents), PAGE_EXTENTS):
        yield ex.to_bytes(extents[first : first + PAGE_EXTENTS])


def most_pages(grid: Grid) -> int:
    """The pages of the worst list there can be: every other block."""
    return -(-((grid.blocks + 1) // 2) // PAGE_EXTENTS)


def join(payloads: Sequence[memoryview | bytes], grid: Grid) -> Extents:
    """The extents of a peer's pages.

    Raises:
        ProtocolError: they are not sorted, merged, whole blocks inside the disk.
    """
    found = np.concatenate([ex.empty(), *(ex.from_bytes(payload) for payload in payloads)])
    try:
        tidy = grid.check(found)
    except ValueError as error:  # ExtentsInvalid is one
        raise ProtocolError(problem=str(error)) from None
    if not np.array_equal(tidy, found):
        raise ProtocolError(problem="extents are not sorted and merged")
    return tidy
