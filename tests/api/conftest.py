from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.fake_control import FakeControl


@pytest.fixture
def control(tmp_path: Path) -> Iterator[FakeControl]:
    with FakeControl.make(tmp_path) as running:
        yield running
