import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmcore.connector import listener as listener_module
from dmcore.connector.errors import ListenFailed
from dmcore.connector.listener import Listener, tcp_listening, unix_listening
from tests.connector.kit import TIMEOUT_S
from tests.connector.rig import ANY_PORT


def echo(sock: socket.socket) -> None:
    with sock:
        while got := sock.recv(4096):
            sock.sendall(got)


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener("test", tcp_listening(ANY_PORT), echo, 2)
    listener.start()
    yield listener
    listener.stop()


def client(listener: Listener) -> socket.socket:
    return socket.create_connection((listener.address.host, listener.address.port), TIMEOUT_S)


def answers(sock: socket.socket) -> bool:
    sock.sendall(b"x")
    return sock.recv(1) == b"x"


def test_serves_several_at_once(listener: Listener) -> None:
    with client(listener) as one, client(listener) as two:
        assert answers(one)
        assert answers(two)
        assert answers(one)


def test_turns_away_what_is_too_many(listener: Listener) -> None:
    with client(listener) as one, client(listener) as two:
        assert answers(one)
        assert answers(two)
        with client(listener) as three:
            assert three.recv(1) == b""
        assert answers(one)


def test_stop_cuts_and_joins(listener: Listener) -> None:
    before = threading.active_count()
    with client(listener) as one:
        assert answers(one)
        listener.stop()
        assert one.recv(1) == b""
        assert threading.active_count() == before - 1  # nor the one that accepts
    listener.stop()


def test_stop_before_start() -> None:
    Listener("test", tcp_listening(ANY_PORT), echo, 2).stop()


def test_a_client_that_is_gone_already_is_cut_too(listener: Listener) -> None:
    served = threading.Event()
    ended = threading.Event()

    def hang(sock: socket.socket) -> None:
        sock.close()
        served.set()
        ended.wait(TIMEOUT_S)

    listener._serve = hang
    with client(listener) as one:
        served.wait(TIMEOUT_S)
        one.close()
        stopper = threading.Thread(target=listener.stop)
        stopper.start()
        ended.set()
        stopper.join()


def test_goes_on_after_threads_or_descriptors_ran_out(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "PAUSE_S", 0.01)
    problems: list[Exception] = [RuntimeError("can't start new thread"), OSError(24, "Too many open files")]
    take = listener._take

    def failing(connection: socket.socket) -> None:
        if problems:
            connection.close()
            raise problems.pop()
        take(connection)

    monkeypatch.setattr(listener, "_take", failing)
    for _ in range(2):
        with client(listener) as lost:
            assert lost.recv(1) == b""
    with client(listener) as one:
        assert answers(one)


def test_a_thread_that_cannot_start_leaves_nothing(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with client(listener) as lost:
            assert lost.recv(1) == b""
    assert listener._served == {}
    with client(listener) as one:
        assert answers(one)


def test_an_address_that_is_taken(listener: Listener) -> None:
    with pytest.raises(ListenFailed, match=f"{listener.address}.*in use") as failed:
        tcp_listening(listener.address)
    assert failed.value.code == "connector.listen"


def test_a_path_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "local.sock"
    for _ in range(2):  # an old socket is replaced
        listener = Listener("local", unix_listening(path), echo, 2)
        listener.start()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with socket.socket(socket.AF_UNIX) as one:
            one.connect(str(path))
            assert answers(one)
        listener.stop()


@pytest.mark.parametrize("name", ["absent/local.sock", "x" * 120])
def test_a_path_that_cannot_be_had(tmp_path: Path, name: str) -> None:
    with pytest.raises(ListenFailed, match=r"cannot listen on .*(local|xxx)"):
        unix_listening(tmp_path / name)
