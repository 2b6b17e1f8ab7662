"""Extents as values: `(n, 2)` int64 arrays of (offset, length), sorted and merged unless said otherwise."""

import hashlib
from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dmcore.native import extents as native

Extents: TypeAlias = NDArray[np.int64]

EXTENT_BYTES = 16
"""An extent on the wire, in the log and under the coverage hash: offset(8) length(8), big-endian."""

normalize = native.normalize
align = native.align
union = native.union
subtract = native.subtract
intersect = native.intersect
split = native.split
total_bytes = native.total_bytes


def empty() -> Extents:
    """No bytes at all."""
    return np.empty((0, 2), dtype=np.int64)


def from_pairs(pairs: Iterable[tuple[int, int]]) -> Extents:
    """Sorted, merged extents of any (offset, length) pairs."""
    return normalize(np.array(list(pairs), dtype=np.int64).reshape(-1, 2))


def whole(disk_bytes: int) -> Extents:
    """The extents of a whole disk."""
    return from_pairs([(0, disk_bytes)])


def to_bytes(extents: Extents) -> bytes:
    """The packed big-endian form."""
    return extents.astype(">i8").tobytes()


def from_bytes(packed: bytes | bytearray | memoryview) -> Extents:
    """Read the packed form back, as it stands. The numbers are the peer's: check them against a grid before use.

    Raises:
        ExtentsInvalid: the length is no multiple of 16.
    """
    if len(packed) % EXTENT_BYTES:
        raise native.ExtentsInvalid(problem=f"{len(packed)} bytes are no whole number of extents")
    return np.frombuffer(packed, dtype=">i8").astype(np.int64).reshape(-1, 2)


def coverage_hash(extents: Extents) -> bytes:
    """SHA-256 over merged, sorted extents: what `commit` names (docs/protocol.md)."""
    return hashlib.sha256(to_bytes(normalize(extents))).digest()
