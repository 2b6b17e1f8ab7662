"""Where a source keeps its reflink snapshots: one folder each, whole or not there.

<root>/.dmcore-snapshots/<name>/snapshot.json            what it is (`SnapshotRecord`)
<root>/.dmcore-snapshots/<name>/disks/<machine>/<disk>   the reflinks
<root>/.dmcore-snapshots/.<name>.tmp                     being made, or being removed
"""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from dmcore.blocks import files
from dmcore.model.enums import Reason
from dmcore.sources.errors import SnapshotFailed

FOLDER = ".dmcore-snapshots"
RECORD = "snapshot.json"
DISKS = "disks"
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")


class DiskRecord(BaseModel):
    """One disk of a snapshot, and its tracking token, or why it has none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    machine: str
    disk: str
    disk_bytes: int
    token: str | None
    reason: Reason
    problem: str


class SnapshotRecord(BaseModel):
    """What only this snapshot is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    identity: str
    taken_at: datetime
    disks: tuple[DiskRecord, ...]


class SnapshotStore:
    """The snapshots under one root. Its folder is made with the first of them."""

    def __init__(self, root: Path) -> None:
        self._folder = root / FOLDER

    def path(self, name: str) -> Path:
        """The folder of a finished snapshot.

        Raises:
            SnapshotFailed: no snapshot can have this name.
        """
        if not NAME.fullmatch(name):
            raise SnapshotFailed(path=str(self._folder), name=repr(name), problem="no name for a snapshot")
        return self._folder / name

    @contextlib.contextmanager
    def making(self, name: str) -> Iterator[Path]:
        """A folder to fill. When the block ends it is made durable and gets its name; if it fails, all goes.

        Raises:
            SnapshotFailed: the name is taken, or a system call failed.
        """
        path, unfinished = self.path(name), self._unfinished(name)
        if path.exists():
            raise SnapshotFailed(path=str(self._folder), name=name, problem="exists already")
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self._remove_tree(unfinished)
            unfinished.mkdir()
            yield unfinished
            self._finish(unfinished, path)
        except BaseException as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            if isinstance(error, OSError):
                raise SnapshotFailed(path=str(self._folder), name=name, problem=str(error)) from error
            raise

    def write(self, folder: Path, record: SnapshotRecord) -> None:
        """Describe the snapshot being made. Raises OSError."""
        with (folder / RECORD).open("w", encoding="utf-8") as out:
            out.write(record.model_dump_json(indent=1))
            out.flush()
            os.fsync(out.fileno())

    def read(self, name: str) -> SnapshotRecord | None:
        """What a snapshot is; None if there is none.

        Raises:
            SnapshotFailed: its description cannot be read.
        """
        try:
            text = (self.path(name) / RECORD).read_text(encoding="utf-8")
            return SnapshotRecord.model_validate_json(text)
        except FileNotFoundError:
            return None
        except (OSError, ValidationError, UnicodeDecodeError) as error:
            problem = f"{RECORD} cannot be read: {error}; delete the snapshot"
            raise SnapshotFailed(path=str(self._folder), name=name, problem=problem) from error

    def names(self) -> list[str]:
        """All snapshots, half made and half removed ones too: each takes space until it is deleted."""
        try:
            found = {entry.name for entry in self._folder.iterdir()}
        except FileNotFoundError:
            return []
        except OSError as error:
            raise SnapshotFailed(path=str(self._folder), name="*", problem=str(error)) from error
        names = {name.removeprefix(".").removesuffix(".tmp") for name in found}
        return sorted(name for name in names if NAME.fullmatch(name))

    def delete(self, name: str) -> None:
        """Remove a snapshot: first its name, at once, then its files. No error if there is none.

        Raises:
            SnapshotFailed: it is still there, or part of it.
        """
        path, unfinished = self.path(name), self._unfinished(name)
        try:
            self._remove_tree(unfinished)
            if path.exists():
                path.rename(unfinished)
                files.fsync_dir(self._folder)
                self._remove_tree(unfinished)
        except OSError as error:
            problem = f"cannot be removed: {error}"
            raise SnapshotFailed(path=str(self._folder), name=name, problem=problem) from error

    def _unfinished(self, name: str) -> Path:
        return self._folder / f".{name}.tmp"

    def _finish(self, unfinished: Path, path: Path) -> None:
        for folder, _, _ in os.walk(unfinished):
            files.fsync_dir(Path(folder))
        unfinished.rename(path)
        files.fsync_dir(self._folder)

    @staticmethod
    def _remove_tree(path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path)
