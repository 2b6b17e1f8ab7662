from pathlib import Path

import numpy as np
import pytest

from dmcore.bench.content import Recipe, default_cache, load
from dmcore.bench.errors import ContentTooSmall

BLOCK = 65536


@pytest.fixture
def files(tmp_path: Path) -> Path:
    root = tmp_path / "files"
    root.mkdir()
    for number in range(1, 33):
        (root / f"{number:02}").write_bytes(bytes([number]) * 40_000)
    (root / "link").symlink_to(root / "01")
    return root


def recipe(root: Path, *, seed: int = 1, content_bytes: int = 16 * BLOCK) -> Recipe:
    return Recipe(content_bytes, BLOCK, zero_share=0.25, seed=seed, roots=(root,))


def test_the_same_recipe_gives_the_same_bytes(files: Path, tmp_path: Path) -> None:
    first, second = (load(recipe(files), tmp_path / name) for name in ("a", "b"))
    assert first.tobytes() == second.tobytes()


def test_another_seed_gives_others(files: Path, tmp_path: Path) -> None:
    assert load(recipe(files), tmp_path).tobytes() != load(recipe(files, seed=2), tmp_path).tobytes()


def test_what_was_made_is_kept(files: Path, tmp_path: Path) -> None:
    first = load(recipe(files), tmp_path / "cache").tobytes()
    for path in files.iterdir():
        path.unlink()
    assert load(recipe(files), tmp_path / "cache").tobytes() == first


def test_the_share_of_zero_blocks_is_the_recipes(files: Path, tmp_path: Path) -> None:
    blocks = load(recipe(files), tmp_path).reshape(-1, BLOCK)
    assert np.count_nonzero(~blocks.any(axis=1)) == 4


def test_content_is_page_aligned(files: Path, tmp_path: Path) -> None:
    assert load(recipe(files), tmp_path).ctypes.data % 4096 == 0


def test_too_few_files_are_named(files: Path, tmp_path: Path) -> None:
    with pytest.raises(ContentTooSmall, match=f"files under {files} make 1310720 bytes of 16777216"):
        load(recipe(files, content_bytes=256 * BLOCK), tmp_path)


def test_cache_follows_the_users_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert default_cache() == Path("/elsewhere/dmcore/bench")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == Path.home() / ".cache" / "dmcore" / "bench"
