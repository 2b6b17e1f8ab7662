"""The grid: a disk cut into blocks of one size, the last of which may be short."""

from dataclasses import dataclass

from dmcore.blocks import extents as ex
from dmcore.blocks.constants import DEFAULT_BLOCK_BYTES, MAX_BLOCK_BYTES, MIN_BLOCK_BYTES
from dmcore.blocks.extents import Extents
from dmcore.native.errors import ExtentsInvalid


@dataclass(frozen=True)
class Grid:
    """A disk's size and block size.

    Raises:
        ExtentsInvalid: the block size is no power of two from 4 KiB to 4 MiB, or the disk is empty.
    """

    disk_bytes: int
    block_bytes: int = DEFAULT_BLOCK_BYTES

    def __post_init__(self) -> None:
        power_of_two = self.block_bytes & (self.block_bytes - 1) == 0
        if not power_of_two or not MIN_BLOCK_BYTES <= self.block_bytes <= MAX_BLOCK_BYTES:
            raise ExtentsInvalid(problem=f"a block of {self.block_bytes} bytes is no power of two from 4 KiB to 4 MiB")
        if not 0 < self.disk_bytes < 1 << 63:
            raise ExtentsInvalid(problem=f"a disk of {self.disk_bytes} bytes")

    @property
    def blocks(self) -> int:
        """How many blocks the disk has, the short one included."""
        return -(-self.disk_bytes // self.block_bytes)

    def length(self, block: int) -> int:
        """The bytes of one block."""
        return min(self.block_bytes, self.disk_bytes - block * self.block_bytes)

    def align(self, extents: Extents) -> Extents:
        """Widen extents to whole blocks, clipped to the disk's end; sorted and merged."""
        return ex.align(extents, self.block_bytes, self.disk_bytes)

    def check(self, extents: Extents) -> Extents:
        """Give back a peer's extents, sorted and merged, if they are whole blocks inside the disk.

        Raises:
            ExtentsInvalid: they are not.
        """
        tidy = ex.normalize(extents)
        if len(tidy) and int(tidy[-1].sum()) > self.disk_bytes:
            raise ExtentsInvalid(problem=f"extent ends at {int(tidy[-1].sum())} of a disk of {self.disk_bytes} bytes")
        if ex.total_bytes(self.align(tidy)) != ex.total_bytes(tidy):
            raise ExtentsInvalid(problem=f"extents are not on the grid of {self.block_bytes} bytes")
        return tidy
