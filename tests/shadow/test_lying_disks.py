"""Staging on disks that fail in earnest: a sync that fails and then "succeeds", a full volume, a read-only one.

The lying disk is an ext4 in a sparse file on a small tmpfs: it takes buffered writes for which there is no room below.
The first sync of them fails, later ones do not, and what was written is gone.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from dmcore.blocks import extents as ex
from dmcore.blocks.extents import Extents
from dmcore.errors import DmcoreError
from dmcore.model.ids import point_id
from dmcore.model.phase import Phase
from dmcore.shadow.group import GroupShadow
from dmcore.shadow.state import Cycle
from tests.filesystems import mounted, why_not
from tests.shadow.group_lab import (
    BLOCK,
    DISK_A,
    GROUP,
    DiskContent,
    GroupLab,
    Sender,
    coverage_of,
    recovered,
    roll_forward,
)

BELOW_BYTES = 14 << 20
ABOVE_BYTES = 256 << 20
DISK_BYTES = 32 << 20
DELTA = ex.whole(DISK_BYTES)


@dataclass
class LyingDisk:
    """`at` is a file system that promises more than it has; `heal` gives it what it has promised."""

    at: Path
    below: Path

    def heal(self) -> None:
        subprocess.run(["mount", "-o", f"remount,size={ABOVE_BYTES * 2}", str(self.below)], check=True)

    def read_only(self, *, on: bool) -> None:
        subprocess.run(["mount", "-o", f"remount,{'ro' if on else 'rw'}", str(self.at)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[LyingDisk]:
    if reason := why_not() or ("" if shutil.which("mkfs.ext4") else "needs mkfs.ext4"):
        pytest.skip(f"NOT RUN on a disk that loses writes: {reason}")
    with mounted("tmpfs", ["-t", "tmpfs", "-o", f"size={BELOW_BYTES}"], tmp_path / "below") as below:
        image = below / "disk.img"
        with image.open("wb") as file:
            file.truncate(ABOVE_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", "-E", "lazy_itable_init=1", str(image)], check=True)
        with mounted(str(image), ["-o", "loop"], tmp_path / "lying") as at:
            yield LyingDisk(at, below)


@dataclass
class Attempt:
    """A sender that keeps what was acknowledged to it."""

    shadow: GroupShadow
    cycle: Cycle
    held: DiskContent
    acknowledged: list[Extents] = field(default_factory=list)

    def send(self, extents: Extents) -> None:
        """Raises what the receiver raises; what was acknowledged by then stays so."""
        sender = Sender(self.shadow, self.cycle, DISK_A, self.held)
        sender.start()
        for blocks in sender.batches(extents, 64):
            sender.append(sender.seal(blocks).used)
            if sender.receiver.sync(sender.attempt) is not None:
                self.acknowledged.append(ex.from_pairs((int(block) * BLOCK, BLOCK) for block in blocks))
        sender.finish()

    @property
    def promised(self) -> Extents:
        return ex.normalize(np.concatenate([ex.empty(), *self.acknowledged]))

    def durable(self) -> Extents:
        receiver, _ = self.shadow.open(self.cycle.id, self.cycle.epoch, DISK_A)
        return receiver.durable()


class Scene:
    """A group with an image of zeros, and a delta over all of it that will not fit."""

    def __init__(self, tmp_path: Path, staging: Path) -> None:
        self.lab = GroupLab(tmp_path)
        (tmp_path / "staging").symlink_to(staging)
        self.shadow = self.lab.open()
        self.held = DiskContent(bytearray(DISK_BYTES))
        self._zeros()
        self.held.data[:] = np.random.default_rng(3).bytes(DISK_BYTES)
        self.cycle = self.lab.plan(self.shadow, 2, {DISK_A: self.held})
        self.shadow.begin(self.cycle)
        self.attempt = Attempt(self.shadow, self.cycle, self.held)

    def _zeros(self) -> None:
        """The first image: one run of zeros, which takes no room."""
        cycle = self.lab.plan(self.shadow, 1, {DISK_A: self.held})
        self.shadow.begin(cycle)
        sender = Sender(self.shadow, cycle, DISK_A, self.held)
        sender.start()
        none, zeros = np.empty(0, dtype=np.int64), ex.whole(DISK_BYTES)
        sealed = sender.writer.seal(none, b"", sender.out, zero_runs=zeros)
        sender.append(sealed.used)
        sender.finish()
        self.shadow.commit(cycle.id, cycle.epoch, {DISK_A: coverage_of(self.held, zeros)})
        assert roll_forward(self.shadow) is Phase.RECLAIMED

    def reopen(self) -> None:
        """A restart of the connector."""
        self.shadow.close()
        self.lab.close()
        self.shadow = self.attempt.shadow = self.lab.open()

    def go_on(self) -> None:
        """The rest of the cycle. Its point is what the source held."""
        missing = ex.subtract(DELTA, self.attempt.durable())
        self.attempt.send(missing)
        self.shadow.commit(self.cycle.id, self.cycle.epoch, {DISK_A: coverage_of(self.held, DELTA)})
        assert roll_forward(self.shadow) is Phase.RECLAIMED
        point = point_id(self.cycle.id, GROUP)
        assert recovered(self.lab, self.shadow, point)[DISK_A] == bytes(self.held.data)

    def close(self) -> None:
        self.shadow.close()
        self.lab.close()


@pytest.fixture
def scene(tmp_path: Path, disk: LyingDisk) -> Iterator[Scene]:
    made = Scene(tmp_path / "lab", disk.at)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def lab_folder(tmp_path: Path) -> None:
    (tmp_path / "lab").mkdir()


def drop_caches() -> None:
    with suppress(OSError):  # a container may not: then the re-reading of the log does it
        Path("/proc/sys/vm/drop_caches").write_text("3")


def test_the_disk_does_lie(disk: LyingDisk) -> None:
    """Or the other tests would show nothing: writes are taken, the first sync fails, another one succeeds."""
    fd = os.open(disk.at / "file", os.O_RDWR | os.O_CREAT)
    for number in range(40):
        os.pwrite(fd, bytes([number + 1]) * (1 << 20), number << 20)
    outcomes = []
    for _ in range(6):
        try:
            os.fsync(fd)
            outcomes.append(True)
        except OSError:
            outcomes.append(False)
    os.close(fd)
    assert outcomes[0] is False
    assert outcomes[-1] is True


def test_what_a_failed_sync_has_lost_was_never_acknowledged(scene: Scene, disk: LyingDisk) -> None:
    with pytest.raises((DmcoreError, OSError)):
        scene.attempt.send(DELTA)
    promised = scene.attempt.promised
    assert 0 < ex.total_bytes(promised) < DISK_BYTES
    os.sync()
    drop_caches()
    assert len(ex.subtract(promised, scene.attempt.durable())) == 0
    scene.reopen()
    assert len(ex.subtract(promised, scene.attempt.durable())) == 0
    disk.heal()
    scene.go_on()


def test_trying_again_on_a_disk_that_is_still_too_small_never_claims_more(scene: Scene, disk: LyingDisk) -> None:
    """Each try is told of an error; a sync that "succeeds" after one that has failed is not believed."""
    for _ in range(3):
        with pytest.raises((DmcoreError, OSError)):
            scene.attempt.send(ex.subtract(DELTA, scene.attempt.durable()))
        drop_caches()
        assert len(ex.subtract(scene.attempt.promised, scene.attempt.durable())) == 0
    disk.heal()
    scene.reopen()
    scene.go_on()


def test_a_read_only_staging_volume_is_an_error_and_nothing_is_lost(scene: Scene, disk: LyingDisk) -> None:
    half = ex.from_pairs([(0, 4 << 20)])
    scene.attempt.send(half)
    scene.reopen()
    disk.read_only(on=True)
    with pytest.raises((DmcoreError, OSError), match=r"[Rr]ead-only"):
        scene.attempt.durable()
    disk.read_only(on=False)
    assert len(ex.subtract(half, scene.attempt.durable())) == 0
    disk.heal()
    scene.go_on()


def test_a_full_staging_volume_is_an_error_and_nothing_is_lost(tmp_path: Path) -> None:
    """An honest disk this time: it says at once that it is full."""
    if os.geteuid():
        pytest.skip("NOT RUN on a full file system: needs root to mount a tmpfs")
    with mounted("tmpfs", ["-t", "tmpfs", "-o", "size=12m"], tmp_path / "small") as small:
        scene = Scene(tmp_path / "lab", small)
        with pytest.raises((DmcoreError, OSError)):
            scene.attempt.send(DELTA)
        promised = scene.attempt.promised
        assert 0 < ex.total_bytes(promised) < DISK_BYTES
        scene.reopen()
        assert len(ex.subtract(promised, scene.attempt.durable())) == 0
        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
        scene.go_on()
        scene.close()
