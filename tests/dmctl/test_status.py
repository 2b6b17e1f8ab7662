import io
import json
import os
import signal
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from rich.console import Console

from dmcore.api.client_errors import ControlDenied, ControlUnreachable
from dmcore.api.plans import NodeStatus, PlanStatus, Status
from dmcore.errors import ExitCode
from dmcore.model.enums import Role
from dmctl import status as module
from dmctl.status_showing import screen, state, wrong
from tests.dmctl.conftest import Dmctl
from tests.dmctl.control import FakeControl
from tests.dmctl.facts import APPLIANCE, CONNECTOR, NOW


def a_plan(name: str = "web", **changes: Any) -> PlanStatus:
    facts: dict[str, Any] = {
        "id": uuid4(), "name": name, "paused": False, "rpo_s": 300, "groups": 3, "running": 0, "lag_s": 100.0,
        "last_point_time": NOW, "breached": 0, "achievable_rpo_s": 40.0, "problems": (),
    }  # fmt: skip
    return PlanStatus(**facts | changes)


def a_node(node: str = APPLIANCE, **changes: Any) -> NodeStatus:
    facts: dict[str, Any] = {"node": node, "site": "paris", "role": Role.APPLIANCE, "live": True, "seen_at": NOW}
    return NodeStatus(**facts | changes)


def a_status(*plans: PlanStatus, nodes: tuple[NodeStatus, ...] = ()) -> Status:
    return Status(now=NOW, plans=plans, nodes=nodes, queued=2, running=1)


def drawn(found: Status, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(screen(found))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


class TestScreen:
    def test_all_is_well(self) -> None:
        lines = drawn(a_status(a_plan(), nodes=(a_node(),))).splitlines()
        assert lines[0].startswith("Plans: 1; jobs: 1 running, 2 queued; nodes: 1 of 1 live; 2026-03-01 12:00:00Z")
        assert lines[2].split() == ["web", "kept", "100", "s", "5m", "40", "s", "2026-03-01", "12:00:00Z", "3"]
        assert len(lines) == 3

    def test_what_needs_somebody_comes_first(self) -> None:
        plans = [
            a_plan("fresh", lag_s=1.0), a_plan("old", lag_s=299.0), a_plan("new", lag_s=None, last_point_time=None),
            a_plan("broken", problems=("source.changed",)), a_plan("late", breached=1, lag_s=400.0),
        ]  # fmt: skip
        rows = drawn(a_status(*plans)).splitlines()[2:7]
        assert [row.split()[0] for row in rows] == ["late", "broken", "new", "old", "fresh"]

    def test_what_is_wrong_and_what_to_do(self) -> None:
        text = drawn(a_status(a_plan(problems=("source.changed", "no.such-code"))), 300)
        assert "What is wrong\nweb: source.changed. Look at the protected machine" in text
        assert "`dmctl job list --plan 'web' --state failed` has the jobs." in text
        assert "web: no.such-code. Keep the log and report it." in text

    def test_silent_nodes(self) -> None:
        seen = NOW - timedelta(minutes=10)
        nodes = (a_node(live=False, seen_at=seen), a_node(CONNECTOR, role=Role.CONNECTOR, live=False, seen_at=None))
        text = drawn(a_status(nodes=nodes), 300)
        assert "appliance a1a1a1a1a1a1 at paris: silent for 10 min. Is it running" in text
        assert "connector c0c0c0c0c0c0 at paris: never heard of since it was enrolled." in text
        assert "nodes: 0 of 2 live" in text

    def test_nothing_yet(self) -> None:
        assert drawn(a_status()).startswith("Plans: 0;")

    @pytest.mark.parametrize("width", [20, 40, 80])
    def test_a_narrow_terminal_breaks_lines_but_loses_nothing(self, width: int) -> None:
        plan = a_plan("a-rather-long-name-of-a-plan", breached=1, lag_s=400.0)
        lines = drawn(a_status(plan), width).splitlines()
        assert all(len(line) <= width for line in lines)
        assert "kept" not in lines
        if width == 80:
            assert "2026-03-01" in "".join(lines)

    def test_what_a_name_holds_does_not_steer_the_terminal(self) -> None:
        plan = a_plan(problems=("source.changed",)).model_copy(update={"name": "w\x1b[2Jb"})
        assert "\x1b" not in drawn(a_status(plan))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "kept"),
        ({"last_point_time": None}, "no point yet"),
        ({"running": 2}, "2 running"),
        ({"breached": 1, "running": 1}, "1 late, 1 running"),
        ({"problems": ("x",)}, "failing"),
        ({"paused": True, "breached": 1}, "paused"),
    ],
)
def test_the_state_of_a_plan(changes: dict[str, Any], expected: str) -> None:
    assert state(a_plan(**changes)) == expected


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"paused": True}, "It is paused: `dmctl plan resume 'web'`"),
        ({"achievable_rpo_s": 700.0}, "Recent cycles could keep 12 min: raise its limit or its RPO"),
        ({}, "`dmctl plan show 'web'` tells which; is the appliance of its site live?"),
        ({"problems": ("source.changed",)}, "1 of 3 groups older than the RPO of 5m."),
    ],
)
def test_what_to_do_about_a_late_plan(changes: dict[str, Any], advice: str) -> None:
    *_, last = wrong(a_plan(breached=1, **changes))
    assert last.startswith("1 of 3 groups older than the RPO of 5m.")
    assert advice in last


