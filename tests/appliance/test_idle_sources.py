"""Sources without snapshots, and bad disks: a clear error, no point that nobody saw, and the next cycle is right."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dmcore.appliance import reading
from dmcore.appliance.errors import MachineUnfit, MachineUnknown
from dmcore.errors import DmcoreError
from dmcore.model.enums import Reason
from dmcore.sources.errors import SourceChanged, SourceMissing, SourceUnfit
from dmcore.wire.errors import PeerRefused
from tests.appliance.cycle_lab import KIB, MIB, CycleLab, noise, only, text
from tests.appliance.watched import WatchedSource
from tests.sources.labs import ImageLab

SIZE = MIB


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageLab:
    monkeypatch.setattr(reading, "BATCH_BYTES", 64 * KIB)
    root = tmp_path / "machines"
    root.mkdir()
    made = ImageLab(root)
    made.add("vm", "a.img", text(SIZE))
    return made


def write(path: Path) -> None:
    with path.open("r+b") as disk:
        disk.seek(5)
        disk.write(b"somebody was here")


def replace_it(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.rename(path)


def grow(path: Path) -> None:
    os.truncate(path, SIZE + 512)


def shrink(path: Path) -> None:
    os.truncate(path, 4 * KIB)


@pytest.mark.parametrize("meddle", [write, replace_it, grow, shrink])
def test_a_disk_that_changes_while_it_is_read(lab: CycleLab, files: ImageLab, meddle: Callable[[Path], None]) -> None:
    path = files.root / "vm" / "a.img"
    source = WatchedSource(files.open())
    source.watch.at_read(5, lambda: meddle(path))
    job = lab.job()
    with pytest.raises(SourceChanged, match="stop its writer"):
        lab.run(source, job)
    assert lab.points() == []
    os.truncate(path, SIZE)
    with pytest.raises(PeerRefused) as caught:
        lab.run(files.open(), lab.next_attempt(job))  # another look at the disk is another snapshot
    assert caught.value.code == "cycle.dropped"
    report = lab.run(files.open())
    assert lab.image(report) == path.read_bytes()


def test_a_disk_that_changes_in_a_later_cycle_leaves_the_last_point(lab: CycleLab, files: ImageLab) -> None:
    first = lab.run(files.open())
    path = files.root / "vm" / "a.img"
    files.write("vm", "a.img", 100_000, noise(100_000))
    source = WatchedSource(files.open())
    source.watch.at_read(5, lambda: write(path))
    with pytest.raises(SourceChanged):
        lab.run(source)
    assert lab.points() == [first.point]
    assert lab.image(first) == text(SIZE)
    assert lab.image(lab.run(files.open())) == path.read_bytes()


def test_a_disk_that_has_grown_is_compared(lab: CycleLab, files: ImageLab) -> None:
    lab.run(files.open())
    grow(files.root / "vm" / "a.img")
    report = lab.run(files.open())
    assert (only(report).reason, only(report).disk_bytes) == (Reason.RESIZED, SIZE + 512)
    assert lab.image(report) == (files.root / "vm" / "a.img").read_bytes()


def add_empty(files: ImageLab) -> None:
    files.add("vm", "b.img", b"")


def add_odd(files: ImageLab) -> None:
    files.add("vm", "b.img", bytes(1000))


def add_link(files: ImageLab) -> None:
    (files.root / "vm" / "b.img").symlink_to("/dev/zero")


def add_pipe(files: ImageLab) -> None:
    os.mkfifo(files.root / "vm" / "b.img")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (add_empty, "b.img: empty"),
        (add_odd, "1000 bytes are no multiple of 512"),
        (add_link, "a symbolic link leads out of the source's root"),
        (add_pipe, "neither a regular file nor a block device"),
    ],
)
def test_a_machine_with_a_disk_that_is_none(
    lab: CycleLab, files: ImageLab, spoil: Callable[[ImageLab], None], words: str
) -> None:
    """The whole machine is refused: without one of its disks it is no machine that could be started."""
    spoil(files)
    with pytest.raises(MachineUnfit, match="machine vm") as caught:
        lab.run(files.open())
    assert words in str(caught.value)
    assert lab.proxy.accepted == 0


def test_a_machine_that_is_not_there(lab: CycleLab, files: ImageLab) -> None:
    with pytest.raises(MachineUnknown, match="has no machine web; it has: vm"):
        lab.run(files.open(), lab.job(["web"]))


def test_a_machine_that_goes_away_before_its_snapshot(lab: CycleLab, files: ImageLab) -> None:
    source = files.open()
    known = source.machines()
    (files.root / "vm" / "a.img").rename(files.root / "a.img")
    source.machines = lambda: known  # type: ignore[method-assign]
    with pytest.raises((SourceMissing, SourceUnfit)) as caught:
        lab.run(source)
    assert isinstance(caught.value, DmcoreError)
