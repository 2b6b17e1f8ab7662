"""The kinds of target that a node's alias may name."""

from pathlib import Path

from dmcore.native.patching import BlockIO
from dmcore.targets.base import Target
from dmcore.targets.errors import TargetKindUnknown
from dmcore.targets.folder import FolderTarget

KINDS = {"folder": FolderTarget}


def open_target(kind: str, path: Path, io: BlockIO | None = None) -> Target:
    """Open the target of this kind at a path that the node's own configuration gave.

    Raises:
        TargetKindUnknown: there is no such kind.
        TargetMissing: there is nothing of the kind at the path.
        TargetInUse: another connector has it open.
    """
    try:
        make = KINDS[kind]
    except KeyError:
        raise TargetKindUnknown(path=str(path), kind=kind, known=", ".join(KINDS)) from None
    return make(path, io)
