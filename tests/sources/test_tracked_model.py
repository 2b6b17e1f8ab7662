"""Whatever happens to a tracked disk, a change is never missed: random histories against what the disk really held."""

import errno
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from dmcore.native.patching import BlockIO
from dmcore.sources import image
from dmcore.sources.errors import DiskWriteFailed, TrackingLost
from dmcore.sources.journal import RECORD_BYTES, Journal, journal_path
from dmcore.sources.tracked import TrackedSource
from dmcore.sources.writer import TrackedWriter

DISK_BYTES = 64 << 10
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Hundreds of synced writes: nothing here depends on a real disk."""
offsets = st.integers(0, DISK_BYTES - 1)
lengths = st.integers(1, 4096)
values = st.integers(0, 255)


@pytest.fixture(autouse=True)
def no_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written while these snapshots are read."""
    monkeypatch.setattr(image, "TICK_S", 0)


class Held:
    """A token, what the disk held when it was given, and whether tracking must still answer."""

    def __init__(self, token: str, content: bytes, position: int) -> None:
        self.token, self.content, self.position = token, content, position
        self.certain = True


class DiesWhileWriting:
    """Writes some of the data, then the process is gone: no note of the mtime is made."""

    def __init__(self, part: int) -> None:
        self.part = part

    def pwritev(self, fd: int, buffers: Sequence[memoryview], offset: int, /) -> int:
        data = b"".join(buffers)
        if len(data) == RECORD_BYTES:
            return os.pwrite(fd, data, offset)
        os.pwrite(fd, data[: self.part], offset)
        raise OSError(errno.EIO, "killed")

    def fallocate(self, fd: int, mode: int, offset: int, length: int, /) -> None:
        raise OSError(errno.EOPNOTSUPP, "no punching")

    def fdatasync(self, fd: int, /) -> None:
        pass


class TrackedModel(RuleBasedStateMachine):
    tokens = Bundle("tokens")

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="dmcore-model-", dir=MEMORY))
        self.disk = self.root / "vm/a.img"
        self.disk.parent.mkdir()
        self.disk.write_bytes(bytes(DISK_BYTES))
        self.source = TrackedSource(self.root)
        self.writer = TrackedWriter(self.disk)
        self.held: list[Held] = []
        self.foreign = 0

    def teardown(self) -> None:
        self.writer.close()
        shutil.rmtree(self.root)

    @initialize(target=tokens)
    def first(self) -> Held:
        return self.take()

    def take(self) -> Held:
        snapshot = self.source.snapshot(["vm"], "s")
        token = snapshot.disks["vm", "a.img"].next_token
        snapshot.close()
        self.source.delete_snapshot("s")
        held = Held(token or "", self.disk.read_bytes(), int(token.split(":")[1]) if token else -1)
        held.certain = token is not None
        self.held.append(held)
        return held

    def doubt(self) -> None:
        for held in self.held:
            held.certain = False

    @rule(target=tokens)
    def snapshot(self) -> Held:
        return self.take()

    @rule(offset=offsets, length=lengths, value=values)
    def write(self, offset: int, length: int, value: int) -> None:
        self.writer.write(offset, bytes([value]) * min(length, DISK_BYTES - offset))

    @rule(offset=offsets, length=lengths)
    def zero(self, offset: int, length: int) -> None:
        self.writer.zero(offset, min(length, DISK_BYTES - offset))

    @rule()
    def reopen(self) -> None:
        self.writer.flush()
        self.writer.close()
        self.writer = TrackedWriter(self.disk)

    @rule(length=st.integers(1, RECORD_BYTES - 1), value=values)
    def torn_record(self, length: int, value: int) -> None:
        """A writer died while it appended; it had not come to the data."""
        with journal_path(self.disk).open("ab") as file:
            if (file.tell() % RECORD_BYTES) == 0:
                file.write(bytes([value]) * length)

    @rule(offset=offsets, length=lengths, value=values, part=st.integers(0, 4096))
    def killed(self, offset: int, length: int, value: int, part: int) -> None:
        """A writer died with its record synced and some of its data written."""
        stamp, Journal.stamp = Journal.stamp, lambda *_: None  # type: ignore[method-assign]
        try:
            TrackedWriter(self.disk, BlockIO(DiesWhileWriting(part))).write(
                offset, bytes([value]) * min(length, DISK_BYTES - offset)
            )
        except DiskWriteFailed:
            self.doubt()
        finally:
            Journal.stamp = stamp  # type: ignore[method-assign]

    @rule(offset=offsets, value=values)
    def foreign_write(self, offset: int, value: int) -> None:
        """Somebody wrote the disk without its journal."""
        with self.disk.open("r+b") as file:
            file.seek(offset)
            file.write(bytes([value]))
        self.foreign += 1
        os.utime(self.disk, ns=(0, self.foreign))  # a time of its own, however slowly the kernel's clock ticks
        self.doubt()

    @rule(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
    def damage(self, at: float, bit: int) -> None:
        path = journal_path(self.disk)
        content = bytearray(path.read_bytes())
        content[int(at * len(content))] ^= 1 << bit
        path.write_bytes(content)
        self.doubt()

    @rule(held=consumes(tokens))
    def release(self, held: Held) -> None:
        self.source.release("vm", "a.img", held.token)
        for other in self.held:
            other.certain = other.certain and other.position >= held.position

    @invariant()
    def no_change_is_missed(self) -> None:
        if not self.held:
            return
        snapshot = self.source.snapshot(["vm"], "check")
        disk = snapshot.disks["vm", "a.img"]
        now = np.frombuffer(self.disk.read_bytes(), dtype=np.uint8)
        for held in self.held:
            try:
                extents = disk.changed_since(held.token)
            except TrackingLost:
                assert not held.certain
                continue
            differs = np.frombuffer(held.content, dtype=np.uint8) != now
            for offset, length in extents.tolist():
                differs[offset : offset + length] = False
            assert not differs.any()
        snapshot.close()
        self.source.delete_snapshot("check")


TestTrackedModel = TrackedModel.TestCase
TestTrackedModel.settings = settings(deadline=None, max_examples=30, stateful_step_count=15)
