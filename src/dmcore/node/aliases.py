"""From an alias in a job or command to what this node's own configuration says it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from dmcore.node.errors import AliasUnknown
from dmcore.node.roots import resolve_under
from dmcore.node.settings import ApplianceSettings, ConnectorSettings, SourceKind, TargetKind

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Place(Generic[Kind]):
    """What an alias stands for: a kind of source or target, and a real path under an allowed root."""

    alias: str
    kind: Kind
    path: Path


def source_place(settings: ApplianceSettings, alias: str) -> Place[SourceKind]:
    """The source of this alias.

    Raises:
        AliasUnknown: no source is called so.
        PathOutsideRoots: its path leads outside the allowed roots.
    """
    known = {name: Place(name, source.kind, source.path) for name, source in settings.sources.items()}
    return _place("source", alias, known, settings.allowed_roots)


def target_place(settings: ConnectorSettings, alias: str) -> Place[TargetKind]:
    """The target of this alias.

    Raises:
        AliasUnknown: no target is called so.
        PathOutsideRoots: its path leads outside the allowed roots.
    """
    known = {name: Place(name, target.kind, target.path) for name, target in settings.targets.items()}
    return _place("target", alias, known, settings.allowed_roots)


def recovery_folder(settings: ConnectorSettings, alias: str) -> Path:
    """The folder that points may be recovered into under this alias.

    Raises:
        AliasUnknown: no recovery folder is called so.
        PathOutsideRoots: its path leads outside the allowed roots.
    """
    known = {name: Place(name, None, recovery.path) for name, recovery in settings.recoveries.items()}
    return _place("recovery folder", alias, known, settings.allowed_roots).path


def _place(noun: str, alias: str, known: Mapping[str, Place[Kind]], roots: Sequence[Path]) -> Place[Kind]:
    if alias not in known:
        raise AliasUnknown(noun=noun, alias=alias, known=", ".join(sorted(known)) or "none")
    place = known[alias]
    return replace(place, path=resolve_under(alias, place.path, roots))
