"""Whom a login trusts, and what it leaves. tests/dmctl/test_control_plane.py logs in at a real one."""

import json
import stat
from pathlib import Path

import pytest

from dmcore.api.client_errors import ControlDenied, ControlUnreachable, PinDiffers
from dmcore.errors import ExitCode
from dmctl import login as module
from dmctl.errors import FingerprintUnconfirmed
from dmctl.profile import Profile, load_profile, profile_path
from tests.dmctl.conftest import Dmctl
from tests.dmctl.control import FakeControl
from tests.dmctl.facts import CONTROL

URL = "https://control.example:8443"
FINGERPRINT = "ab" * 32
PEM = "-----BEGIN CERTIFICATE-----\nYWJj\n-----END CERTIFICATE-----\n"
SHOWN = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
"""SHA-256 of `abc`, which the PEM above wraps."""


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch) -> FakeControl:
    """Somebody answers, and nobody is logged in."""
    fake = FakeControl()
    monkeypatch.setattr("dmctl.session.connect", lambda *_: fake)
    monkeypatch.setattr(module, "fetch_certificate", lambda url, timeout_s: PEM)
    return fake


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("dmo_secret\n")
    return path


def test_a_pinned_login_with_a_token_file(dmctl: Dmctl, control: FakeControl, token_file: Path) -> None:
    result = dmctl("login", URL + "/", "--token-file", token_file, "--fingerprint", "AB:" * 31 + "AB")
    assert result.exit_code == 0
    assert str(CONTROL) in result.stdout
    assert "dmo_secret" not in result.output
    assert load_profile() == Profile(url=URL, token="dmo_secret", fingerprint=FINGERPRINT)
    assert stat.S_IMODE(profile_path().stat().st_mode) == 0o600
    assert control.asked == [("health",), ("status",)]


def test_as_json(dmctl: Dmctl, control: FakeControl, token_file: Path) -> None:
    result = dmctl("login", URL, "--token-file", token_file, "--fingerprint", FINGERPRINT, "--json")
    assert json.loads(result.stdout) == {"url": URL, "control": str(CONTROL), "profile": str(profile_path())}


def test_a_token_from_standard_input_and_a_ca(dmctl: Dmctl, control: FakeControl, tmp_path: Path) -> None:
    result = dmctl("login", URL, "--token-file", "-", "--ca-file", "ca.pem", input="dmo_piped\n")
    assert result.exit_code == 0
    assert load_profile() == Profile(url=URL, token="dmo_piped", ca_file=Path.cwd() / "ca.pem")


def test_the_machines_own_cas(dmctl: Dmctl, control: FakeControl, token_file: Path) -> None:
    dmctl("login", URL, "--token-file", token_file, "--system-ca")
    assert load_profile() == Profile(url=URL, token="dmo_secret")


def test_a_token_that_is_asked_for_is_not_shown(dmctl: Dmctl, control: FakeControl) -> None:
    result = dmctl("login", URL, "--fingerprint", FINGERPRINT, input="dmo_typed\n")
    assert result.exit_code == 0
    assert "dmo_typed" not in result.output
    assert load_profile().token == "dmo_typed"


class TestUnknownCertificate:
    @pytest.fixture
    def terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("dmctl.confirming.at_a_terminal", lambda: True)

    @pytest.mark.usefixtures("terminal")
    def test_is_shown_and_pinned_when_somebody_knows_it(
        self, dmctl: Dmctl, control: FakeControl, token_file: Path
    ) -> None:
        result = dmctl("login", URL, "--token-file", token_file, input="y\n")
        assert result.exit_code == 0
        assert SHOWN in result.stderr
        assert load_profile().fingerprint == SHOWN

    @pytest.mark.usefixtures("terminal")
    @pytest.mark.parametrize("answer", ["n\n", "\n"])
    def test_is_not_trusted_when_nobody_does(
        self, dmctl: Dmctl, control: FakeControl, token_file: Path, answer: str
    ) -> None:
        result = dmctl("login", URL, "--token-file", token_file, input=answer)
        assert result.exit_code == ExitCode.TRUST
        assert "give it with --fingerprint, or give --ca-file" in result.stderr
        assert control.asked == []
        assert not profile_path().exists()

    @pytest.mark.usefixtures("terminal")
    def test_is_not_trusted_by_who_leaves(self, dmctl: Dmctl, control: FakeControl, token_file: Path) -> None:
        assert dmctl("login", URL, "--token-file", token_file, input="").exit_code == ExitCode.INTERRUPTED
        assert not profile_path().exists()

    def test_is_refused_where_nobody_can_be_asked(self, dmctl: Dmctl, control: FakeControl, token_file: Path) -> None:
        result = dmctl("login", URL, "--token-file", token_file, "--json", input="y\n")
        assert result.exit_code == ExitCode.TRUST
        error = json.loads(result.stderr)["error"]
        assert error["code"] == FingerprintUnconfirmed.code
        assert SHOWN in error["message"]


