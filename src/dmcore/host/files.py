"""Small state files: replaced or made as a whole, durable when the call returns."""

import os
import re
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from dmcore.host.errors import FileBroken, FileExposed

MAX_STATE_BYTES = 1 << 20
"""No file read here is larger; whatever is, is not ours."""
SCRATCH = re.compile(r"\..+\.([0-9]+)-[0-9a-f]{16}")
"""A file that is being made, and by which process."""


def replace_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Old content or new after a crash, never a mixture."""
    scratch = _scratch(path, data, mode)
    try:
        scratch.replace(path)
    except OSError:
        scratch.unlink()
        raise
    fsync_dir(path.parent)


def create_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Like `replace_file`, but of several that race exactly one makes it; the others get FileExistsError."""
    scratch = _scratch(path, data, mode)
    try:
        os.link(scratch, path)
    finally:
        scratch.unlink()
    fsync_dir(path.parent)


def remove_scratch(folder: Path) -> None:
    """Remove what processes that were killed have left half made, in a whole tree.

    For the process that has the tree to itself, before it makes anything there: only another one that lives, such as an
    operator's command, can be at work.
    """
    for place, _, names in os.walk(folder):
        for name in names:
            made_by = SCRATCH.fullmatch(name)
            if made_by and not _is_another(int(made_by[1])):
                with suppress(FileNotFoundError):  # that command's own, which has its name now
                    (Path(place) / name).unlink()


def fsync_dir(path: Path) -> None:
    """Make names in a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_dir(path: Path) -> Path:
    """A directory of the node's state, for its owner only; made durably, with its parents, if it is not there."""
    if not path.is_dir():
        make_dir(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
        fsync_dir(path.parent)
    return path


def read_state(path: Path) -> bytes:
    """A small file.

    Raises:
        FileNotFoundError: there is none.
        FileBroken: it cannot be read, or is larger than any state file.
    """
    return _read(path)[0]


def read_private(path: Path) -> bytes:
    """A file with a private key.

    Raises:
        FileNotFoundError: there is none.
        FileExposed: others than the owner have rights on it.
        FileBroken: it cannot be read.
    """
    data, mode = _read(path)
    if mode & 0o077:
        raise FileExposed(path=str(path), mode=f"{mode:04o}")
    return data


def _read(path: Path) -> tuple[bytes, int]:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(MAX_STATE_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as problem:
        raise FileBroken(path=str(path), problem=problem.strerror or str(problem)) from problem
    if len(data) > MAX_STATE_BYTES:
        raise FileBroken(path=str(path), problem=f"longer than {MAX_STATE_BYTES} bytes")
    return data, mode


def _scratch(path: Path, data: bytes, mode: int) -> Path:
    scratch = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(8)}")
    handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with open(handle, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
            file.write(data)
            file.flush()
            os.fsync(handle)
    except OSError:
        scratch.unlink()
        raise
    return scratch


def _is_another(pid: int) -> bool:
    """Whether a process of this number lives, and is not this one: in a container they begin anew at each start."""
    return pid != os.getpid() and Path(f"/proc/{pid}").exists()
