"""The contract suite over every source there is."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmcore.model.enums import SnapshotKind
from dmcore.sources.base import Source
from dmcore.sources.errors import SourceReadFailed, TrackingLost
from tests.sources.contract import DISK, FIRST, SourceContract, SourceLab, read
from tests.sources.faulty import FaultySource
from tests.sources.labs import FaultyLab, ImageLab, MemoryLab, TrackedLab
from tests.sources.memory import MemorySource


class TestMemory(SourceContract):
    @pytest.fixture
    def lab(self) -> SourceLab:
        return MemoryLab()


class TestMemoryWithoutSnapshots(SourceContract):
    @pytest.fixture
    def lab(self) -> SourceLab:
        return MemoryLab(SnapshotKind.NONE)


class TestMemoryWithoutTracking(SourceContract):
    @pytest.fixture
    def lab(self) -> SourceLab:
        return MemoryLab(tracking=False)


class TestFaultless(SourceContract):
    """The faulty wrapper changes nothing as long as nothing is armed."""

    @pytest.fixture
    def lab(self) -> SourceLab:
        return FaultyLab()


class TestImage(SourceContract):
    @pytest.fixture
    def lab(self, tmp_path: Path) -> SourceLab:
        return ImageLab(tmp_path)


class TestTracked(SourceContract):
    @pytest.fixture
    def lab(self, tmp_path: Path) -> SourceLab:
        return TrackedLab(tmp_path)


class OnXfs(SourceContract):
    @pytest.fixture
    def root(self, xfs: Path) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=xfs) as root:
            yield Path(root)

    def test_snapshots_are_reflinks(self, source: Source) -> None:
        assert source.caps.snapshots is SnapshotKind.REFLINK


class TestImageOnXfs(OnXfs):
    @pytest.fixture
    def lab(self, root: Path) -> SourceLab:
        return ImageLab(root)


class TestTrackedOnXfs(OnXfs):
    @pytest.fixture
    def lab(self, root: Path) -> SourceLab:
        return TrackedLab(root)


class TestFaulty:
    def test_fails_as_often_as_told(self) -> None:
        inner = MemorySource()
        inner.add(*DISK, FIRST)
        source = FaultySource(inner)
        error = SourceReadFailed(path="p", offset=0, length=0, problem="injected")
        source.plan.fail("read_into", error, after=1)
        disk = source.snapshot(["vm"], "s").disks[DISK]
        read(disk)
        with pytest.raises(SourceReadFailed):
            read(disk)
        assert read(disk) == FIRST
        source.plan.verify_exercised()

    def test_tracking_that_was_reset(self) -> None:
        source = MemorySource()
        source.add(*DISK, FIRST)
        token = source.snapshot(["vm"], "s").disks[DISK].next_token
        source.reset_tracking(*DISK)
        with pytest.raises(TrackingLost):
            source.snapshot(["vm"], "t").disks[DISK].changed_since(str(token))
