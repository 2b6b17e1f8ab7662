"""Giving a recovery point back: its disks as sparse files in a folder, each whole and synced before it has its name."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import UUID

from pydantic import BaseModel

from dmcore.blocks import extents as ex
from dmcore.connector.errors import RecoveryRefused
from dmcore.host.errors import FileBroken
from dmcore.host.files import fsync_dir, read_state, replace_file
from dmcore.model.ids import DiskId
from dmcore.native.patching import BlockIO
from dmcore.shadow.points import Point, PointDisk
from dmcore.shadow.storage import Storage
from dmcore.targets.base import Readable, Target

PIECE_BYTES = 4 << 20
RECOVERY_FILE = "recovery.json"

Progress = Callable[[int], None]


class RecoveredDisk(BaseModel):
    """Where a disk of a point was put."""

    disk: DiskId
    machine: str
    label: str
    path: Path
    disk_bytes: int


def recover_point(
    point: Point, target: Target, folder: Path, progress: Progress, storage: Storage
) -> list[RecoveredDisk]:
    """Write every disk of a point into a folder, which is made if it is not there. Nothing is overwritten.

    Raises:
        RecoveryRefused: a file is there already, or the folder cannot be written. TargetError: reading failed.
    """
    try:
        folder.mkdir(exist_ok=True)
        return [_recover_disk(disk, target, folder, progress, storage) for disk in point.disks]
    except FileExistsError as error:
        raise RecoveryRefused(path=str(error.filename), problem="is there already; nothing is overwritten") from error
    except OSError as error:
        problem = f"{error.strerror or error}; free space, or name another folder"
        raise RecoveryRefused(path=str(error.filename or folder), problem=problem) from error


def recover_whole(point: Point, target: Target, root: Path, job: UUID, progress: Progress, storage: Storage) -> None:
    """Write a point into `root/<point>`, which then also says in RECOVERY_FILE what it holds and which job made it.

    The folder has its name only once it is whole. The same job again finds it done, or begins anew.

    Raises:
        RecoveryRefused: a folder of another job, or anything else, is there already; or it cannot be written.
        TargetError: reading failed. Nothing is left behind.
    """
    folder, partial = root / str(point.id), root / f".{point.id}.{job}"
    try:
        if _made_by(job, folder):
            return
        if folder.exists() or folder.is_symlink():
            raise RecoveryRefused(path=str(folder), problem="is there already; nothing is overwritten")
        if partial.exists() or partial.is_symlink():  # left by a killed process; a symbolic link is not followed
            shutil.rmtree(partial)
        disks = recover_point(point, target, partial, progress, storage)
        replace_file(partial / RECOVERY_FILE, _manifest(point, job, disks))
        partial.rename(folder)
        fsync_dir(root)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError):
            raise RecoveryRefused(path=str(error.filename or folder), problem=error.strerror or str(error)) from error
        raise


def _made_by(job: UUID, folder: Path) -> bool:
    try:
        return bool(json.loads(read_state(folder / RECOVERY_FILE))["job"] == str(job))
    except (OSError, FileBroken, ValueError, TypeError, LookupError):
        return False


def _manifest(point: Point, job: UUID, disks: list[RecoveredDisk]) -> bytes:
    said = [{**disk.model_dump(mode="json", exclude={"path"}), "file": disk.path.name} for disk in disks]
    facts = {"job": str(job), "point": str(point.id), "source_time": point.source_time.isoformat(), "disks": said}
    return json.dumps(facts, indent=1).encode()


def file_name(disk: PointDisk) -> str:
    """A name that tells the disk; labels are the source's words, so nothing of a path is left in them."""
    words = [re.sub(r"[^A-Za-z0-9_-]+", "_", word).strip("_") for word in (disk.machine, disk.label)]
    return ".".join([*(word[:64] for word in words if word), str(disk.disk)[:8], "img"])


def _recover_disk(disk: PointDisk, target: Target, folder: Path, progress: Progress, storage: Storage) -> RecoveredDisk:
    path = folder / file_name(disk)
    if path.exists() or path.is_symlink():
        raise FileExistsError(0, "exists", str(path))
    partial = path.with_name(f".{path.name}.partial")
    storage.unlink(partial)
    try:
        with _made(storage, partial, disk.disk_bytes) as fd:
            with closing(target.open_snapshot(disk.snapshot)) as image:
                _copy(image, fd, progress, storage.io)
            storage.io.sync(fd)
        storage.rename(partial, path)
    except BaseException:
        storage.unlink(partial)
        raise
    return RecoveredDisk(disk=disk.disk, machine=disk.machine, label=disk.label, path=path, disk_bytes=disk.disk_bytes)


@contextmanager
def _made(storage: Storage, path: Path, size: int) -> Iterator[int]:
    fd = storage.create(path)
    try:
        storage.truncate(path, size)
        yield fd
    finally:
        storage.close(fd)


def _copy(image: Readable, fd: int, progress: Progress, io: BlockIO) -> None:
    buffer = memoryview(bytearray(PIECE_BYTES))
    for offset, length in ex.split(image.allocated(), PIECE_BYTES).tolist():
        piece = buffer[:length]
        image.read_into(offset, piece)
        io.append(fd, b"", piece, offset)
        progress(length)
