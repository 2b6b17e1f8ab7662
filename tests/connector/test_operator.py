"""The operator's socket: progress, who leaves, who says nonsense, what goes wrong inside."""

import json
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dmcore.connector import operator_socket, recovery
from dmcore.connector.errors import (
    ConnectorFault,
    ConnectorNotRunning,
    OperationAbandoned,
    OperationMalformed,
)
from dmcore.connector.operations import Operations
from dmcore.connector.operator import (
    PointsRequest,
    RecoverRequest,
    VerifyRequest,
    ask,
)
from dmcore.errors import ExitCode
from dmcore.targets.volume import FolderImage
from tests.connector.kit import BLOCK, BLOCKS, TIMEOUT_S, until
from tests.connector.rig import Rig, newest, refused


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block is a step worth a line."""
    monkeypatch.setattr(operator_socket, "PROGRESS_STEP_BYTES", BLOCK)
    monkeypatch.setattr(recovery, "PIECE_BYTES", BLOCK)


@pytest.mark.usefixtures("small_steps")
def test_progress(rig: Rig, old_content: bytes, tmp_path: Path) -> None:
    told: list[int] = []
    ask(rig.socket, RecoverRequest(point=newest(rig), folder=tmp_path / "back"), told.append)
    assert told == [BLOCK * number for number in range(1, len(told) + 1)]
    assert len(told) > BLOCKS // 2
    checked: list[int] = []
    ask(rig.socket, VerifyRequest(point=newest(rig)), checked.append)
    assert checked == [BLOCKS * BLOCK]


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Holds up every read of a snapshot but the first, until the test opens it."""
    gate, first = threading.Event(), [True]
    real = FolderImage.read_into

    def read_into(self: FolderImage, offset: int, buffer: memoryview) -> None:
        if not first.pop() if first else True:
            assert gate.wait(TIMEOUT_S)
        real(self, offset, buffer)

    monkeypatch.setattr(FolderImage, "read_into", read_into)
    yield gate
    gate.set()


def begin_recovery(rig: Rig, folder: Path) -> socket.socket:
    """A recovery that has told of its first block and waits for its second."""
    point = newest(rig)
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(TIMEOUT_S)
    client.connect(str(rig.socket))
    client.sendall(RecoverRequest(point=point, folder=folder).model_dump_json().encode() + b"\n")
    assert b"progress" in client.recv(4096)
    return client


@pytest.mark.usefixtures("small_steps")
def test_an_operator_who_leaves_ends_the_recovery(
    rig: Rig, old_content: bytes, gate: threading.Event, tmp_path: Path
) -> None:
    begin_recovery(rig, tmp_path / "back").close()
    gate.set()
    until(lambda: not rig.connector.operator._listener._served)
    assert list((tmp_path / "back").iterdir()) == []
    assert ask(rig.socket, PointsRequest())


@pytest.mark.usefixtures("small_steps")
def test_a_stop_ends_the_recovery(rig: Rig, old_content: bytes, gate: threading.Event, tmp_path: Path) -> None:
    with begin_recovery(rig, tmp_path / "back") as client:
        stopper = threading.Thread(target=rig.stop)
        stopper.start()
        until(rig.connector.operator._listener._stopping.is_set)
        while client.recv(4096):
            pass
        gate.set()
        stopper.join()
    assert list((tmp_path / "back").iterdir()) == []


# The socket


def say(rig: Rig, line: bytes) -> dict[str, dict[str, str]]:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(TIMEOUT_S)
        client.connect(str(rig.socket))
        client.sendall(line)
        with client.makefile("rb") as answers:
            answer: dict[str, dict[str, str]] = json.loads(answers.readline())
            return answer


def test_for_its_owner_only(rig: Rig) -> None:
    assert stat.S_IMODE(rig.socket.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"nonsense\n", "Invalid JSON"),
        (b"\xff\xfe\n", "Invalid JSON"),
        (b"[]\n", "Input should be an object"),
        (b'{"command": "format-everything"}\n', "does not match any of the expected tags"),
        (b'{"command": "points", "more": 1}\n', "more: Extra inputs"),
        (b'{"command": "verify", "point": "../.."}\n', "point: Input should be a valid UUID"),
        (b'{"command": "unpair", "node": "../../x"}\n', "node: String should match"),
        (b'{"command": "pair-token", "site": "' + b"x" * 70_000 + b'"}\n', "Invalid JSON"),
    ],
)
def test_no_request(rig: Rig, line: bytes, problem: str) -> None:
    error = say(rig, line)["error"]
    assert error["code"] == OperationMalformed.code == "operator.malformed"
    assert problem in error["message"]
    assert error["correlation"]
    assert ask(rig.socket, PointsRequest()) == []


def test_an_operator_who_says_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operator_socket, "TIMEOUT_S", 0.1)
    assert say(rig, b"")["error"]["code"] == OperationAbandoned.code == "operator.abandoned"
    assert ask(rig.socket, PointsRequest()) == []


def test_an_operator_who_leaves_at_once(rig: Rig) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(rig.socket))
    assert ask(rig.socket, PointsRequest()) == []


def failing(error: Exception) -> Callable[[Operations], object]:
    def fail(_: Operations) -> object:
        raise error

    return fail


def test_a_failing_disk_is_told(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Operations, "points", failing(OSError(5, "Input/output error", "/state/points")))
    error = refused(rig, PointsRequest())
    assert (error.code, error.exit_code) == ("target.io", ExitCode.TARGET)
    assert "/state/points" in str(error)


def test_a_fault_is_told_without_its_insides(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Operations, "points", failing(ZeroDivisionError("secret")))
    error = refused(rig, PointsRequest())
    assert (error.code, error.exit_code) == (ConnectorFault.code, ExitCode.INTERNAL)
    assert "secret" not in str(error)
    assert error.correlation in capsys.readouterr().out


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(ConnectorNotRunning, match=r"absent\.sock.*dmctl connector serve") as caught:
        ask(tmp_path / "absent.sock", PointsRequest())
    assert caught.value.code == "connector.not-running"


def test_a_connector_that_is_gone_before_it_answers(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(sock: socket.socket) -> None:
        with sock:
            sock.recv(4096)

    monkeypatch.setattr(rig.connector.operator._listener, "_serve", leave)
    with pytest.raises(ConnectorNotRunning, match="closed the socket"):
        ask(rig.socket, PointsRequest())


def test_no_socket_is_left(rig: Rig) -> None:
    rig.stop()
    assert not rig.socket.exists()
    with pytest.raises(ConnectorNotRunning):
        ask(rig.socket, PointsRequest())
