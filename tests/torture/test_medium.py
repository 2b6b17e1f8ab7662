"""The medium is what it says: durable after a sync, any part of it before, and a target by the contract."""

import ast
import errno
import inspect
import os
import random
import textwrap
from pathlib import Path

import pytest

from dmcore.shadow.storage import Storage
from dmcore.targets.base import Target
from tests.targets.contract import TargetContract
from tests.torture.loss import SECTOR, AllBut, Behind, Everything, Loss, Some, Whole, losses
from tests.torture.medium import Medium
from tests.torture.medium_target import MediumTarget
from tests.torture.memory_storage import MemoryStorage

ROOT = Path("/")
SYSTEM = {"os", "shutil", "sparse_copy", "Path"}
"""What a method of `Storage` that reaches the real file system names."""
OF_A_PATH = {"rename", "unlink", "mkdir", "exists", "is_dir", "iterdir", "stat", "read_bytes", "write_bytes", "touch"}


@pytest.fixture
def medium() -> Medium:
    return Medium()


@pytest.fixture
def storage(medium: Medium) -> MemoryStorage:
    return MemoryStorage(medium)


class TestMediumTarget(TargetContract):
    @pytest.fixture
    def target(self, storage: MemoryStorage) -> Target:
        return MediumTarget(storage, ROOT / "target")


def test_a_devices_snapshot_holds_what_was_flushed(storage: MemoryStorage) -> None:
    target = MediumTarget(storage, ROOT / "target", device=True)
    target.create("v", SECTOR)
    volume = target.open("v")
    storage.io.append(volume._fd, b"", b"a" * SECTOR, 0)
    before = target.open_snapshot(target.snapshot("v", "before"))
    volume.flush()
    after = target.open_snapshot(target.snapshot("v", "after"))
    held = [bytearray(SECTOR), bytearray(SECTOR)]
    before.read_into(0, held[0])
    after.read_into(0, held[1])
    assert held == [bytes(SECTOR), b"a" * SECTOR]


def reaches_the_system(method: object) -> bool:
    tree = ast.parse(textwrap.dedent(inspect.getsource(method)))  # type: ignore[arg-type]
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    called = {
        node.func.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and ast.unparse(node.func.value) != "self"
    }
    constants = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    only_flags = all(text.startswith("os.O_") for text in constants if text.startswith("os."))
    return bool(names & SYSTEM - ({"os", "Path"} if only_flags else set())) or bool(called & OF_A_PATH)


def test_no_call_of_storage_reaches_the_real_file_system() -> None:
    """Every method is overridden, or is made of others."""
    real = {name: method for name, method in vars(Storage).items() if inspect.isfunction(method)}
    assert {name for name in ("_move", "sync_dir", "free_bytes") if reaches_the_system(real[name])}
    kept = {name for name in real if name not in vars(MemoryStorage)}
    assert {name for name in kept if reaches_the_system(real[name])} == set()


