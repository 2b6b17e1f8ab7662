"""`dmctl appliance run` as the service that systemd starts: a real process, and a control plane that answers."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmcore.errors import ExitCode
from dmcore.lab.layout import Lab, make_lab
from dmcore.model.enums import Role
from dmcore.node.enrolment import enroll
from dmcore.node.identity import load_identity
from dmcore.node.settings import load_appliance
from tests.api.fake_control import FakeControl, Refuse
from tests.dmctl.test_processes import ended, run, start
from tests.node.control_kit import ENROLL, NO_PLANS, NOTHING, PLANS, POLL, enrolled, token_for

pytestmark = pytest.mark.processes


@pytest.fixture
def control(tmp_path: Path) -> Iterator[FakeControl]:
    with FakeControl.make(tmp_path) as running:
        running.answers |= {POLL: NOTHING, PLANS: NO_PLANS}
        yield running


@pytest.fixture
def lab(tmp_path: Path, control: FakeControl, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Whose appliance is enrolled."""
    monkeypatch.delenv("DMCTL_CONFIG", raising=False)
    made = make_lab(tmp_path / "lab")
    settings = load_appliance(made.appliance_config)
    identity = load_identity(settings.state_dir)
    control.answers[ENROLL] = enrolled(identity)
    token = token_for(control, site=settings.site).encode()
    enroll(token, identity, settings.site, Role.APPLIANCE, settings.state_dir)
    return made


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, 0), (signal.SIGINT, ExitCode.INTERRUPTED)])
def test_serves_until_a_signal(lab: Lab, control: FakeControl, number: int, expected: int) -> None:
    process = start("appliance", "run", "--config", lab.appliance_config)
    (asked, *_) = control.wait_asked(POLL)
    assert asked.json["sources"] == ["machines"]
    process.send_signal(number)
    out, _ = ended(process, expected)
    assert f"serves the control plane at {control.url}" in out


def test_serves_without_a_control_plane(lab: Lab, control: FakeControl) -> None:
    control.stop()
    process = start("appliance", "run", "--config", lab.appliance_config)
    control.start()  # it comes back
    control.wait_asked(POLL)
    process.terminate()
    ended(process, 0)


def test_ends_when_another_process_has_its_key(lab: Lab, control: FakeControl) -> None:
    control.answers[POLL] = Refuse(409, "node.superseded")
    _, err = ended(start("appliance", "run", "--config", lab.appliance_config), ExitCode.REFUSED)
    assert "another process runs as node" in err
    assert "node.replaced" in err


def test_without_an_enrolment_there_is_nothing_to_serve(tmp_path: Path) -> None:
    made = make_lab(tmp_path / "bare")
    done = run("appliance", "run", "--config", made.appliance_config)
    assert done.returncode == ExitCode.CONFIGURATION
    assert "enrolment.missing" in done.stderr
    assert "dmctl appliance enroll" in done.stderr
