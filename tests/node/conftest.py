from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.fake_control import FakeControl
from tests.node.control_kit import Node


@pytest.fixture
def control(tmp_path: Path) -> Iterator[FakeControl]:
    with FakeControl.make(tmp_path) as running:
        yield running


@pytest.fixture
def node(tmp_path: Path, control: FakeControl) -> Node:
    return Node.make(tmp_path / "state", control)
