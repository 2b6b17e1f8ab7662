import json
from uuid import UUID

import click
import pytest

from dmcore.api.client_errors import ControlUnreachable
from dmctl.completing import plans
from dmctl.main import root
from tests.dmctl.conftest import Dmctl
from tests.dmctl.control import FakeControl


def completed(beginning: str) -> list[str]:
    return [item.value for item in plans(click.Context(root), click.Argument(["name"]), beginning)]


@pytest.mark.parametrize(
    ("shell", "sign"), [("bash", "complete -o"), ("zsh", "#compdef dmctl"), ("fish", "complete --no-files")]
)
def test_each_shell_gets_its_script(dmctl: Dmctl, shell: str, sign: str) -> None:
    result = dmctl("completion", shell)
    assert result.exit_code == 0
    assert sign in result.stdout
    assert "_DMCTL_COMPLETE" in result.stdout
    assert json.loads(dmctl("completion", shell, "--json").stdout) == {"shell": shell, "script": result.stdout[:-1]}


def test_no_other_shell(dmctl: Dmctl) -> None:
    assert dmctl("completion", "tcsh").exit_code == 2


def test_plans_are_completed_by_name_and_id(control: FakeControl) -> None:
    control.add_plan("web", UUID("aa" * 16))
    control.add_plan("wiki", UUID("bb" * 16))
    assert completed("") == ["web", "wiki"]
    assert completed("wi") == ["wiki"]
    assert completed("aa") == [str(UUID("aa" * 16))]
    assert completed("x") == []
    assert control.closed


def test_nothing_is_completed_where_nobody_is_logged_in(capsys: pytest.CaptureFixture[str]) -> None:
    assert completed("") == []
    assert capsys.readouterr() == ("", "")


def test_nothing_is_completed_where_the_control_plane_is_silent(control: FakeControl) -> None:
    control.wrong = ControlUnreachable(url="https://control.example", problem="refused")
    assert completed("") == []