class TestFiles:
    @pytest.fixture
    def fd(self, storage: MemoryStorage) -> int:
        fd = storage.create(ROOT / "f")
        storage.io.append(fd, b"", b"a" * 3 * SECTOR, 0)
        storage.io.sync(fd)
        return fd

    def test_synced_is_kept(self, storage: MemoryStorage, medium: Medium, fd: int) -> None:
        assert medium.unsynced() == []
        assert medium.cut(Everything()) == {"/f": b"a" * 3 * SECTOR}

    def test_unsynced_is_lost_kept_or_a_part(self, storage: MemoryStorage, medium: Medium, fd: int) -> None:
        storage.io.append(fd, b"", b"b" * 2 * SECTOR, 100)
        old, new = b"a" * 3 * SECTOR, b"a" * 100 + b"b" * 2 * SECTOR + b"a" * (SECTOR - 100)
        assert medium.cut(Everything()) == {"/f": old}
        assert medium.cut(Loss()) == {"/f": new}
        found = {medium.cut(Some(random.Random(seed)))["/f"] for seed in range(100)}
        choices = [(old[at : at + SECTOR], new[at : at + SECTOR]) for at in range(0, 3 * SECTOR, SECTOR)]
        assert found == {a + b + c for a in choices[0] for b in choices[1] for c in choices[2]}
        assert {medium.cut(Whole(random.Random(seed)))["/f"] for seed in range(20)} == {old, new}

    def test_writes_of_one_sector_are_there_in_order(self, storage: MemoryStorage, medium: Medium, fd: int) -> None:
        for byte in (b"b", b"c"):
            storage.io.append(fd, b"", byte * 10, 0)
        found = {(medium.cut(Some(random.Random(seed)))["/f"] or b"")[:1] for seed in range(50)}
        assert found == {b"a", b"b", b"c"}

    def test_a_prefix_and_the_last(self, storage: MemoryStorage, medium: Medium, fd: int) -> None:
        for at, byte in enumerate((b"b", b"c", b"d")):
            storage.io.append(fd, b"", byte * SECTOR, at * SECTOR)
        first, second, third = medium.unsynced()

        def heads(loss: Loss) -> bytes:
            return (medium.cut(loss)["/f"] or b"")[::SECTOR]

        assert {heads(Behind(random.Random(seed), second)) for seed in range(20)} == {b"baa", b"bca"}
        assert heads(AllBut(third)) == b"aad"
        assert heads(AllBut(first)) == b"baa"

    def test_it_may_have_grown_without_its_data(self, storage: MemoryStorage, medium: Medium, fd: int) -> None:
        storage.io.append(fd, b"", b"b" * 2 * SECTOR, 3 * SECTOR)
        found = {(medium.cut(Some(random.Random(seed)))["/f"] or b"")[3 * SECTOR :: SECTOR] for seed in range(100)}
        assert found == {b"", b"\0\0", b"b", b"\0b", b"b\0", b"bb"}

    def test_what_was_there_before_may_be_read_there(self, storage: MemoryStorage, medium: Medium, fd: int) -> None:
        storage.close(fd)
        storage.unlink(ROOT / "f")
        fd = storage.create(ROOT / "f")
        storage.io.append(fd, b"", b"b" * SECTOR, 0)
        found = {medium.cut(Some(random.Random(seed)))["/f"] for seed in range(100)}
        assert found == {b"", bytes(SECTOR), b"a" * SECTOR, b"b" * SECTOR}

    def test_a_cut_is_there_or_not(self, storage: MemoryStorage, medium: Medium, fd: int) -> None:
        storage._set_size(fd, SECTOR)
        assert {len(medium.cut(Some(random.Random(seed)))["/f"] or b"") for seed in range(20)} == {SECTOR, 3 * SECTOR}
        storage.io.append(fd, b"", b"b", SECTOR)
        storage.io.sync(fd)
        assert medium.cut(Everything()) == {"/f": b"a" * SECTOR + b"b"}

    def test_punching_is_a_write_and_never_lengthens(self, storage: MemoryStorage, medium: Medium, fd: int) -> None:
        storage.fds.fallocate(fd, 3, 2 * SECTOR, 5 * SECTOR)
        assert medium.cut(Everything()) == {"/f": b"a" * 3 * SECTOR}
        assert medium.cut(Loss()) == {"/f": b"a" * 2 * SECTOR + bytes(SECTOR)}

    def test_a_failed_sync_loses_what_is_still_read(self, storage: MemoryStorage, medium: Medium, fd: int) -> None:
        def fail(what: str) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        storage.io.append(fd, b"", b"b" * SECTOR, 0)
        medium.before = fail
        with pytest.raises(OSError, match="Input/output"):
            storage.io.sync(fd)
        medium.before = lambda what: None
        storage.io.append(fd, b"", b"c" * SECTOR, SECTOR)
        storage.io.sync(fd)
        assert storage.read_file(ROOT / "f")[::SECTOR] == b"bca"
        storage.forget_cached(fd)
        assert storage.read_file(ROOT / "f")[::SECTOR] == b"aca"
        assert medium.cut(Loss()) == {"/f": b"a" * SECTOR + b"c" * SECTOR + b"a" * SECTOR}


