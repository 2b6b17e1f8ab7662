"""A forked child holds no keys: in a process of its own, because a fork takes the test runner's state along."""

import subprocess
import sys

SCRIPT = """
import os, sys
import numpy as np
from dmcore.native.digests import Scanner
from dmcore.native.errors import SealFailed
from dmcore.native.opening import Opener
from dmcore.native.sealing import Sealer

grid = {"block_bytes": 4096, "disk_bytes": 4096}
sealer = Sealer(bytes(32), bytes(32), bytes(32), codec=2, **grid)
opener = Opener(bytes(32), bytes(32), bytes(32), **grid)
scanner = Scanner(bytes(32), **grid)
out = bytearray(99)
blocks, raw = np.zeros(1, dtype=np.int64), bytes(4096)
gone = Sealer(bytes(32), bytes(32), bytes(32), codec=0, **grid)
del gone

def use():
    used = sealer.seal_control(0, 0, b"", out)
    opener.verify(0, out[:used])
    scanner.scan(blocks, raw)

def refused(call):
    try:
        call()
    except SealFailed as error:
        return "wiped" in error.problem
    return False

use()
calls = [
    lambda: sealer.seal_control(3, 1, bytes(32), out),
    lambda: opener.verify(0, bytes(out[:56])),
    lambda: scanner.scan(blocks, raw),
]
child = os.fork()
if child == 0:
    os._exit(0 if all(refused(call) for call in calls) else 1)
_, status = os.waitpid(child, 0)
for call in calls[1:] + calls[:1]:
    call()
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_keys_are_wiped_in_a_forked_child_and_stay_in_its_parent() -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT], capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 0, result.stderr
