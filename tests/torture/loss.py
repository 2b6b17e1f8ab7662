"""What a power cut takes: which of the unsynced sectors, sizes and names are there afterwards."""

import random
from collections.abc import Sequence
from typing import NamedTuple

SECTOR = 512
"""What a disk writes whole or not at all."""


class Write(NamedTuple):
    """One unsynced write: its sectors as they were after it, and the file's size then. At -1: only the size."""

    seq: int
    start: int
    image: bytes
    size: int


class Loss:
    """Takes nothing: everything has just made it to the medium."""

    def keeps(self, seq: int) -> bool:
        """Whether an operation on a directory, or a size, is there."""
        return True

    def sectors(self, seq: int, count: int) -> int:
        """Which of a write's sectors are there, as bits."""
        return (1 << count) - 1

    def stale(self) -> bool:
        """Whether a sector that is part of the file but was never written holds what was there before."""
        return False

    def apply(self, durable: bytes, pending: Sequence[Write], stale: bytes) -> bytes:
        """What is left of a file."""
        data = bytearray(durable)
        for write in pending:
            if write.start < 0:
                if self.keeps(write.seq):
                    self._resize(data, write.size, stale)
            else:
                if write.size > len(data) and self.keeps(write.seq):
                    self._resize(data, write.size, stale)
                self._apply(data, write, stale)
        return bytes(data)

    def _apply(self, data: bytearray, write: Write, stale: bytes) -> None:
        count = -(-len(write.image) // SECTOR)
        kept = self.sectors(write.seq, count)
        if kept == (1 << count) - 1:
            self._resize(data, max(len(data), write.start), stale)
            data[write.start : write.start + len(write.image)] = write.image
            return
        for number in range(count):
            if kept >> number & 1:
                piece = write.image[number * SECTOR : (number + 1) * SECTOR]
                at = write.start + number * SECTOR
                self._resize(data, max(len(data), at), stale)
                data[at : at + len(piece)] = piece

    def _resize(self, data: bytearray, size: int, stale: bytes) -> None:
        if size < len(data):
            del data[size:]
        elif size > len(data):
            old = stale[len(data) : size] if stale and self.stale() else b""
            data += old + bytes(size - len(data) - len(old))


class Everything(Loss):
    """Takes all that was not synced."""

    def keeps(self, seq: int) -> bool:
        return False

    def sectors(self, seq: int, count: int) -> int:
        return 0


class Behind(Loss):
    """Writes were made in order, up to somewhere: within that one, a part of the sectors."""

    def __init__(self, rng: random.Random, seq: int) -> None:
        self.at, self.rng = seq, rng

    def keeps(self, seq: int) -> bool:
        return seq < self.at

    def sectors(self, seq: int, count: int) -> int:
        whole = (1 << count) - 1
        if seq == self.at:
            return (1 << self.rng.randint(0, count)) - 1
        return whole if seq < self.at else 0


class AllBut(Loss):
    """Only the last operation is there: the disk took it first."""

    def __init__(self, seq: int) -> None:
        self.at = seq

    def keeps(self, seq: int) -> bool:
        return seq == self.at

    def sectors(self, seq: int, count: int) -> int:
        return (1 << count) - 1 if seq == self.at else 0


class Some(Loss):
    """Each sector, size and name alone, at random; what was never written may be what was there before."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def keeps(self, seq: int) -> bool:
        return self.rng.getrandbits(1) == 1

    def sectors(self, seq: int, count: int) -> int:
        return self.rng.getrandbits(count)

    def stale(self) -> bool:
        return self.rng.getrandbits(1) == 1


class Whole(Some):
    """Each operation is there whole or not at all, at random."""

    def sectors(self, seq: int, count: int) -> int:
        return (1 << count) - 1 if self.keeps(seq) else 0


def losses(rng: random.Random, seq: int, oldest: int) -> list[Loss]:
    """The ways in which power is cut at one place, the oldest unsynced operation and the newest being these."""
    return [
        Everything(), Loss(), Behind(rng, rng.randint(oldest, seq)), AllBut(seq), Some(rng), Some(rng), Whole(rng),
    ]  # fmt: skip
