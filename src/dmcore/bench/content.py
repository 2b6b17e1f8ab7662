"""What stages are measured on: the machine's own files, packed as a file system would, with some blocks of zeros."""

import hashlib
import mmap
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dmcore.bench.errors import ContentTooSmall

PAGE_BYTES = 4096
LARGEST_FILE_BYTES = 8 << 20
"""Longer files count with their beginning only, so that no single one makes up a run."""


@dataclass(frozen=True)
class Recipe:
    """Which content: the same recipe on the same files gives the same bytes."""

    content_bytes: int
    block_bytes: int
    zero_share: float = 0.2
    """Blocks made all zeros: a disk in use has some, and they cost a cycle almost nothing."""
    seed: int = 1
    roots: tuple[Path, ...] = (Path("/usr"),)

    @property
    def name(self) -> str:
        """A file name that tells recipes apart."""
        return f"content-{hashlib.sha256(repr(self).encode()).hexdigest()[:16]}"


def default_cache() -> Path:
    """Where content is kept between runs, so that they can be compared."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "dmcore" / "bench"


def load(recipe: Recipe, cache: Path | None = None) -> NDArray[np.uint8]:
    """The recipe's bytes in page-aligned memory, from the cache if they are there, else made and put there.

    Raises:
        ContentTooSmall: the files under the roots are not enough.
    """
    path = (cache or default_cache()) / recipe.name
    content = np.frombuffer(mmap.mmap(-1, recipe.content_bytes), dtype=np.uint8)
    if path.exists() and path.stat().st_size == recipe.content_bytes:
        content[:] = np.fromfile(path, dtype=np.uint8)
        return content
    fill(recipe, content)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    content.tofile(partial)
    partial.replace(path)
    return content


def fill(recipe: Recipe, content: NDArray[np.uint8]) -> None:
    """Pack files into content, each from a page's start, then zero the recipe's share of blocks."""
    chosen = random.Random(recipe.seed)  # noqa: S311 - a selection that must repeat, no secret
    at = 0
    for path in shuffled(files_under(recipe.roots), chosen):
        packed = np.fromfile(path, dtype=np.uint8, count=min(LARGEST_FILE_BYTES, len(content) - at))
        content[at : at + len(packed)] = packed
        at += -(-len(packed) // PAGE_BYTES) * PAGE_BYTES
        if at >= len(content):
            break
    else:
        raise ContentTooSmall(roots=" ".join(map(str, recipe.roots)), found_bytes=at, wanted_bytes=len(content))
    blocks = content.reshape(-1, recipe.block_bytes)
    blocks[chosen.sample(range(len(blocks)), int(len(blocks) * recipe.zero_share))] = 0


def shuffled(paths: Iterator[Path], chosen: random.Random) -> list[Path]:
    """In an order that depends on the names alone: kinds of files mix, as they do on a disk."""
    ordered = sorted(paths)
    chosen.shuffle(ordered)
    return ordered


def files_under(roots: tuple[Path, ...]) -> Iterator[Path]:
    """Regular files that can be read; links are not followed."""
    for root in roots:
        for folder, _, names in os.walk(root):
            for name in names:
                path = Path(folder, name)
                if path.is_file() and not path.is_symlink() and os.access(path, os.R_OK):
                    yield path
