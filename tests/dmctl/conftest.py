"""The command line, run inside the test's process; test_processes.py has it as a process of its own."""

from collections.abc import Callable, Iterator

import pytest
import structlog
from click.testing import CliRunner, Result

from dmctl.main import root

Dmctl = Callable[..., Result]


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Every command sets logging up for its process, here on a stream that is gone afterwards."""
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
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
