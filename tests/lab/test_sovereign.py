"""A network of its own: what runs there has loopback and nothing else; where it cannot be had, that is said."""

import subprocess
import sys
from pathlib import Path

import pytest

from dmcore.lab import sovereign
from dmcore.lab.errors import NoNamespace

PROGRAM = """
import socket, sys
from dmcore.lab.sovereign import bring_loopback_up
bring_loopback_up()
with socket.create_server(("127.0.0.1", 0)) as server:
    with socket.create_connection(server.getsockname()):
        pass
try:
    socket.create_connection(("192.0.2.1", 9), 5)
except OSError as problem:
    print(problem.strerror, [name for _, name in socket.if_nameindex()], flush=True)
sys.stdin.read()
"""


def isolated(*command: str) -> list[str]:
    try:
        return sovereign.isolated(command)
    except NoNamespace as refused:
        pytest.skip(str(refused))


def test_loopback_and_nothing_else() -> None:
    command = isolated(sys.executable, "-c", PROGRAM)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        shown = process.stdout.readline()
        assert sovereign.has_own_network(process.pid)
        looked = [sys.executable, "-c", "import socket; print(socket.if_nameindex())"]
        inside = subprocess.run(sovereign.inside(process.pid, looked), capture_output=True, text=True, check=True)
        process.communicate()
    assert shown.startswith("Network is unreachable")
    assert "'lo'" in inside.stdout
    assert "eth" not in inside.stdout


def test_where_there_is_a_way_out_it_is_no_such_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.if_nameindex", lambda: [(1, "lo"), (2, "lo ")])
    monkeypatch.setattr(sovereign, "_is_up", lambda name: True)
    with pytest.raises(NoNamespace, match="there are other interfaces"):
        sovereign.bring_loopback_up()


def test_an_interface_that_is_down_is_no_way_out() -> None:
    assert sovereign._is_up("lo") in {True, False}


def test_loopback_that_cannot_be_brought_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(asked: object, request: int, argument: bytes) -> bytes:
        if request == sovereign.SET_FLAGS:
            raise PermissionError(1, "Operation not permitted")
        return argument

    monkeypatch.setattr("socket.if_nameindex", lambda: [(1, "lo")])
    monkeypatch.setattr("fcntl.ioctl", refused)
    with pytest.raises(NoNamespace, match="loopback stays down: Operation not permitted"):
        sovereign.bring_loopback_up()


def test_a_kernel_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "unshare"
    tool.write_text("#!/bin/sh\necho 'unshare: unshare failed: Operation not permitted' >&2\nexit 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(NoNamespace, match="Operation not permitted; run it as root, or without --sovereign"):
        sovereign.isolated(["true"])
    tool.write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(NoNamespace, match="exited with 3"):
        sovereign.isolated(["true"])


def test_the_tools_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoNamespace, match="apt install util-linux"):
        sovereign.isolated(["true"])


@pytest.mark.parametrize(("user", "options"), [(0, []), (1000, ["--user", "--preserve-credentials"])])
def test_who_is_not_root_enters_the_user_namespace_too(
    monkeypatch: pytest.MonkeyPatch, user: int, options: list[str]
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: user)
    line = sovereign.inside(7, ["true"])
    assert line[1:] == ["--target", "7", "--net", *options, "--", "true"]