def test_the_command(dmctl: Dmctl, control: FakeControl) -> None:
    control.screen = a_status(a_plan())
    assert "web" in dmctl("status").stdout
    assert json.loads(dmctl("status", "--json").stdout) == control.screen.model_dump(mode="json")


class Stopping(FakeControl):
    """Ctrl-C with the third look; the second may fail."""

    at_the_second: Exception | None = None

    def status(self) -> Status:
        if len(self.asked) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        self.wrong = self.at_the_second if len(self.asked) == 1 else None
        return super().status()


@pytest.fixture
def stopping(control: FakeControl, monkeypatch: pytest.MonkeyPatch) -> Stopping:
    """Ctrl-C while the third screen is shown."""
    monkeypatch.setattr(module, "LOOK_S", 0.0)

    fake = Stopping()
    fake.screen = a_status(a_plan())
    monkeypatch.setattr("dmctl.session.connect", lambda *_: fake)
    return fake


def test_watching_prints_one_below_the_other_into_a_pipe(dmctl: Dmctl, stopping: Stopping) -> None:
    result = dmctl("status", "--watch")
    assert result.exit_code == ExitCode.INTERRUPTED
    assert result.stdout.count("Plans: 1;") == 3


def test_watching_as_json_is_an_object_a_line(dmctl: Dmctl, stopping: Stopping) -> None:
    lines = dmctl("status", "--watch", "--json").stdout.splitlines()
    assert [json.loads(line)["running"] for line in lines] == [1, 1, 1]


def test_watching_stays_in_its_place_on_a_terminal(
    dmctl: Dmctl, stopping: Stopping, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None, legacy_windows=False)
    monkeypatch.setattr(module, "stdout", lambda: console)
    assert dmctl("status", "--watch").exit_code == ExitCode.INTERRUPTED
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "\x1b[?1049h" in shown  # the alternate screen
    assert shown.count("Plans: 1;") == 3


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_a_silent_control_plane_is_asked_again(dmctl: Dmctl, stopping: Stopping, options: list[str]) -> None:
    stopping.at_the_second = ControlUnreachable(url="https://control.example", problem="refused")
    result = dmctl("status", "--watch", *options)
    assert result.exit_code == ExitCode.INTERRUPTED
    assert "no answer from the control plane at https://control.example: refused" in result.output
    assert result.stdout.count("Plans: 1;" if not options else '"plans"') == 2


def test_a_refusal_is_not(dmctl: Dmctl, stopping: Stopping) -> None:
    stopping.at_the_second = ControlDenied(reason="auth.required", message="no valid token", status=401)
    assert dmctl("status", "--watch").exit_code == ExitCode.TRUST
