"""A real disk to show replication on: an ext4 file system of the machine's own files, changed as a user would."""

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dmcore.blocks.files import sparse_copy, try_reflink
from dmcore.lab.errors import ToolFailed, ToolMissing
from dmcore.lab.processes import environment
from dmcore.sources.writer import TrackedWriter

DISK_BYTES = 640 << 20
CONTENT_BYTES = 320 << 20
SMALLEST_FILE_BYTES, LARGEST_FILE_BYTES = 16 << 10, 16 << 20
ROOTS = (Path("/usr/share"), Path("/usr/lib"), Path("/usr/bin"))
EXT_MAGIC_OFFSET = 1080
EXT_MAGIC = b"\x53\xef"
COMPARE_BYTES = 4096
STAT_BLOCK_BYTES = 512
PIECE_BYTES = 8 << 20
TOOL_PATHS = ("/usr/sbin", "/sbin", "/usr/bin", "/bin")


def make_file_system(path: Path, scratch: Path) -> int:
    """An ext4 file system in a new file, filled with files of this machine. Returns how many.

    Raises:
        ToolMissing, ToolFailed: mke2fs.
    """
    tree = scratch / "files"
    count = _gather(tree)
    try:
        options = ["-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=0,lazy_journal_init=0", "-L", "dmcore-demo"]
        run_tool("mke2fs", *options, "-d", str(tree), str(path), f"{DISK_BYTES >> 10}k")
    finally:
        shutil.rmtree(tree, ignore_errors=True)
    return count


def copy_disk(source: Path, copy: Path) -> None:
    """A copy whose source is only ever read."""
    with source.open("rb") as held, copy.open("xb") as made:
        if not try_reflink(held.fileno(), made.fileno()):
            sparse_copy(held.fileno(), made.fileno(), held.seek(0, 2))


def data_bytes(image: Path | None) -> int:
    """About how much a disk holds: what is allocated of the user's, or what ours will be filled with."""
    return CONTENT_BYTES if image is None else image.stat().st_blocks * STAT_BLOCK_BYTES


def is_ext(path: Path) -> bool:
    """Whether it holds an ext2, ext3 or ext4 file system from its first byte on."""
    with path.open("rb") as disk:
        disk.seek(EXT_MAGIC_OFFSET)
        return disk.read(len(EXT_MAGIC)) == EXT_MAGIC


def change_file_system(path: Path, scratch: Path) -> list[str]:
    """Add, remove and rewrite files in an unmounted ext file system. Returns what was done, in words.

    Raises:
        ToolMissing, ToolFailed: debugfs.
    """
    fresh = scratch / "fresh"
    fresh.write_bytes(np.random.default_rng(7).bytes(3 << 20))
    text = scratch / "text"
    text.write_text("a line that compresses well\n" * 40_000)
    victims = _files_in(path)[:8]
    commands = ["mkdir added", f"write {fresh} added/random.bin", f"write {text} added/text.log"]
    commands += [f"rm {victim}" for victim in victims]
    rewritten = victims[:2]
    commands += [f"write {text} {victim}" for victim in rewritten]
    script = scratch / "debugfs.commands"
    script.write_text("\n".join(commands) + "\n")
    run_tool("debugfs", "-w", "-f", str(script), str(path))
    return [
        f"added 2 files ({(fresh.stat().st_size + text.stat().st_size) >> 10} KiB)",
        f"removed {len(victims) - len(rewritten)} files",
        f"rewrote {len(rewritten)} files",
    ]


def change_blocks(path: Path) -> list[str]:
    """What can be done to a disk of unknown content: overwrite a few places and zero one."""
    size = path.stat().st_size
    rng = np.random.default_rng(7)
    with path.open("r+b") as disk:
        for part in (0.1, 0.5, 0.9):
            disk.seek(int(size * part) // 512 * 512)
            disk.write(rng.bytes(min(100_000, size - disk.tell())))
        disk.seek(size // 4 // 512 * 512)
        disk.write(bytes(min(1 << 20, size - disk.tell())))
    return ["overwrote 3 places", "zeroed 1 MiB"]


def check_file_system(path: Path) -> str:
    """e2fsck, which changes nothing. Returns its last line; raises ToolFailed if it finds anything wrong."""
    return run_tool("e2fsck", "-fn", str(path)).strip().splitlines()[-1]


def write_differences(changed: Path, disk: Path) -> int:
    """Write what differs through the tracked writer, as the machine itself would have. Returns the bytes written."""
    written = 0
    with TrackedWriter(disk) as writer:
        for offset, data in _differences(changed, disk):
            writer.write(offset, data)
            written += len(data)
    return written


def sha256_of(path: Path) -> str:
    """Of a whole file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run_tool(tool: str, *arguments: str) -> str:
    """Run a program of the machine; returns what it printed. Raises ToolMissing, ToolFailed."""
    found = shutil.which(tool, path=":".join(TOOL_PATHS))
    if found is None:
        raise ToolMissing(tool=tool, package="e2fsprogs")
    done = subprocess.run([found, *arguments], capture_output=True, text=True, check=False, env=environment())
    if done.returncode:
        output = (done.stdout + done.stderr).strip()[-500:]
        raise ToolFailed(tool=tool, status=done.returncode, output=output)
    return done.stdout


def _gather(tree: Path) -> int:
    """Copy files of the machine into a tree, by name, until there is enough."""
    count, total = 0, 0
    for path in _machine_files():
        if total >= CONTENT_BYTES:
            break
        copy = tree / path.relative_to("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        count, total = count + 1, total + path.stat().st_size
    return count


def _machine_files() -> Iterator[Path]:
    for root in ROOTS:
        for path in sorted(root.rglob("*")):
            if path.is_file() and not path.is_symlink() and _wanted(path.stat().st_size):
                yield path


def _wanted(size: int) -> bool:
    """Neither so small that copying is all about names, nor so large that a few files are the disk."""
    return SMALLEST_FILE_BYTES <= size <= LARGEST_FILE_BYTES


def _files_in(image: Path) -> list[str]:
    """Some regular files of an ext file system, by debugfs: those in the first directories."""
    found: list[str] = []
    folders = [""]
    while folders and len(found) < 8:
        folder = folders.pop(0)
        for line in run_tool("debugfs", "-R", f'ls -p "{folder or "/"}"', str(image)).splitlines():
            fields = line.split("/")
            if len(fields) < 8 or fields[5] in {".", "..", "lost+found"} or " " in fields[5]:
                continue
            name = f"{folder}/{fields[5]}"
            if fields[2].startswith("04"):
                folders.append(name)
            elif fields[2].startswith("10"):
                found.append(name)
    return found


def _differences(changed: Path, disk: Path) -> Iterator[tuple[int, bytes]]:
    """Runs of 4 KiB pieces that differ, as (offset, the changed bytes)."""
    with changed.open("rb") as new, disk.open("rb") as old:
        at = 0
        while piece := new.read(PIECE_BYTES):
            before = old.read(PIECE_BYTES)
            if piece != before:
                for start, end in _differing_runs(piece, before):
                    yield at + start, piece[start:end]
            at += len(piece)


def _differing_runs(new: bytes, old: bytes) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for start in range(0, len(new), COMPARE_BYTES):
        end = min(start + COMPARE_BYTES, len(new))
        if new[start:end] == old[start:end]:
            continue
        if runs and runs[-1][1] == start:
            runs[-1] = (runs[-1][0], end)
        else:
            runs.append((start, end))
    return runs
