"""The directories that an operator allows aliases to lead into, and the check that they do."""

import os
from collections.abc import Sequence
from pathlib import Path

from dmcore.node.errors import PathOutsideRoots


def resolve_under(alias: str, path: Path, roots: Sequence[Path]) -> Path:
    """Where the path really is, symbolic links followed. Use the answer, not the path that was asked about.

    Whether anything is there is for who opens it to say.

    Raises:
        PathOutsideRoots: not absolute, has `..` in it, or really lies outside every allowed root.
    """
    if not path.is_absolute():
        raise _refused(alias, path, "is not absolute", roots)
    if ".." in path.parts:
        raise _refused(alias, path, "has '..' in it", roots)
    real = Path(os.path.realpath(path))
    if not any(real.is_relative_to(os.path.realpath(root)) for root in roots):
        where = "lies" if real == path else f"leads to {real}, which lies"
        raise _refused(alias, path, f"{where} outside them", roots)
    return real


def _refused(alias: str, path: Path, problem: str, roots: Sequence[Path]) -> PathOutsideRoots:
    allowed = ", ".join(map(str, roots)) or "none"
    return PathOutsideRoots(alias=alias, path=str(path), problem=problem, roots=allowed)
