"""The seam under `BlockIO`: what a test's recording, failing or in-memory device implements."""

from collections.abc import Sequence
from typing import Protocol


class BlockIOHandler(Protocol):
    """The calls of `BlockIO`, each as the system's of the same name. They fail by raising OSError.

    An exception goes to whoever called the BlockIO, except those answered below it: EINTR of the first two is
    repeated, and EOPNOTSUPP, ENOSYS and EINVAL of `fallocate` lead down the ladder of zeros.
    """

    def pwritev(self, fd: int, buffers: Sequence[memoryview], offset: int, /) -> int:
        """Write buffers at offset; the bytes written may be fewer. The buffers live as long as the call."""

    def fallocate(self, fd: int, mode: int, offset: int, length: int, /) -> None:
        """Punch or zero a range."""

    def fdatasync(self, fd: int, /) -> None:
        """Make the file's data durable."""
