import signal
import threading

import pytest

from dmcore.errors import ExitCode
from dmctl.stopping import Stop


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, ExitCode.OK), (signal.SIGINT, ExitCode.INTERRUPTED)], ids=["term", "int"]
)
def test_a_signal_asks_to_stop(number: signal.Signals, code: ExitCode) -> None:
    with Stop() as stop:
        assert not stop.wait(0)
        signal.raise_signal(number)
        assert stop.asked
        assert stop.wait()
        assert stop.wait()  # however often
        assert stop.exit_code is code


def test_the_first_signal_decides() -> None:
    with Stop() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert stop.exit_code is ExitCode.OK


@pytest.mark.parametrize("receiver", ["main", "other"])
def test_who_waits_is_woken_whichever_thread_the_signal_reaches(receiver: str) -> None:
    """The kernel may choose any; after SIGCONT it often is not the main one."""
    waiting, over = threading.Event(), threading.Event()

    def raise_it() -> None:
        assert waiting.wait(60)
        target = threading.main_thread() if receiver == "main" else threading.current_thread()
        signal.pthread_kill(target.ident or 0, signal.SIGTERM)
        assert over.wait(60)  # the signal is this thread's: it must not end before it has arrived

    thread = threading.Thread(target=raise_it)
    with Stop() as stop:
        thread.start()
        waiting.set()
        assert stop.wait()
        assert stop.exit_code is ExitCode.OK
        over.set()
        thread.join()


def test_other_signals_do_not_ask() -> None:
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    with Stop() as stop:
        signal.raise_signal(signal.SIGUSR1)
        assert not stop.wait(0)
    signal.signal(signal.SIGUSR1, before)


def test_afterwards_signals_do_what_they_did() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    fd = signal.set_wakeup_fd(-1)
    with Stop() as stop:
        pass
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert signal.set_wakeup_fd(fd) == -1
    assert stop.exit_code is ExitCode.OK
