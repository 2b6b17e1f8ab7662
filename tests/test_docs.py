"""The documents name things that are there: links, files, commands, settings."""

import json
import re
from pathlib import Path
from typing import Any, get_origin

import click
import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from dmcore.control.settings import ControlPlaneSettings
from dmcore.host.address import Address
from dmcore.node.settings import ApplianceSettings, ConnectorSettings
from dmctl.main import root
from tests.source_tree import ROOT

DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
documents = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
PLACES = [ROOT, ROOT / "src", ROOT / "src" / "dmcore", ROOT / "src" / "dmctl", ROOT / "docs"]
MIB = 1 << 20


def anchors(path: Path) -> set[str]:
    """The names that a renderer gives to headings."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@documents
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@documents
def test_every_document_is_found_from_the_readme(path: Path) -> None:
    relative = str(path.relative_to(ROOT))
    assert relative == "README.md" or f"]({relative})" in (ROOT / "README.md").read_text()


@documents
def test_files_that_are_named_are_there(path: Path) -> None:
    for name in re.findall(r"`([\w./-]+\.(?:py|pyx|pxd|pyi|md|toml))`", path.read_text()):
        if "/" in name:
            assert any((place / name).exists() for place in PLACES), name


def commands_of(text: str) -> set[tuple[str, ...]]:
    """Every `dmctl` in a block or between backticks, up to its first argument."""
    found = re.findall(r"(?:^ {4}|`)dmctl((?: [a-z-]+)+)", text, re.MULTILINE)
    return {tuple(words.split()) for words in found}


@documents
def test_commands_that_are_named_exist(path: Path) -> None:
    for words in commands_of(path.read_text()):
        command: click.Command | None = root
        for word in words:
            if isinstance(command, click.Group):
                command = command.get_command(click.Context(command), word)
                assert command is not None, words


# docs/configuration.md


def flat(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Each key of a file with its default; `required` if it has none."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        inner = [each for each in (field.annotation, *getattr(field.annotation, "__args__", ())) if is_section(each)]
        if not inner:
            default = "required" if field.default is PydanticUndefined else field.default
            found[prefix + name] = default
        else:
            alias = "ALIAS." if get_origin(field.annotation) is dict else ""
            found |= flat(inner[0], f"{prefix}{name}.{alias}")
    return found


def is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def described(title: str) -> dict[str, str]:
    text = (ROOT / "docs" / "configuration.md").read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| `([\w.]+)` \| ([^|]*?) ?\|", text, re.MULTILINE))


def as_written(default: Any) -> str:
    if default == "required":
        return ""
    if isinstance(default, int) and default >= MIB:
        return f"{default // MIB} MiB"
    if isinstance(default, tuple):
        return f"`{json.dumps(default)}`"
    if isinstance(default, str | Address):
        return f"`{default}`"
    return f"{default:g}"


@pytest.mark.parametrize(
    ("titles", "model"),
    [
        (("Both kinds of node", "Appliance"), ApplianceSettings),
        (("Both kinds of node", "Connector"), ConnectorSettings),
        (("Control plane",), ControlPlaneSettings),
    ],
    ids=["appliance", "connector", "control"],
)
def test_every_key_of_the_settings_is_described(titles: tuple[str, ...], model: type[BaseModel]) -> None:
    written = {key: default for title in titles for key, default in described(title).items()}
    settings = flat(model)
    assert written.keys() == settings.keys()
    none = {
        "control.ticket_key": "the enrolment's",
        "database": "SQLite in `state_dir`",
        "metrics.listen": "none",
        "staging.path": "`state_dir/staging`",
        "staging.quota_bytes": "none",
    }
    expected = {key: none[key] if default is None else as_written(default) for key, default in settings.items()}
    assert written == expected
