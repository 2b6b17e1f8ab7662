import socket

import pytest

from dmcore.api.cutting import Lines


def test_what_is_opened_after_the_cut_is_cut_at_once() -> None:
    lines = Lines()
    here, there = socket.socketpair()
    late, late_there = socket.socketpair()
    with here, there, late, late_there:
        lines.add(here)
        lines.cut()
        assert there.recv(1) == b""
        lines.add(late)
        assert late_there.recv(1) == b""


def test_what_is_closed_already_does_no_harm() -> None:
    lines = Lines()
    here, there = socket.socketpair()
    lines.add(here)
    here.close()
    there.close()
    lines.cut()
    assert lines.were_cut
    with pytest.raises(OSError, match="descriptor"):
        here.recv(1)
