from pathlib import Path

import pytest

from dmcore.node.errors import PathOutsideRoots
from dmcore.node.roots import resolve_under


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def test_inside_there_or_not(root: Path) -> None:
    (root / "disk").touch()
    assert resolve_under("a", root / "disk", [root]) == root / "disk"
    assert resolve_under("a", root / "absent", [root]) == root / "absent"
    assert resolve_under("a", root, [root]) == root


def test_any_of_several_roots(root: Path, tmp_path: Path) -> None:
    assert resolve_under("a", root / "x", [tmp_path / "other", root]) == root / "x"


def test_outside(root: Path, tmp_path: Path) -> None:
    with pytest.raises(PathOutsideRoots, match=r"'a': .*disk lies outside") as refused:
        resolve_under("a", tmp_path / "disk", [root])
    assert refused.value.code == "path.outside-roots"
    assert refused.value.roots == str(root)


def test_a_name_that_begins_like_the_root(root: Path) -> None:
    with pytest.raises(PathOutsideRoots):
        resolve_under("a", root.with_name("root2"), [root])


def test_no_roots_at_all(root: Path) -> None:
    with pytest.raises(PathOutsideRoots, match="allowed roots: none"):
        resolve_under("a", root, [])


def test_symbolic_link_out(root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").touch()
    (root / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(PathOutsideRoots, match=r"leads to .*secret, which lies outside"):
        resolve_under("a", root / "link", [root])


def test_through_a_linked_directory(root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (root / "dir").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PathOutsideRoots, match="leads to"):
        resolve_under("a", root / "dir" / "disk", [root])


def test_a_link_inside_is_followed(root: Path) -> None:
    (root / "disk").touch()
    (root / "link").symlink_to(root / "disk")
    assert resolve_under("a", root / "link", [root]) == root / "disk"


def test_a_root_that_is_itself_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(root)
    assert resolve_under("a", tmp_path / "alias" / "x", [tmp_path / "alias"]) == root / "x"


def test_relative_parts(root: Path) -> None:
    with pytest.raises(PathOutsideRoots, match=r"has '\.\.' in it"):
        resolve_under("a", root / "x" / ".." / "y", [root])


def test_relative_path(root: Path) -> None:
    with pytest.raises(PathOutsideRoots, match="not absolute"):
        resolve_under("a", Path("disk"), [root])
