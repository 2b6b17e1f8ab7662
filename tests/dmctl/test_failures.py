import errno
import json
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from dmcore.errors import DmcoreError, ExitCode
from dmcore.host.errors import NodeRunning
from dmcore.node.errors import AliasUnknown
from dmctl import main
from dmctl.errors import SystemRefused, Unexpected, UsageWrong
from dmctl.failures import ADVICE, understood

Fail = Callable[..., Result]


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Fail:
    """`dmctl version` as it would end if this happened in it."""

    def run(error: BaseException, *options: str) -> Result:
        @click.command()
        @click.option("--json", "as_json", is_flag=True)
        def version(as_json: bool) -> None:
            raise error

        monkeypatch.setattr("dmctl.version.version", version)
        return CliRunner().invoke(main.root, ["version", *options])

    return run


def test_an_error_of_the_tree_says_what_which_and_what_next(fail: Fail) -> None:
    result = fail(AliasUnknown(noun="source", alias="x", known="none", correlation="abc"))
    assert result.exit_code == ExitCode.CONFIGURATION
    assert result.stdout == ""
    assert result.stderr == (
        "error: no source 'x' in this node's configuration; it has: none. Mend it at this node, then run the"
        " command again. [alias.unknown, exit code 3, correlation abc]\n"
    )


def test_json_gives_the_same_as_one_object(fail: Fail) -> None:
    result = fail(NodeRunning(path="/x", correlation="abc"), "--json")
    assert result.exit_code == ExitCode.BUSY
    assert json.loads(result.stderr) == {
        "error": {
            "code": "node.running",
            "message": "/x: another process of this node is running on this state directory; stop it first",
            "exit_code": 10,
            "permanent": False,
            "correlation": "abc",
        }
    }


def test_an_error_gets_the_correlation_id_of_its_command(fail: Fail) -> None:
    first, second = (
        json.loads(fail(NodeRunning(path="/x"), "--json").stderr)["error"]["correlation"] for _ in range(2)
    )
    assert len(first) == 32
    assert first != second


def test_a_full_disk_names_the_path(fail: Fail) -> None:
    result = fail(OSError(errno.ENOSPC, "No space left on device", "/srv/x.img"))
    assert result.exit_code == ExitCode.CONFIGURATION
    assert "error: /srv/x.img: No space left on device." in result.stderr
    assert "system.refused" in result.stderr


def test_a_refused_address_says_what_the_system_says(fail: Fail) -> None:
    assert "error: Address already in use." in fail(OSError(errno.EADDRINUSE, "Address already in use")).stderr


def test_a_fault_of_ours_is_one_line(fail: Fail) -> None:
    result = fail(ZeroDivisionError("division by zero"))
    assert result.exit_code == ExitCode.INTERNAL
    assert result.stderr.count("\n") == 1
    assert "ZeroDivisionError: division by zero" in result.stderr
    assert "DMCTL_DEBUG=1" in result.stderr
    assert "Traceback" not in result.stderr


def test_debugging_shows_the_traceback(fail: Fail, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DMCTL_DEBUG", "1")
    result = fail(ZeroDivisionError("division by zero"))
    assert result.exit_code == ExitCode.INTERNAL
    assert "Traceback (most recent call last)" in result.stderr


@pytest.mark.parametrize("stopped", [KeyboardInterrupt(), click.Abort()], ids=lambda e: type(e).__name__)
def test_control_c_is_no_error(fail: Fail, stopped: BaseException) -> None:
    result = fail(stopped)
    assert result.exit_code == ExitCode.INTERRUPTED
    assert result.stderr == "stopped\n"


def test_a_reader_that_left_is_no_error(fail: Fail) -> None:
    result = fail(BrokenPipeError(errno.EPIPE, "Broken pipe"))
    assert result.exit_code == 1
    assert result.stderr == ""


def test_a_wrong_command_line_exits_with_2() -> None:
    result = CliRunner().invoke(main.root, ["version", "--nonsense"])
    assert result.exit_code == ExitCode.USAGE
    assert "--nonsense" in result.stderr


def test_a_wrong_command_line_is_json_too() -> None:
    result = CliRunner().invoke(main.root, ["version", "--nonsense", "--json"])
    assert result.exit_code == ExitCode.USAGE
    error = json.loads(result.stderr)["error"]
    assert (error["code"], error["exit_code"]) == ("usage", 2)
    assert "--nonsense" in error["message"]


def test_what_a_name_holds_does_not_steer_the_terminal(fail: Fail) -> None:
    assert "\x1b" not in fail(AliasUnknown(noun="source", alias="x", known="\x1b[2J")).stderr


def test_every_way_to_fail_has_advice() -> None:
    assert set(ADVICE) == set(ExitCode) - {ExitCode.OK}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (PermissionError(errno.EACCES, "Permission denied", b"/x"), SystemRefused),
        (OSError("odd"), SystemRefused),
        (click.UsageError("odd"), UsageWrong),
        (ValueError("odd"), Unexpected),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_any_exception_is_understood(error: Exception, expected: type[DmcoreError]) -> None:
    known = understood(error)
    assert type(known) is expected
    assert understood(known) is known
    assert "odd" in str(known) or "/x: Permission denied" in str(known)


def test_a_token_file_that_is_not_there(tmp_path: Path) -> None:
    """The edge of a real command."""
    missing = tmp_path / "token"
    result = CliRunner().invoke(main.root, ["appliance", "pair", "--token-file", str(missing), "--config", "x"])
    assert result.exit_code == ExitCode.CONFIGURATION
    assert f"{missing}: No such file or directory" in result.stderr
