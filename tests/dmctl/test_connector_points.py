"""Which points stay, as an operator at the connector says; and a connector that must stop by itself."""

import os
import threading
from types import SimpleNamespace
from typing import Any, Self

import pytest

from dmcore.appliance.progress import CycleReport
from dmcore.connector.daemon import Connector
from dmcore.errors import ExitCode
from dmcore.lab.layout import Lab
from dmcore.node.control_errors import NodeReplaced
from tests.connector.kit import until
from tests.dmctl.conftest import Dmctl
from tests.dmctl.test_connector import _log_of_the_connector, connector, lab, shown
from tests.dmctl.test_connector import point as first_point

__all__ = ["_log_of_the_connector", "connector", "first_point", "lab"]


@pytest.fixture
def point(first_point: CycleReport, connector: Connector) -> CycleReport:
    """One whose cycle has ended: until then it is busy."""
    (shadow,) = connector.groups.all()
    until(lambda: shadow.state.open_cycle is None)
    return first_point


def test_preserve(dmctl: Dmctl, point: CycleReport) -> None:
    said = dmctl("connector", "preserve", "latest")
    assert said.stdout == f"Point {point.point} is preserved.\n"
    assert "available, preserved" in dmctl("connector", "points").stdout
    kept = dmctl("connector", "expire", "latest")
    assert (kept.exit_code, "it is preserved" in " ".join(kept.stderr.split())) == (ExitCode.REFUSED, True)
    assert shown(dmctl, "preserve", "latest", "--off") == {"point": str(point.point), "preserved": False}
    assert dmctl("connector", "preserve", "latest", "--off").stdout.endswith("no longer preserved.\n")


def test_expire(dmctl: Dmctl, point: CycleReport, connector: Connector) -> None:
    kept = dmctl("connector", "expire", str(point.point)[:8])
    assert (kept.exit_code, "it is the last good point" in " ".join(kept.stderr.split())) == (ExitCode.REFUSED, True)
    (catalogue,) = connector.groups.catalogues()
    for number in (1, 2, 3, 4):
        newer = catalogue.get(point.point)
        fields = {
            "id": f"{number:08x}{str(newer.id)[8:]}",
            "source_time": newer.source_time.replace(year=2100 + number),
        }
        catalogue.add(type(newer).model_validate(newer.model_dump() | fields))
    for path in catalogue._paths():
        os.utime(path, (0, 0))
    gone = dmctl("connector", "expire", str(point.point)[:8])
    assert gone.stdout == f"Point {point.point} is gone.\n"
    assert shown(dmctl, "expire", "00000001")["point"].startswith("00000001")
    assert len(shown(dmctl, "points")["points"]) == 3


def test_verified_is_shown(dmctl: Dmctl, point: CycleReport) -> None:
    assert shown(dmctl, "verify", "latest")["damaged_blocks"] == 0
    assert dmctl("connector", "points").stdout.splitlines()[-1].split()[-1] != "-"


class Replaced:
    """A connector whose control plane takes another process for it, at once."""

    def __init__(self, _: object, *, ended: Any) -> None:
        self.trust = SimpleNamespace(identity=SimpleNamespace(node="ab" * 32))
        self.server = self.pairing = SimpleNamespace(address="127.0.0.1:1")
        self.thread = threading.Thread(target=ended, args=(NodeReplaced(node="ab" * 32),))

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.thread.join()


def test_a_replaced_connector_says_why_it_stops(
    dmctl: Dmctl,
    lab: Lab,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dmctl.connector.Connector", Replaced)
    stopped = dmctl("connector", "serve", "--config", lab.connector_config)
    assert stopped.exit_code == NodeReplaced.exit_code
    assert str(NodeReplaced(node="ab" * 32)) in stopped.stderr.replace("\n", " ")
