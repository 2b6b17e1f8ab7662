"""The contract suite over every target there is."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmcore.model.enums import SnapshotKind
from dmcore.targets.base import Target
from dmcore.targets.errors import FlushFailed, TargetIOFailed
from dmcore.targets.folder import FolderTarget
from tests.targets.contract import DISK_BYTES, TargetContract, rows
from tests.targets.faulty import FaultyTarget
from tests.targets.memory import MemoryTarget


class TestMemory(TargetContract):
    @pytest.fixture
    def target(self) -> Target:
        return MemoryTarget()


class TestFaultless(TargetContract):
    """The faulty wrapper changes nothing as long as nothing is armed."""

    @pytest.fixture
    def target(self) -> Target:
        return FaultyTarget(MemoryTarget())


class TestFolder(TargetContract):
    @pytest.fixture
    def target(self, tmp_path: Path) -> Iterator[Target]:
        target = FolderTarget(tmp_path)
        yield target
        target.close()


class TestFolderOnXfs(TargetContract):
    @pytest.fixture
    def target(self, xfs: Path) -> Iterator[Target]:
        with tempfile.TemporaryDirectory(dir=xfs) as root:
            target = FolderTarget(Path(root))
            yield target
            target.close()

    def test_snapshots_are_reflinks(self, target: Target) -> None:
        assert target.caps.snapshots is SnapshotKind.REFLINK


class TestFaulty:
    def test_fails_as_often_as_told(self) -> None:
        target = FaultyTarget(MemoryTarget())
        error = TargetIOFailed(path="p", operation="patch", offset=0, problem="injected")
        target.plan.fail("patch", error, times=2, after=1)
        target.create("v", DISK_BYTES)
        volume = target.open("v")
        volume.patch(rows((0, 512, -1)), b"")
        for _ in range(2):
            with pytest.raises(TargetIOFailed):
                volume.patch(rows((0, 512, -1)), b"")
        volume.patch(rows((0, 512, -1)), b"")
        target.plan.verify_exercised()

    @pytest.mark.parametrize("call", ["volumes", "snapshots", "free_bytes"])
    def test_target_calls_fail(self, call: str) -> None:
        target = FaultyTarget(MemoryTarget())
        target.plan.fail(call, FlushFailed(path="p", problem="injected"))
        with pytest.raises(FlushFailed):
            getattr(target, call)()
        target.plan.verify_exercised()

    def test_a_fault_never_reached_fails_the_test(self) -> None:
        target = FaultyTarget(MemoryTarget())
        target.plan.fail("flush", FlushFailed(path="p", problem="injected"))
        with pytest.raises(AssertionError, match="flush: 1 more"):
            target.plan.verify_exercised()
