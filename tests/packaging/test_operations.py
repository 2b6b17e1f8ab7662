"""docs/operations.md names every metric that a role has, and no other."""

import re

from tests.source_tree import ROOT, SRC

HELPERS = {"control": "", "appliance": "dmcore_appliance_", "connector": "dmcore_connector_"}
FILES = {
    "control": ["control/reports/metrics.py", "control/reports/tallies.py"],
    "appliance": ["appliance/metrics.py"],
    "connector": ["connector/metrics.py"],
}


def names_of(role: str) -> set[str]:
    """Every name in the role's code: written out, or behind its helper's prefix."""
    text = "\n".join((SRC / "dmcore" / file).read_text() for file in FILES[role])
    found = set(re.findall(r'"(dmcore_\w+)"', text))
    prefix = HELPERS[role]
    return found | {prefix + name for name in re.findall(r'gauge\(\s*"(?!dmcore_)(\w+)"', text) if prefix}


def test_every_metric_is_described() -> None:
    described = set(re.findall(r"^\| `(dmcore_\w+)` \|", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE))
    assert described == {name for role in FILES for name in names_of(role)}
