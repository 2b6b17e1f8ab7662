import json
import platform

from dmcore.native import libraries
from tests.dmctl.conftest import Dmctl


def test_versions_for_people(dmctl: Dmctl) -> None:
    shown = dmctl("version")
    assert shown.exit_code == 0
    for words in ("dmcore", "wire protocol", "sealed format", platform.python_version(), *libraries.versions()):
        assert words in shown.stdout


def test_versions_for_scripts(dmctl: Dmctl) -> None:
    shown = json.loads(dmctl("version", "--json").stdout)
    assert set(shown) == {"dmcore", "python", "libraries", "wire", "format"}
    assert shown["libraries"] == libraries.versions()
    assert (shown["wire"], shown["format"]) == ([1], 1)
