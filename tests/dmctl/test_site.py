import json

import pytest

from dmcore.api.client_errors import ControlRefused
from dmcore.api.limits import Limit
from dmcore.errors import ExitCode
from dmctl.quantities import parse_window
from tests.dmctl.conftest import Dmctl
from tests.dmctl.control import FakeControl

WINDOW = "mon-fri 08:00-18:00 20MB/s"


def test_a_site_is_made_and_listed(dmctl: Dmctl, control: FakeControl) -> None:
    made = dmctl("site", "create", "paris", "--limit", "100MB/s", "--limit-window", WINDOW)
    assert made.exit_code == 0
    assert "100MB/s; mon-fri 08:00-18:00 20MB/s; UTC" in made.stdout
    assert control.closed
    title, header, row = dmctl("site", "list").stdout.splitlines()
    assert title == "Sites: 1"
    assert header.split() == ["site", "appliances", "connectors", "limit"]
    assert row.split(maxsplit=3) == ["paris", "0", "0", f"100MB/s; {WINDOW}; UTC"]


def test_json_has_the_models_as_they_are(dmctl: Dmctl, control: FakeControl) -> None:
    made = json.loads(dmctl("site", "create", "paris", "--json").stdout)
    assert made == {
        "name": "paris", "limit": {"bytes_s": None, "windows": [], "zone": "UTC"}, "appliances": 0, "connectors": 0,
    }  # fmt: skip
    assert json.loads(dmctl("site", "list", "--json").stdout) == {"sites": [made]}


def test_an_edit_changes_only_what_is_given(dmctl: Dmctl, control: FakeControl) -> None:
    dmctl("site", "create", "paris", "--limit", "100MB/s", "--limit-window", WINDOW, "--limit-zone", "Europe/Paris")
    dmctl("site", "edit", "paris", "--limit", "50MB/s")
    windows = (parse_window(WINDOW),)
    assert control.site_views["paris"].limit == Limit(bytes_s=50_000_000, windows=windows, zone="Europe/Paris")
    dmctl("site", "edit", "paris", "--limit", "none", "--limit-zone", "UTC")
    assert control.site_views["paris"].limit == Limit(windows=windows)
    dmctl("site", "edit", "paris", "--limit-window", "none")
    assert control.site_views["paris"].limit == Limit()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["create", "Paris"], "name 'Paris': String should match"),
        (["create", "../x"], "name '../x'"),
        (["create", "x" * 10_000], "…"),
        (["create", "x\x1b[2J"], "name 'x\\x1b[2J'"),
        (["create", "paris", "--limit", "fast"], "'fast' is not a rate; give a number with one of B/s"),
        (["create", "paris", "--limit-window", "always 1"], "is not a window; give 'DAYS FROM-TO RATE'"),
        (["create", "paris", "--limit-zone", "Mars/Olympus"], "zone 'Mars/Olympus'"),
        (["edit", "paris"], "nothing to change; give --limit"),
    ],
)
def test_bad_input_never_reaches_the_control_plane(
    dmctl: Dmctl, control: FakeControl, arguments: list[str], problem: str
) -> None:
    result = dmctl("site", *arguments)
    assert result.exit_code == ExitCode.USAGE
    assert problem in result.stderr
    assert len(result.stderr) < 1000
    assert control.asked == []


def test_an_unknown_site_is_not_edited(dmctl: Dmctl, control: FakeControl) -> None:
    result = dmctl("site", "edit", "rome", "--limit", "none")
    assert result.exit_code == ExitCode.REFUSED
    assert "no site 'rome'; `dmctl site list` lists them" in result.stderr


def test_what_the_control_plane_refuses_has_its_code_and_words(dmctl: Dmctl, control: FakeControl) -> None:
    dmctl("site", "create", "paris")
    result = dmctl("site", "create", "paris", "--json")
    assert result.exit_code == ExitCode.REFUSED
    error = json.loads(result.stderr)["error"]
    assert (error["code"], error["message"]) == ("name.taken", "there is a site paris already")


def test_a_missing_role(dmctl: Dmctl, control: FakeControl) -> None:
    message = "this needs the role admin; the token's is viewer"
    control.wrong = ControlRefused(reason="auth.role", message=message, status=403)
    result = dmctl("site", "create", "paris")
    assert result.exit_code == ExitCode.REFUSED
    assert message in result.stderr
    assert "[auth.role, exit code 9, correlation" in result.stderr