class TestNames:
    def test_each_is_there_or_not_until_its_directory_is_synced(self, storage: MemoryStorage, medium: Medium) -> None:
        storage.make_dir(ROOT / "d")
        for name in ("old", "x"):
            storage.close(storage._open(ROOT / "d" / name, os.O_CREAT))
        found = {tuple(sorted(medium.cut(Whole(random.Random(seed))))) for seed in range(50)}
        assert found == {("/d",), ("/d", "/d/old"), ("/d", "/d/x"), ("/d", "/d/old", "/d/x")}
        storage.sync_dir(ROOT / "d")
        assert sorted(medium.cut(Everything())) == ["/d", "/d/old", "/d/x"]

    def test_a_rename_is_whole(self, storage: MemoryStorage, medium: Medium) -> None:
        storage.replace(ROOT / "f", b"old")
        fd = storage.create(ROOT / "f.new")
        storage.io.append(fd, b"", b"new", 0)
        storage.io.sync(fd)
        storage._move(ROOT / "f.new", ROOT / "f")
        found = [medium.cut(Whole(random.Random(seed))) for seed in range(20)]
        assert {tuple(sorted(left.items())) for left in found} == {
            (("/f", b"old"), ("/f.new", b"new")),
            (("/f", b"new"),),
        }
        assert medium.cut(Everything()) == {"/f": b"old", "/f.new": b"new"}

    def test_a_rename_to_another_directory_may_be_there_in_half(self, storage: MemoryStorage, medium: Medium) -> None:
        storage.make_dir(ROOT / "d")
        storage.replace(ROOT / "f", b"x")
        storage._move(ROOT / "f", ROOT / "d" / "f")
        assert {name for name in ("/f", "/d/f") if name in medium.nodes} == {"/d/f"}
        found = {tuple(sorted(medium.cut(Whole(random.Random(seed))))) for seed in range(50)}
        assert found == {("/d",), ("/d", "/f"), ("/d", "/d/f"), ("/d", "/d/f", "/f")}

    def test_what_was_removed_may_be_back_with_part_of_its_data(self, storage: MemoryStorage, medium: Medium) -> None:
        storage.make_dir(ROOT / "d")
        fd = storage.create(ROOT / "d" / "f")
        storage.io.append(fd, b"", b"a", 0)
        storage._remove_all(ROOT / "d")
        assert not storage.exists(ROOT / "d")
        found = {tuple(sorted(medium.cut(Some(random.Random(seed))).items())) for seed in range(100)}
        there = ("/d", None)
        assert found == {(), (there,), (there, ("/d/f", b"")), (there, ("/d/f", b"\0")), (there, ("/d/f", b"a"))}

    def test_an_image_makes_the_same_medium(self, storage: MemoryStorage, medium: Medium) -> None:
        storage.make_dir(ROOT / "d" / "e")
        storage.replace(ROOT / "d" / "f", b"x")
        image = medium.cut(Everything())
        again = Medium(image)
        assert again.cut(Loss()) == again.cut(Everything()) == image
        assert again.unsynced() == []
        assert MemoryStorage(again).names(ROOT / "d") == ["e", "f"]

    def test_what_no_file_system_does(self, storage: MemoryStorage, medium: Medium) -> None:
        storage.make_dir(ROOT / "d")
        storage.replace(ROOT / "d" / "f", b"x")
        with pytest.raises(FileExistsError):
            storage.create(ROOT / "d" / "f")
        with pytest.raises(FileNotFoundError):
            storage.open(ROOT / "g")
        with pytest.raises(IsADirectoryError):
            storage.read_file(ROOT / "d")
        with pytest.raises(NotADirectoryError):
            storage.sync_dir(ROOT / "d" / "f")
        with pytest.raises(OSError, match="not empty"):
            medium.remove("/d")
        with pytest.raises(OSError, match="Bad file"):
            storage.close(3)


def test_power_is_cut_in_different_ways() -> None:
    assert len({type(loss) for loss in losses(random.Random(1), 9, 1)}) == 6
