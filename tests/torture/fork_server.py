"""A process that has imported everything and forks a role of a lab whenever it is asked: no start costs an import.

What is forked runs the same `dmctl` with the same arguments as any other process, in a session of its own. Requests and
answers are lines of JSON on standard input and output; when the input ends, so do all that were forked.

python -m tests.torture.fork_server
"""

import ctypes
import gc
import json
import os
import signal
import sys
from importlib import import_module
from typing import Any

from dmctl.main import root

HEAVY = (
    "dmctl.appliance", "dmctl.connector", "dmctl.control",
    "dmcore.appliance.service", "dmcore.connector.daemon", "dmcore.control.server", "uvicorn.lifespan.on",
    "uvicorn.loops.asyncio", "uvicorn.protocols.http.h11_impl", "sqlalchemy.dialects.sqlite",
)  # fmt: skip
PR_SET_PDEATHSIG = 1


def main() -> None:
    for name in HEAVY:
        import_module(name)
    gc.collect()
    gc.freeze()  # what a child's collector does not touch stays shared
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them here: the driver holds a handle of each
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            become(request)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


def become(request: dict[str, Any]) -> None:
    """Be the process that was asked for. Does not return."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for old, new in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(old, new)
    os.closerange(3, 64)
    root(args=request["arguments"], prog_name="dmctl")


if __name__ == "__main__":
    main()
