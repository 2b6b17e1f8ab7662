"""What a source holds over some cycles, and what an appliance does with it: the scenarios of the crash states.

All of it is decided by a seed. Blocks are named by number; a set of them is the bits of an int, so that it can be
compared, kept and hashed cheaply.
"""

import random
from dataclasses import dataclass, field, replace

from dmcore.blocks.extents import Extents
from dmcore.model.ids import CycleId, DiskId, ImageId, image_of
from tests.shadow.group_lab import BLOCK, DISK_A, DISK_B, cycle_id

TWIN = 100
MAX_BLOCKS = 16
BATCH_BLOCKS = 3
QUOTAS = (14, 28)
"""In blocks; two logs of one batch each take 10, and what a crash has torn off must fit beside them."""

Mask = int
Content = dict[DiskId, bytes]


@dataclass(frozen=True)
class Part:
    """One cycle of a story."""

    number: int
    content: Content
    """What the source holds at it: of some disks of the group, or all."""
    spoiled: bool = False
    """Its frames do not open: digests that are not the blocks' own, under right tags."""
    left: bool = False
    """It is begun, sent in part, and given up for the next one."""


def blocks_of(mask: Mask) -> list[int]:
    return [number for number in range(mask.bit_length()) if mask >> number & 1]


def mask_of(extents: Extents) -> Mask:
    found = 0
    for offset, length in extents.tolist():
        first, end = offset // BLOCK, -(-(offset + length) // BLOCK)
        found |= (1 << end) - (1 << first)
    return found


def whole(content: bytes) -> Mask:
    return (1 << -(-len(content) // BLOCK)) - 1


def differing(a: bytes, b: bytes) -> Mask:
    """Of two contents the blocks that differ."""
    return sum(1 << at // BLOCK for at in range(0, len(b), BLOCK) if a[at : at + BLOCK] != b[at : at + BLOCK])


def id_of(part: Part) -> CycleId:
    return cycle_id(part.number)


@dataclass
class Story:
    """Cycles in order, and how they are sent."""

    rng: random.Random
    parts: dict[int, Part] = field(default_factory=dict)
    batch_blocks: int = 2
    batches_a_sync: int = 1
    going_direct: float = 0.0
    """How likely a disk goes direct, at each acknowledgement."""
    draining: float = 0.0
    """How likely what is direct is drained, at each acknowledgement."""
    shrinking: int = 4
    """How much of a block shrinks to nothing."""
    rounds: int = 1
    """How many batches of each disk are acknowledged before a cycle is left."""
    changing: int = 3
    """How many blocks of a disk change at most between two cycles."""
    quota_bytes: int | None = None
    """What may be staged."""
    sizes: dict[DiskId, int] = field(default_factory=dict)

    def content(self, image: ImageId, disk: DiskId) -> bytes | None:
        """What a disk's image should be; None if no cycle of the story made it."""
        return self.images.get((image, disk))

    def __post_init__(self) -> None:
        self.images: dict[tuple[ImageId, DiskId], bytes] = {}

    def twin(self, number: int) -> Part:
        """The same content as another cycle: of a second snapshot, where the first one is gone."""
        part = self.parts[number]
        twin = replace(part, number=number + TWIN)
        for disk, held in twin.content.items():
            self.images[image_of(id_of(twin)), disk] = held
        return twin

    def add(self, *, spoiled: bool = False, left: bool = False) -> None:
        """Another cycle: some blocks have changed, some of them to zeros, sometimes none of a disk."""
        number = len(self.parts) + 1
        before = self.parts[number - 1].content if number > 1 else {d: bytes(s) for d, s in self.sizes.items()}
        most = self.changing if number > 1 else MAX_BLOCKS
        after = {disk: self._changed(held, self.rng.randint(0, most)) for disk, held in before.items()}
        self.parts[number] = Part(number, after, spoiled, left)
        for disk, held in after.items():
            self.images[image_of(cycle_id(number)), disk] = held

    def _changed(self, held: bytes, count: int) -> bytes:
        data = bytearray(held)
        for _ in range(count):
            at = self.rng.randrange(0, len(held), BLOCK)
            length = min(BLOCK, len(held) - at)
            fresh = bytes(length) if self.rng.random() < 0.25 else self._block(length)
            data[at : at + length] = fresh
        return bytes(data)

    def _block(self, length: int) -> bytes:
        """A part of it does not shrink: a sealed block takes a few sectors, and each that is torn is told."""
        noise = self.rng.randbytes(length // self.shrinking)
        return noise + bytes(length - len(noise))


def a_story(seed: int) -> Story:
    """A seed, then deltas, with cycles that fail or are given up among them."""
    rng = random.Random(seed)
    sizes = {
        disk: rng.randint(2, 10) * BLOCK + rng.choice((0, 0, 512)) for disk in (DISK_A, DISK_B)[: rng.randint(1, 2)]
    }
    story = Story(
        rng, batch_blocks=rng.randint(1, BATCH_BLOCKS), batches_a_sync=rng.randint(1, 2),
        going_direct=rng.choice((0.0, 0.0, 0.3)), draining=rng.choice((0.0, 0.5, 1.0, 1.0)),
        shrinking=rng.choice((2, 4)), rounds=rng.randint(1, 4), changing=rng.choice((3, 3, 12)),
        sizes=sizes,
    )  # fmt: skip
    if rng.random() < 0.3:
        story.quota_bytes = rng.randint(*QUOTAS) * 4096
    for kind in rng.choice(STORIES):
        story.add(spoiled=kind == "spoiled", left=kind == "left")
    return story


STORIES = (
    ("point", "point"),
    ("point", "point", "point"),
    ("left", "point", "point"),
    ("point", "left", "point"),
    ("point", "spoiled", "point"),
    ("spoiled", "point"),
    ("point", "left", "left", "point"),
)
