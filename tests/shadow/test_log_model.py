"""A disk's log against a model, on a medium with a volatile cache: what was acknowledged is there, and nothing else.

Appends, syncs, failures, lack of room, kills, power cuts (in recovery too), checkpoints, reclaimed and recycled
segments, cycle after cycle, in any order. Only the streams are fake: a batch says which block it covers, without keys.
"""

import contextlib
import errno
import functools
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dmcore.blocks import extents as ex
from dmcore.blocks.extents import Extents
from dmcore.model.ids import CycleId, DiskId, PlanId
from dmcore.seal.header import StreamHeader
from dmcore.seal.stream import StreamReader
from dmcore.shadow import allocating, segments
from dmcore.shadow.checkpoint import Checkpoint, load_checkpoint
from dmcore.shadow.errors import LogPoisoned, StagingFull, StagingReadOnly
from dmcore.shadow.log import LogWriter
from dmcore.shadow.records import RecordType, StreamRecord
from dmcore.shadow.segments import LogReader, SegmentStart
from dmcore.shadow.staged import StagedDisk
from dmcore.shadow.staging import StagingRoom
from tests.torture.loss import losses
from tests.torture.medium import Medium
from tests.torture.memory_storage import ROOM_BYTES, MemoryStorage

BLOCK = 4096
DISK = DiskId(UUID(int=2))
STAGING = Path("/staging")
FAILURES = (LogPoisoned, StagingFull, StagingReadOnly)


Rule = Callable[..., None]


class PowerCut(BaseException):
    """The process ends here."""


@dataclass
class Verified:
    extents: Extents


@dataclass
class FakeStream:
    """A stream whose batches name the block that they cover."""

    header: StreamHeader
    next_batch: int = 0

    def verify(self, data: bytes) -> Verified:
        self.next_batch += 1
        return Verified(ex.from_pairs([(block_of(data) * BLOCK, BLOCK)]))

    def end(self) -> None:
        pass


def block_of(body: bytes | memoryview) -> int:
    return int.from_bytes(bytes(body[:8]), "big")


def a_batch(block: int, size: int) -> bytes:
    """What block this is of, then what no other has."""
    return block.to_bytes(8, "big") + random.Random(block).randbytes(size)


def survived(act: Rule) -> Rule:
    """The power may go in the middle of it; then the next start goes on."""

    @functools.wraps(act)
    def run(self: "LogModel", **drawn: Any) -> None:
        try:
            act(self, **drawn)
        except PowerCut:
            self.power_cut(self.rng.randrange(7))
            self.go_on()

    return run


@dataclass
class Sent:
    """One cycle as the sender knows it."""

    bodies: dict[int, bytes] = field(default_factory=dict)
    """What was brought to the log, by block."""
    acknowledged: set[int] = field(default_factory=set)
    order: list[int] = field(default_factory=list)
    """The blocks in the order in which the log has them."""


class LogModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.patches = pytest.MonkeyPatch()
        self.patches.setattr(segments, "SEGMENT_BYTES", 2048)
        self.patches.setattr(allocating, "FIRST_BYTES", 512)
        self.patches.setattr(allocating, "UNIT_BYTES", 512)
        self.rng = random.Random(0)
        self.blocks = self.cycles = self.attempts = 0
        self.armed: tuple[str, int] | None = None
        self.cut_after: int | None = None
        self.ended: list[Path] = []
        self.restart(Medium())
        self.storage.make_dir(STAGING)
        self.new_cycle()

    def teardown(self) -> None:
        self.patches.undo()

    # The machine

    def restart(self, medium: Medium) -> None:
        """A process begins on what is there."""
        medium.before = self.before
        self.medium = medium
        self.storage = MemoryStorage(medium)
        self.room = StagingRoom.open(self.storage, STAGING)

    def before(self, what: str) -> None:
        if self.cut_after is not None:
            self.cut_after -= 1
            if self.cut_after < 0:
                raise PowerCut
        if self.armed is not None and what.startswith(self.armed[0]):
            code, self.armed = self.armed[1], None
            raise OSError(code, os.strerror(code))

    def power_cut(self, loss: int) -> None:
        """The medium, without some of what was not synced."""
        self.cut_after = self.armed = None
        unsynced = self.medium.unsynced()
        oldest = min(unsynced, default=self.medium.seq)
        ways = losses(self.rng, self.medium.seq, oldest)
        self.restart(Medium(self.medium.cut(ways[loss % len(ways)])))
        self.staged = self.stage()

    @property
    def folder(self) -> Path:
        return STAGING / "group" / f"cycle-{self.cycles}" / "disk"

    def stage(self) -> StagedDisk:
        def open_stream(header: StreamHeader, first: int) -> StreamReader:
            return cast("StreamReader", FakeStream(header, first))

        self.stream: FakeStream | None = None
        return StagedDisk(self.storage, self.folder, DISK, open_stream, self.room)

    def new_cycle(self) -> None:
        self.cycles += 1
        self.sent = Sent()
        self.staged = self.stage()
        self.recover()

    def go_on(self) -> None:
        """As a start does: the logs of cycles that have ended go, then what is open is read back."""
        for folder in self.ended:
            self.room.remove(folder)
        if self.folder.parent in self.ended:
            self.new_cycle()
        else:
            self.recover()

    # What every recovery must give

    def recover(self) -> None:
        """As an `open` does, until it works: one failure at the most is armed."""
        try:
            self.staged.bring_durable()
        except FAILURES:
            self.staged.bring_durable()
        self.stream = None
        self.judge()

    def judge(self) -> None:
        """What is called durable: at least what was acknowledged, a run of what was sent, whole, and nothing else."""
        found = self.blocks_of(self.staged.durable.extents())
        assert self.sent.acknowledged <= found
        assert found == set(self.sent.order[: len(found)])
        self.sent.order = self.sent.order[: len(found)]
        self.sent.acknowledged = set(found)
        assert self.read_back() == self.sent.order[len(self.before_checkpoint()) :]

    def read_back(self) -> list[int]:
        """The blocks in the log behind its checkpoint, each with the very bytes that were sent."""
        reader = LogReader(self.storage, self.folder, load_checkpoint(self.storage, self.folder))
        bodies = [bytes(body) for record, body in reader.records() if record.type is RecordType.BATCH]
        for body in bodies:
            assert body == self.sent.bodies[block_of(body)]
        return [block_of(body) for body in bodies]

    def before_checkpoint(self) -> set[int]:
        checkpoint = load_checkpoint(self.storage, self.folder)
        return set() if checkpoint is None else self.blocks_of(checkpoint.covered)

    @staticmethod
    def blocks_of(extents: Extents) -> set[int]:
        return {offset // BLOCK for offset, _ in ex.split(extents, BLOCK).tolist()}

    def tried(self, act: Callable[[], Any]) -> bool:
        """Do what may fail; then the log is read again, as it is before anybody goes on."""
        try:
            act()
        except FAILURES:
            if self.log.poisoned:
                self.recover()
            return False
        return True

    @property
    def log(self) -> LogWriter:
        assert self.staged.log is not None
        return self.staged.log

    @property
    def batch_waits(self) -> bool:
        return self.staged._verified is not None

    # Rules

    @initialize(seed=st.integers(0, 1 << 32))
    def begin(self, seed: int) -> None:
        self.rng.seed(seed)

    @rule()
    @survived
    def start_stream(self) -> None:
        stream = self.a_stream()
        if self.tried(lambda: self.staged.start_stream(self.log, stream)):
            self.stream = FakeStream(stream.header)

    def a_stream(self) -> StreamRecord:
        self.attempts += 1
        header = StreamHeader(
            1, PlanId(UUID(int=1)), DISK, CycleId(UUID(int=self.cycles)), 1, self.attempts, 1 << 40,
            salt=self.attempts.to_bytes(32, "big"),
        )  # fmt: skip
        return StreamRecord(header, 0, b"keys")

    @precondition(lambda self: not self.batch_waits)
    @rule(size=st.sampled_from([0, 30, 300, 700, 1500, 2500]))
    @survived
    def append(self, size: int) -> None:
        if self.stream is None:
            self.start_stream()
        if self.stream is None:
            return
        self.blocks += 1
        block = self.blocks
        self.sent.bodies[block] = a_batch(block, size)
        self.bring(block, lambda data: self.staged.append(self.log, cast("StreamReader", self.stream), data))

    @precondition(lambda self: self.batch_waits)
    @rule()
    @survived
    def append_again(self) -> None:
        self.bring(self.blocks, lambda data: self.staged.append_again(self.log, data))

    def bring(self, block: int, append: Callable[[bytes], int]) -> None:
        """It is in the log from its write on, even if that is said to have failed."""
        self.sent.order.append(block)
        try:
            append(self.sent.bodies[block])
        except FAILURES:
            if self.log.poisoned:
                self.recover()
            else:
                self.sent.order.pop()

    @rule()
    @survived
    def sync(self) -> None:
        """And acknowledge."""
        brought = list(self.sent.order)
        if self.tried(lambda: self.staged.settle(self.log.sync())):
            self.sent.acknowledged |= set(brought)
            assert self.blocks_of(self.staged.durable.extents()) == self.sent.acknowledged

    @rule()
    @survived
    def prepare(self) -> None:
        self.tried(self.log.prepare)

    @rule()
    @survived
    def open_again(self) -> None:
        self.recover()

    @rule(what=st.sampled_from(["sync", "write", "make"]), code=st.sampled_from([errno.EIO, errno.ENOSPC, errno.EROFS]))
    def fail_the_next(self, what: str, code: int) -> None:
        self.armed = what, code

    @rule(room=st.sampled_from([0, 3000, ROOM_BYTES]))
    def have_room(self, room: int) -> None:
        self.storage.room_bytes = room

    @rule()
    def killed(self) -> None:
        """What was written stays in the cache."""
        self.armed = self.cut_after = None
        self.restart(self.medium.clone())
        self.staged = self.stage()
        self.go_on()

    @rule(loss=st.integers(0, 6), again_after=st.none() | st.integers(0, 25))
    @survived
    def power_is_cut(self, loss: int, again_after: int | None) -> None:
        self.power_cut(loss)
        self.cut_after = again_after
        self.go_on()

    @rule(after=st.integers(0, 12))
    def power_will_be_cut(self, after: int) -> None:
        """In the middle of what comes, or of what follows that."""
        self.cut_after = after

    @rule(batches=st.integers(1, 6))
    @survived
    def another_log_ends(self, batches: int) -> None:
        """What it leaves in its segments, this one finds in its own."""
        self.armed = None
        folder = STAGING / "other" / "cycle" / "disk"
        self.ended.append(folder.parent)
        log = LogWriter(self.storage, folder, room=self.room)
        with contextlib.suppress(StagingFull), contextlib.closing(log):
            log.start_stream(self.a_stream())
            for number in range(batches):
                log.append_batch(a_batch(0, 900), number)
                log.sync()
        self.room.remove(folder.parent)

    @rule(pick=st.integers(0, 5))
    @survived
    def checkpoint(self, pick: int) -> None:
        """A redo has come to the beginning of a segment: all before it goes."""
        at = load_checkpoint(self.storage, self.folder)
        reader, starts = LogReader(self.storage, self.folder, at), dict[int, tuple[SegmentStart, int]]()
        read = len(self.before_checkpoint())
        for record, _ in reader.records(self.staged.durable_log):
            starts.setdefault(reader.at.segment, (reader.at, read))
            read += record.type is RecordType.BATCH
        if starts:
            self.save(*list(starts.values())[pick % len(starts)])

    @rule()
    @survived
    def checkpoint_at_the_end(self) -> None:
        at = self.log.close_segment()
        if at is not None:
            self.save(at, len(self.sent.order))

    def save(self, at: SegmentStart, batches: int) -> None:
        if self.armed is not None:  # a redo that fails here is the redo's to repeat
            self.armed = None
        covered = ex.from_pairs((block * BLOCK, BLOCK) for block in self.sent.order[:batches])
        self.staged.save_checkpoint(Checkpoint(*at, self.attempts, frozenset(self.staged.salts), 0, covered))

    @rule()
    @survived
    def end_the_cycle(self) -> None:
        """Sealed: what the state file names is read back. Then its segments are another log's."""
        self.armed = None
        self.recover()
        sealed = self.log.position, self.log.chain
        self.staged.close()
        reader = LogReader(self.storage, self.folder, load_checkpoint(self.storage, self.folder))
        read = [bytes(body) for record, body in reader.records(sealed[0]) if record.type is RecordType.BATCH]
        reader.check_sealed(*sealed)
        assert [block_of(body) for body in read] == self.sent.order[len(self.before_checkpoint()) :]
        self.ended.append(self.folder.parent)
        self.go_on()

    @invariant()
    def nothing_is_left_open(self) -> None:
        log = self.staged.log
        held = 0 if log is None else len([log._segment, log._next]) + len(log._unsynced)
        assert len(self.storage.fds.held) <= held

    @invariant()
    def what_is_acknowledged_is_durable(self) -> None:
        assert self.sent.acknowledged <= self.blocks_of(self.staged.durable.extents())


LogModel.TestCase.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
TestLogModel = LogModel.TestCase
