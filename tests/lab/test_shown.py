"""What the demo says of its points, and that it says so when one is wrong."""

from pathlib import Path
from typing import Any

import pytest

from dmcore.lab import demo
from dmcore.lab.demo import Demo, ShownPoint, require_room
from dmcore.lab.errors import DemoDiffers, DemoNeedsRoom, NodeFailed
from dmcore.lab.filesystem import sha256_of
from dmcore.lab.layout import make_lab
from dmcore.lab.processes import start_connector
from dmctl.codes import exit_code_of

POINT = "11111111-1111-1111-1111-111111111111"


class Silent:
    def step(self, title: str) -> None: ...
    def note(self, text: str) -> None: ...
    def progress(self, event: dict[str, Any]) -> None: ...


def test_a_point_that_differs_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, wrong = tmp_path / "source.img", tmp_path / "wrong.img"
    source.write_bytes(b"as it was")
    wrong.write_bytes(b"something else")
    monkeypatch.setattr(demo, "ask", lambda *_: [{"path": str(wrong)}])
    shown = ShownPoint({"point": POINT}, sha256_of(source))
    run = Demo(tmp_path / "demo", None, Silent(), exit_code_of)
    with pytest.raises(DemoDiffers, match="not equal to the source"):
        run._recover(make_lab(tmp_path / "demo"), [shown])


def test_too_little_room_is_told_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(DemoNeedsRoom, match="name another --workdir"):
        require_room(tmp_path / "not" / "there" / "yet", 1 << 60)
    require_room(tmp_path / "not" / "there" / "yet", 1)
    assert list(tmp_path.iterdir()) == []


def test_a_connector_that_ends_at_once(tmp_path: Path) -> None:
    lab = make_lab(tmp_path / "lab")
    lab.connector_config.write_text("nonsense = 1\n")
    with pytest.raises(NodeFailed, match="nonsense"):
        start_connector(lab)
