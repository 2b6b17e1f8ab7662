"""The stubs say what the compiled modules are."""

import subprocess
import sys
from pathlib import Path

import dmcore.native


def test_stubs_agree_with_the_built_modules(tmp_path: Path) -> None:
    folder = Path(dmcore.native.__file__).parent
    modules = [f"dmcore.native.{stub.stem}" for stub in folder.glob("*.pyi")]
    assert len(modules) == len(list(folder.glob("*.so"))) == 7
    config = tmp_path / "mypy.ini"  # the project's plugins have nothing to do with stubs, and take most of the time
    config.write_text("[mypy]\n")
    check = [sys.executable, "-m", "mypy.stubtest", "--mypy-config-file", str(config), *modules]
    result = subprocess.run(check, capture_output=True, text=True, check=False, cwd=folder.parents[1])
    assert result.returncode == 0, result.stdout + result.stderr
