from pathlib import Path

import pytest

from dmcore.node.aliases import recovery_folder, source_place, target_place
from dmcore.node.errors import AliasUnknown, PathOutsideRoots
from dmcore.node.settings import ConnectorSettings, SourceKind, TargetKind, load_appliance, load_connector
from tests.node.test_settings import APPLIANCE, CONNECTOR, written


def test_source(tmp_path: Path) -> None:
    place = source_place(load_appliance(written(tmp_path, APPLIANCE)), "main")
    assert (place.alias, place.kind, place.path) == ("main", SourceKind.IMAGE, tmp_path / "disks/main")


def test_target(tmp_path: Path) -> None:
    place = target_place(load_connector(written(tmp_path, CONNECTOR)), "shadows")
    assert (place.kind, place.path) == (TargetKind.FOLDER, Path("/srv/shadows"))


def test_unknown_source_names_those_known(tmp_path: Path) -> None:
    settings = load_appliance(written(tmp_path, APPLIANCE + "[sources.also]\nkind='tracked'\npath='/srv/disks/b'\n"))
    with pytest.raises(AliasUnknown, match=r"no source 'other' .* it has: also, main") as refused:
        source_place(settings, "other")
    assert refused.value.code == "alias.unknown"


def test_unknown_target_and_none_known(tmp_path: Path) -> None:
    text = CONNECTOR.replace('[targets.shadows]\nkind = "folder"\npath = "/srv/shadows"\n', "[targets]\n")
    with pytest.raises(AliasUnknown, match=r"no target 'x' .* none"):
        target_place(load_connector(written(tmp_path, text)), "x")


def test_alias_out_of_its_roots(tmp_path: Path) -> None:
    settings = load_appliance(written(tmp_path, APPLIANCE.replace("disks/main", "/etc")))
    with pytest.raises(PathOutsideRoots, match="'main': /etc lies outside them; allowed roots: /srv/disks"):
        source_place(settings, "main")


def recovering(tmp_path: Path, path: str) -> ConnectorSettings:
    return load_connector(written(tmp_path, CONNECTOR + f"[recoveries.vault]\npath='{path}'\n"))


def test_recovery_folder(tmp_path: Path) -> None:
    assert recovery_folder(recovering(tmp_path, "/srv/shadows/back"), "vault") == Path("/srv/shadows/back")


def test_recovery_folder_that_is_not_known(tmp_path: Path) -> None:
    with pytest.raises(AliasUnknown, match=r"no recovery folder 'shadows' .* it has: vault"):
        recovery_folder(recovering(tmp_path, "/srv/shadows/back"), "shadows")


@pytest.mark.parametrize("path", ["/etc", "/srv/shadows/../../etc"])
def test_recovery_folder_out_of_its_roots(tmp_path: Path, path: str) -> None:
    with pytest.raises(PathOutsideRoots, match="'vault'"):
        recovery_folder(recovering(tmp_path, path), "vault")
