"""The kinds of source that a node's alias may name."""

from pathlib import Path

from dmcore.sources.base import Source
from dmcore.sources.errors import SourceKindUnknown
from dmcore.sources.image import ImageSource
from dmcore.sources.tracked import TrackedSource

KINDS: dict[str, type[ImageSource]] = {"image": ImageSource, "tracked": TrackedSource}


def open_source(kind: str, path: Path) -> Source:
    """Open the source of this kind at a path that the node's own configuration gave.

    Raises:
        SourceKindUnknown: there is no such kind.
        SourceMissing: there is nothing at the path.
        SourceUnfit: it is no source of this kind.
    """
    try:
        make = KINDS[kind]
    except KeyError:
        raise SourceKindUnknown(path=str(path), kind=kind, known=", ".join(KINDS)) from None
    return make(path)
