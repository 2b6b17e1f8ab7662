"""A group's shadows in a directory of the test's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dmcore.shadow.group import GroupShadow
from tests.filesystems import xfs
from tests.shadow.group_lab import GroupLab

__all__ = ["xfs"]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[GroupLab]:
    held = GroupLab(tmp_path)
    yield held
    held.close()


@pytest.fixture
def shadow(lab: GroupLab) -> Iterator[GroupShadow]:
    held = lab.open()
    yield held
    held.close()
