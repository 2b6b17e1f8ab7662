"""Nodes under a hostile control plane, and a plan for it to harm."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.hostile_lab import HostileLab, Victim, quick


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[HostileLab]:
    with quick():
        made = HostileLab(tmp_path)
        yield made
        made.close()


@pytest.fixture
def victim(lab: HostileLab) -> Victim:
    return lab.victim()
