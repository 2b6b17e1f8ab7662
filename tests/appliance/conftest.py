"""Labs for whole cycles, and no waiting between attempts."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import stamina
import structlog

from dmcore.appliance import cycle
from tests.appliance.cycle_lab import CycleLab
from tests.filesystems import xfs

__all__ = ["xfs"]

ATTEMPTS = 3
"""In a row without progress. Fewer than in earnest, and without a pause between them."""


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(cycle, "FIRST_WAIT_S", 0.0)
    stamina.set_testing(True, attempts=ATTEMPTS)
    yield
    stamina.set_testing(False)


@pytest.fixture(autouse=True)
def logs() -> Iterator[None]:
    """Kept until the lab has stopped, and shown if the test fails: threads of two nodes log at any time."""
    with structlog.testing.capture_logs() as entries:
        yield
    for entry in entries:
        print(entry)  # noqa: T201 - pytest shows it with a failure


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[CycleLab]:
    made = CycleLab(tmp_path / "lab")
    yield made
    made.close()
