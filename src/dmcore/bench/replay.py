"""A list of library calls made from C: Python's own cost, several hundred nanoseconds a call, would blur the bound.

The loop is ten lines of C, compiled when a benchmark begins. It calls whatever address it is given, which is why it is
no part of the native core: only benchmarks have it.
"""

import ctypes
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from dmcore.bench.errors import CompilerFailed
from dmcore.bench.libraries import Call

MAX_ARGUMENTS = 6
"""What every ABI of a 64-bit Linux passes in registers, each in a 64-bit one whatever its type."""

SOURCE = """
#include <stddef.h>
#include <stdint.h>
typedef uint64_t u;
void replay(const u (*calls)[7], size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const u *c = calls[i];
        ((u (*)(u, u, u, u, u, u))c[0])(c[1], c[2], c[3], c[4], c[5], c[6]);
    }
}
"""


class Replay:
    """Calls in a table, ready to be made."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self._calls = calls  # keeps alive what the table points to
        self._table = np.array([row(call) for call in calls], dtype=np.uint64)

    def seconds(self) -> float:
        """Make every call, and say how long they took."""
        replay, table, count = compiled(), ctypes.c_void_p(self._table.ctypes.data), ctypes.c_size_t(len(self._table))
        started = perf_counter()
        replay(table, count)
        return perf_counter() - started


def row(call: Call) -> list[int]:
    """The function's address and its arguments, as a register holds them."""
    function, arguments = call
    registers = [register(argument) for argument in arguments]
    return [register(function), *registers, *[0] * (MAX_ARGUMENTS - len(registers))]


def register(value: Any) -> int:
    """An argument as 64 bits."""
    if value is None:
        return 0
    if isinstance(value, bytes):
        return ctypes.cast(ctypes.c_char_p(value), ctypes.c_void_p).value or 0
    if isinstance(value, int):
        return value & (1 << 64) - 1
    if isinstance(value, (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long)):
        return (value.value or 0) & (1 << 64) - 1
    return ctypes.cast(value, ctypes.c_void_p).value or 0


@cache
def compiled(compiler: str = "cc") -> Any:
    """The C loop, ready to be called; it releases the GIL.

    Raises:
        CompilerFailed: there is no C compiler, or it refused.
    """
    with tempfile.TemporaryDirectory(prefix="dmcore-bench-") as folder:
        library = Path(folder, "replay.so")
        command = [compiler, "-O2", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)]
        try:
            subprocess.run(command, input=SOURCE, text=True, capture_output=True, check=True)  # noqa: S603 - ours alone
        except FileNotFoundError:
            raise CompilerFailed(compiler=compiler, problem="not found") from None
        except subprocess.CalledProcessError as refused:
            raise CompilerFailed(compiler=compiler, problem=refused.stderr.strip()) from None
        replay = ctypes.CDLL(str(library)).replay
    replay.restype = None
    return replay
