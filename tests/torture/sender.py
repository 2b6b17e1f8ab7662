"""What an appliance does with a cycle: how it is planned, which blocks it carries, and one disk's stream."""

from collections.abc import Callable, Iterator

import numpy as np

from dmcore.blocks import extents as ex
from dmcore.blocks.grid import Grid
from dmcore.model.enums import Reason, Rung
from dmcore.model.ids import DiskId
from dmcore.native.digests import Scanner
from dmcore.native.sealing import worst_case_bytes
from dmcore.seal import derive
from dmcore.seal.header import StreamHeader
from dmcore.seal.stream import Codec, StreamWriter
from dmcore.shadow.errors import StagingFull
from dmcore.shadow.group import GroupShadow
from dmcore.shadow.state import Cycle, CycleDisk
from tests.shadow.group_lab import BLOCK, KEYS, PLAN, WRAPPED, a_cycle
from tests.torture.story import BATCH_BLOCKS, Mask, Part, Story, blocks_of, differing, mask_of, whole

OUT_BYTES = worst_case_bytes(BATCH_BLOCKS, BLOCK)
WRONG_DIGESTS = np.full((BATCH_BLOCKS, 16), 1, dtype=np.uint8)


class Sender:
    """One attempt at one disk."""

    def __init__(
        self, shadow: GroupShadow, cycle: Cycle, disk: DiskId, part: Part, full: Callable[[DiskId], bool]
    ) -> None:
        """`full` is called when there was no room, makes some, and says whether to ask again."""
        self.full = full
        self.receiver, self.attempt = shadow.open(cycle.id, cycle.epoch, disk)
        self.plan, self.part, self.disk = cycle.disks[disk], part, disk
        self.cycle = cycle
        self.durable = mask_of(self.receiver.durable())
        self.unsynced = 0

    def batches(self, missing: Mask, batch_blocks: int, batches_a_sync: int) -> Iterator[Mask]:
        """Send these blocks, as a stream; what is durable so far is given after each acknowledgement."""
        if not missing:
            return
        self._start()
        blocks = blocks_of(missing)
        for number, at in enumerate(range(0, len(blocks), batch_blocks), 1):
            chosen = blocks[at : at + batch_blocks]
            self._append(self._seal(chosen))
            self.unsynced |= sum(1 << block for block in chosen)
            if number % batches_a_sync == 0:
                yield self._sync()
        self._append(self.writer.final(self.out))
        yield self._sync()

    def _start(self) -> None:
        plan, cycle = self.plan, self.cycle
        header = StreamHeader(
            1, PLAN, self.disk, cycle.id, cycle.epoch, self.attempt, plan.disk_bytes, plan.block_bytes, plan.base_image
        )
        self.writer = StreamWriter(header, KEYS.dek, derive.digest_key(KEYS.digest_root, self.disk), Codec.LZ4)
        self.out = bytearray(OUT_BYTES)
        header = self.writer.header
        self._patiently(lambda again: self.receiver.start(self.attempt, header, WRAPPED))
        self._append(self.writer.open(self.out))

    def _seal(self, blocks: list[int]) -> int:
        content = self.part.content[self.disk]
        raw = b"".join(content[b * BLOCK : (b + 1) * BLOCK] for b in blocks)
        chosen = np.array(blocks, dtype=np.int64)
        digests = WRONG_DIGESTS[: len(blocks)] if self.part.spoiled else None
        return self.writer.seal(chosen, raw, self.out, digests=digests).used

    def _append(self, used: int) -> None:
        data = bytes(self.out[:used])
        receiver, attempt = self.receiver, self.attempt
        self._patiently(lambda again: (receiver.append_again if again else receiver.append)(attempt, data))

    def _patiently(self, bring: Callable[[bool], object]) -> None:
        again = False
        while True:
            try:
                bring(again)
            except StagingFull:
                if not self.receiver.waits or not self.full(self.disk):
                    raise
                again = True
            else:
                return

    def _sync(self) -> Mask:
        """What is acknowledged now, as the receiver has counted it."""
        self.receiver.sync(self.attempt)
        self.durable |= self.unsynced
        self.unsynced = 0
        return self.durable


def plan_cycle(shadow: GroupShadow, part: Part) -> Cycle:
    """How the appliance begins a cycle: on the rung that the shadow allows, under the next epoch."""
    disks = {disk: plan_disk(shadow, part, disk) for disk in part.content}
    return a_cycle(part.number, shadow.state.epoch + 1, disks)


def plan_disk(shadow: GroupShadow, part: Part, disk: DiskId) -> CycleDisk:
    image = shadow.state.images.get(disk)
    if image is None:
        rung, reason = Rung.SEED, Reason.NO_IMAGE
    elif image.token is None:
        rung, reason = Rung.COMPARE, Reason.NO_TOKEN
    else:
        rung, reason = Rung.DELTA, Reason.TRACKED
    return CycleDisk(
        machine="vm", label=f"disk-{disk.int:x}", disk_bytes=len(part.content[disk]), block_bytes=BLOCK, rung=rung,
        reason=reason, base_image=shadow.state.image_of(disk), next_token=f"token-{part.number}", dek_version=1,
    )  # fmt: skip


def needed(shadow: GroupShadow, story: Story, part: Part, disk: DiskId, plan: CycleDisk) -> Mask:
    """The blocks that a cycle has to carry of a disk."""
    content = part.content[disk]
    if plan.rung is Rung.SEED:
        return whole(content)
    digest_map = shadow.digest_map(disk)
    try:
        if plan.rung is Rung.COMPARE:
            expected, held = digests_of(disk, content), digest_map.read(0, digest_map.grid.blocks)
            return sum(1 << block for block, digest in enumerate(expected) if held[block].tobytes() != digest)
        base = story.content(plan.base_image, disk)
        assert base is not None
        unknown = mask_of(digest_map.unknown()) if shadow.state.images[disk].unknown_blocks else 0
        return differing(base, content) | unknown
    finally:
        digest_map.close()


_digests: dict[tuple[DiskId, bytes], list[bytes]] = {}


def digests_of(disk: DiskId, content: bytes) -> list[bytes]:
    """The digest of each block."""
    known = _digests.get((disk, content))
    if known is None:
        scanner = Scanner(derive.digest_key(KEYS.digest_root, disk), block_bytes=BLOCK, disk_bytes=len(content))
        blocks = np.arange(-(-len(content) // BLOCK), dtype=np.int64)
        known = _digests[disk, content] = [row.tobytes() for row in scanner.scan(blocks, content)[0]]
        if len(_digests) > 20_000:
            _digests.clear()
    return known


def named(mask: Mask, disk_bytes: int) -> bytes:
    """How `commit` names a coverage."""
    grid = Grid(disk_bytes, BLOCK)
    return ex.coverage_hash(ex.from_pairs((b * BLOCK, grid.length(b)) for b in blocks_of(mask)))
