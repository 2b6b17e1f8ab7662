"""From what an operator types to the point, group or node that is meant."""

from collections.abc import Sequence
from typing import Any

from dmctl.errors import NameAmbiguous, NameUnknown

LATEST = "latest"
SHOWN = 4


def find_point(points: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The point of this id or beginning of one, or the newest. `points` are oldest first.

    Raises:
        NameUnknown, NameAmbiguous.
    """
    if name == LATEST and points:
        return points[-1]
    return _only(points, "id", name, "point", "connector points")


def find_group(groups: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The group of this id or beginning of one. Raises NameUnknown, NameAmbiguous."""
    return _only(groups, "group", name, "group", "connector status")


def find_node(nodes: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The paired appliance of this id or beginning of one. Raises NameUnknown, NameAmbiguous."""
    return _only(nodes, "node", name, "paired appliance", "connector paired")


def _only(known: list[dict[str, Any]], key: str, name: str, noun: str, listing: str) -> dict[str, Any]:
    matching = {each[key]: each for each in known if name and each[key].startswith(name.lower())}
    return matching[only(list(matching), name, noun, listing)]


def only(matching: Sequence[str], name: str, noun: str, listing: str) -> str:
    """The one id that was found for a name. Raises NameUnknown, NameAmbiguous."""
    if not matching:
        raise NameUnknown(noun=noun, name=name, listing=listing)
    if len(matching) > 1:
        raise NameAmbiguous(noun=noun, name=name, count=len(matching), some=", ".join(matching[:SHOWN]))
    return matching[0]
