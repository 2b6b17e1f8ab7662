"""The extents that a cycle has of one disk, growing batch by batch; a block appears in it once."""

import numpy as np

from dmcore.blocks import extents as ex
from dmcore.blocks.extents import Extents


class Coverage:
    """Grows in time that follows what is added, not what is there: a stream's batches come in ascending order.

    `_base` is merged; `_run` holds what came since, each piece behind the one before, until an earlier one comes.
    """

    def __init__(self, extents: Extents | None = None) -> None:
        self._base = ex.empty() if extents is None else ex.normalize(extents)
        self._base_ends = self._base.sum(axis=1)
        self._run: list[Extents] = []
        self._run_end = 0

    def add(self, extents: Extents) -> int | None:
        """Add a batch's extents, unless a byte is there already: then nothing is added, and its offset is returned."""
        tidy = ex.normalize(extents)
        if ex.total_bytes(tidy) != ex.total_bytes(extents):
            return _first_repeated(extents)
        if not len(tidy):
            return None
        if tidy[0, 0] < self._run_end:
            self._merge()
        repeated = ex.intersect(self._near(tidy), tidy)
        if len(repeated):
            return int(repeated[0, 0])
        self._run.append(tidy)
        self._run_end = int(tidy[-1].sum())
        return None

    def extents(self) -> Extents:
        """Everything so far: sorted and merged."""
        self._merge()
        return self._base

    def _near(self, tidy: Extents) -> Extents:
        """The base's extents that could touch these."""
        first = int(np.searchsorted(self._base_ends, tidy[0, 0], side="right"))
        last = int(np.searchsorted(self._base[:, 0], tidy[-1].sum(), side="left"))
        return np.ascontiguousarray(self._base[first:last])

    def _merge(self) -> None:
        if self._run:
            self._base = ex.normalize(np.concatenate([self._base, *self._run]))
            self._base_ends = self._base.sum(axis=1)
            self._run, self._run_end = [], 0


def _first_repeated(extents: Extents) -> int:
    ordered = extents[np.argsort(extents[:, 0], kind="stable")]
    ends = np.maximum.accumulate(ordered[:, 0] + ordered[:, 1])
    return int(ordered[1:][ordered[1:, 0] < ends[:-1]][0, 0])