@pytest.mark.parametrize(
    "options",
    [
        ["--fingerprint", FINGERPRINT, "--ca-file", "x"],
        ["--ca-file", "x", "--system-ca"],
        ["--fingerprint", "ab"],
        ["--fingerprint", "zz" * 32],
    ],
)
def test_a_wrong_command_line(dmctl: Dmctl, control: FakeControl, token_file: Path, options: list[str]) -> None:
    assert dmctl("login", URL, "--token-file", token_file, *options).exit_code == ExitCode.USAGE
    assert control.asked == []


@pytest.mark.parametrize("text", ["", "\n", "two words", "dmo_x\x1b[2J", "é"])
def test_no_token(dmctl: Dmctl, control: FakeControl, text: str) -> None:
    result = dmctl("login", URL, "--token-file", "-", "--fingerprint", FINGERPRINT, input=text)
    assert result.exit_code == ExitCode.USAGE
    assert "that is no token" in result.stderr
    assert control.asked == []


def test_a_token_file_that_is_not_there(dmctl: Dmctl, control: FakeControl, tmp_path: Path) -> None:
    result = dmctl("login", URL, "--token-file", tmp_path / "none", "--fingerprint", FINGERPRINT)
    assert result.exit_code == ExitCode.CONFIGURATION


@pytest.mark.parametrize(
    ("problem", "exit_code"),
    [
        (ControlUnreachable(url=URL, problem="refused"), ExitCode.CONNECTION),
        (PinDiffers(url=URL, found="cd" * 32, pinned=FINGERPRINT), ExitCode.TRUST),
        (ControlDenied(reason="auth.required", message="no valid token", status=401), ExitCode.TRUST),
    ],
    ids=lambda value: getattr(value, "code", ""),
)
def test_what_does_not_work_is_not_remembered(
    dmctl: Dmctl, control: FakeControl, token_file: Path, problem: Exception, exit_code: ExitCode
) -> None:
    control.wrong = problem
    result = dmctl("login", URL, "--token-file", token_file, "--fingerprint", FINGERPRINT)
    assert result.exit_code == exit_code
    assert not profile_path().exists()


@pytest.mark.parametrize("url", ["control.example", "http://control.example", "https://u:p@control.example"])
def test_what_is_no_address(dmctl: Dmctl, token_file: Path, url: str) -> None:
    """With the real client."""
    result = dmctl("login", url, "--token-file", token_file, "--fingerprint", FINGERPRINT)
    assert result.exit_code == ExitCode.CONFIGURATION
    assert "is not the address of a control plane" in result.stderr


def test_logout_forgets(dmctl: Dmctl, control: FakeControl, token_file: Path) -> None:
    for options in ([], ["--json"]):
        dmctl("login", URL, "--token-file", token_file, "--fingerprint", FINGERPRINT)
        result = dmctl("logout", *options)
        assert result.exit_code == 0
        assert str(profile_path()) in result.stdout
        assert not profile_path().exists()
    assert dmctl("logout").exit_code == ExitCode.CONFIGURATION


@pytest.mark.parametrize(
    "command",
    [["status"], ["plan", "list"], ["plan", "run", "web"], ["job", "list"], ["point", "list"], ["site", "list"],
     ["node", "list"], ["token", "list"], ["event", "list"], ["audit", "list"]],
    ids=" ".join,
)  # fmt: skip
def test_every_command_asks_for_a_login_first(dmctl: Dmctl, command: list[str]) -> None:
    result = dmctl(*command, "--json")
    assert result.exit_code == ExitCode.CONFIGURATION
    assert json.loads(result.stderr)["error"]["code"] == "login.missing"


def test_a_control_plane_that_is_not_there(dmctl: Dmctl, token_file: Path) -> None:
    """With the real client: nobody listens on port 1."""
    result = dmctl("login", "https://127.0.0.1:1", "--token-file", token_file, "--fingerprint", FINGERPRINT)
    assert result.exit_code == ExitCode.CONNECTION
    assert "no answer from the control plane at https://127.0.0.1:1" in result.stderr
