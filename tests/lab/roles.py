"""A lab's roles as a user starts them, and what runs of them."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DMCTL = [sys.executable, "-m", "dmctl"]
TIMEOUT_S = 110


def dmctl(
    *arguments: str | Path, code: int = 0, env: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    command = [*DMCTL, *map(str, arguments)]
    env = {**os.environ, **(env or {})}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S, env=env)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    return done


@contextmanager
def lab_up(root: Path, *options: str) -> Iterator[dict[str, str]]:
    """A lab that is up, stopped by Ctrl-C in the end; gives the environment of its operator."""
    command = [*DMCTL, "lab", "up", str(root), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            await_up(process)
            yield {"DMCTL_PROFILE": str(root / "login.json")}
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(60) in {0, 130}


def await_up(process: "subprocess.Popen[str]") -> None:
    """Return when `lab up` has said so."""
    assert process.stdout is not None
    assert any("All three roles run" in line for line in process.stdout), process.stderr and process.stderr.read()


def processes_of(root: Path) -> list[str]:
    """The command lines of processes that work in a directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(root) in line and "dmctl" in line:
            found.append(line)
    return found
