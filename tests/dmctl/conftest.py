"""The command line, run inside the test's process; test_processes.py has it as a process of its own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner, Result

from dmctl.main import root
from dmctl.profile import Profile, save_profile
from tests.dmctl.control import FakeControl

Dmctl = Callable[..., Result]


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Every command sets logging up for its process, here on a stream that is gone afterwards."""
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DMCTL_PROFILE", str(tmp_path / "login.json"))  # never the one of who runs the tests
    for name in ("DMCTL_CONFIG", "DMCTL_DEBUG", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def dmctl() -> Dmctl:
    """Run a command. A failure never shows a traceback, nor leaves the function as an exception."""

    def run(*arguments: object, input: str | None = None) -> Result:  # noqa: A002 - CliRunner's word
        result = CliRunner().invoke(root, [str(each) for each in arguments], input=input, prog_name="dmctl")
        assert result.exception is None or isinstance(result.exception, SystemExit)
        assert "Traceback" not in result.output
        return result

    return run


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch) -> FakeControl:
    """The control plane that this user is logged in at."""
    fake = FakeControl()
    save_profile(Profile(url="https://control.example:8443", token="dmo_secret", fingerprint="ab" * 32))
    monkeypatch.setattr("dmctl.session.connect", lambda *_: fake)
    return fake


@pytest.fixture
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who watches jobs looks again at once."""
    monkeypatch.setattr("dmctl.watching.LOOK_S", 0.0)
