"""A network namespace with nothing but its own loopback: what runs in it reaches nobody outside, and nobody it.

Python 3.11 cannot enter namespaces by itself; `unshare` and `nsenter` of util-linux can.
"""

import fcntl
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

from dmcore.lab.errors import NoNamespace

GET_FLAGS, SET_FLAGS, UP = 0x8913, 0x8914, 0x1
"""SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP."""
REQUEST = struct.Struct("16sh14x")
LOOPBACK = "lo"


def isolated(command: Sequence[str]) -> list[str]:
    """The command line that runs a command in a new namespace of its own.

    Raises:
        NoNamespace: the kernel, or this container, does not allow one.
    """
    options = [] if os.geteuid() == 0 else ["--map-root-user"]
    entering = [_tool("unshare"), "--net", *options, "--"]
    done = subprocess.run([*entering, "true"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoNamespace(problem=done.stderr.strip() or f"unshare exited with {done.returncode}")
    return [*entering, *command]


def inside(pid: int, command: Sequence[str]) -> list[str]:
    """The command line that runs a command in the namespace of a process."""
    options = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
    return [_tool("nsenter"), "--target", str(pid), "--net", *options, "--", *command]


def bring_loopback_up() -> None:
    """In a namespace that was just made, where even that is down.

    Raises:
        NoNamespace: this is no such namespace: there is a way out.
    """
    others = [name for _, name in socket.if_nameindex() if name != LOOPBACK and _is_up(name)]
    if others:
        raise NoNamespace(problem=f"there are other interfaces: {', '.join(others)}")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            fcntl.ioctl(asked, SET_FLAGS, REQUEST.pack(LOOPBACK.encode(), _flags(asked, LOOPBACK) | UP))
        except OSError as problem:
            raise NoNamespace(problem=f"loopback stays down: {problem.strerror}") from problem


def has_own_network(pid: int) -> bool:
    """Whether a process has another network than this one."""
    return Path(f"/proc/{pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()


def _is_up(name: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        return bool(_flags(asked, name) & UP)


def _flags(asked: socket.socket, name: str) -> int:
    return int(REQUEST.unpack(fcntl.ioctl(asked, GET_FLAGS, REQUEST.pack(name.encode(), 0)))[1])


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise NoNamespace(problem=f"{name} is not there (Debian: apt install util-linux)")
    return found
