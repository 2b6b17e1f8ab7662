"""Protected disks for the contract suite, one lab a source."""

import os
from pathlib import Path

from dmcore.model.enums import SnapshotKind
from dmcore.sources.base import Source
from dmcore.sources.image import ImageSource
from dmcore.sources.tracked import TrackedSource
from dmcore.sources.tracking import start_tracking
from dmcore.sources.writer import TrackedWriter
from tests.sources.faulty import FaultySource
from tests.sources.memory import MemorySource


class MemoryLab:
    def __init__(self, kind: SnapshotKind = SnapshotKind.REFLINK, *, tracking: bool = True) -> None:
        self.source = MemorySource(kind, tracking=tracking)
        self.add = self.source.add
        self.write = self.source.write

    def open(self) -> Source:
        return self.source


class FaultyLab(MemoryLab):
    def open(self) -> Source:
        return FaultySource(self.source)


class ImageLab:
    def __init__(self, root: Path) -> None:
        self.root = root

    def add(self, machine: str, disk: str, content: bytes) -> None:
        path = self.root / machine / disk
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)

    def write(self, machine: str, disk: str, offset: int, data: bytes) -> None:
        fd = os.open(self.root / machine / disk, os.O_RDWR)
        os.pwrite(fd, data, offset)
        os.close(fd)

    def open(self) -> Source:
        return ImageSource(self.root)


class TrackedLab(ImageLab):
    def add(self, machine: str, disk: str, content: bytes) -> None:
        super().add(machine, disk, content)
        start_tracking(self.root / machine / disk)

    def write(self, machine: str, disk: str, offset: int, data: bytes) -> None:
        with TrackedWriter(self.root / machine / disk) as writer:
            writer.write(offset, data)

    def open(self) -> Source:
        return TrackedSource(self.root)
