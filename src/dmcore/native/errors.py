"""What the native core refuses. A peer's numbers are named in the error; plaintext and keys never are."""

from dataclasses import dataclass

from dmcore.errors import DmcoreError, IntegrityError


@dataclass(eq=False)
class ExtentsInvalid(DmcoreError, ValueError):
    """An extent is negative, overflows 63 bits or the array has not the shape (n, 2)."""

    code = "extents.invalid"
    template = "extents: {problem}"
    problem: str


@dataclass(eq=False)
class FrameRefused(IntegrityError):
    """A frame failed a check before it was logged or written (docs/format.md section 8)."""

    code = "frame.refused"
    template = "frame {index} of batch {batch} at offset {offset}: {problem}"
    problem: str
    batch: int = 0
    index: int = 0
    offset: int = 0


@dataclass(eq=False)
class TagMismatch(FrameRefused):
    """A frame's authentication tag is wrong: altered, cut, moved, or sealed for another stream."""

    code = "frame.tag"


@dataclass(eq=False)
class SealFailed(DmcoreError):
    """A library call failed while sealing; the stream must end, its batch number is spent."""

    code = "seal.failed"
    template = "sealing batch {batch}: {problem}"
    problem: str
    batch: int = 0
