"""Who may import whom: one table; the code, the contracts and docs/ARCHITECTURE.md agree with it."""

import re
import tomllib
from pathlib import Path

import pytest

from tests.source_tree import ROOT, SRC, cython_imports_of, imports_of, module_name, product_files

COMMON = {"errors", "model"}
"""What every package may import, beside itself."""

EVERYTHING = None

MATRIX: dict[str, set[str] | None] = {
    "errors": set(),
    "model": set(),
    "native": set(),
    "blocks": {"native"},
    "seal": {"native", "blocks"},
    "keys": set(),
    "api": set(),
    "host": set(),
    "sources": {"native", "blocks"},
    "targets": {"native", "blocks"},
    "wire": {"blocks", "seal"},
    "shadow": {"targets", "seal", "blocks", "native"},
    "node": {"api", "host", "keys"},
    "appliance": {"sources", "wire", "seal", "blocks", "native", "node", "host", "keys", "api"},
    "connector": {"shadow", "targets", "wire", "seal", "blocks", "native", "node", "host", "keys", "api"},
    "control": {"api", "host"},
    "bench": EVERYTHING,
    "lab": EVERYTHING,
    "dmctl": EVERYTHING,
}

# What a package must not take from outside, beyond the matrix: bytes are sealed and sent elsewhere,
# and what is durable about a shadow depends on no network and on no clock but its caller's.
CODECS_AND_TLS = {"cryptography", "hashlib", "hmac", "lz4", "socket", "ssl", "zlib", "zstandard"}
FORBIDDEN_OUTSIDE: dict[str, set[str]] = {
    "native": {"logging", "socket", "ssl", "structlog"},
    "sources": CODECS_AND_TLS,
    "targets": CODECS_AND_TLS,
    "shadow": {"http", "selectors", "socket", "ssl", "time", "urllib"},
}

# `ext/` compiles into dmcore.native; beside C and its own declarations it may name only these.
NATIVE_MAY_IMPORT = {"numpy", "os", "dmcore.errors", "dmcore.model", "dmcore.native"}
NATIVE_MAY_CIMPORT = {"libc", "cpython", "posix", "cython"}


def package_of(module: str) -> str | None:
    """The package of the matrix that a module belongs to, None for a module from elsewhere."""
    parts = module.split(".")
    if parts[0] == "dmctl":
        return "dmctl"
    return parts[1] if parts[0] == "dmcore" and len(parts) > 1 else None


def allowed(package: str) -> set[str]:
    row = MATRIX[package]
    if row is EVERYTHING:
        return set(MATRIX)
    common = COMMON if package not in COMMON else {"errors"}
    return row | common | {package}


def contracts() -> dict[str, set[str]]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    found = {}
    for contract in settings["contracts"]:
        (source,) = contract["source_modules"]
        assert contract["type"] == "forbidden"
        assert contract["allow_indirect_imports"] is True
        found[package_of(source) or source] = {package_of(module) or module for module in contract["forbidden_modules"]}
    return found


def packages_on_disk() -> set[str]:
    names = {path.stem for path in (SRC / "dmcore").iterdir() if path.is_dir() or path.suffix == ".py"}
    return names - {"__init__", "__pycache__", "py"} | {"dmctl"}


def test_the_matrix_names_every_package() -> None:
    assert packages_on_disk() - {"__main__"} == set(MATRIX)


@pytest.mark.parametrize("package", sorted(MATRIX))
def test_a_package_imports_only_what_the_matrix_names(package: str) -> None:
    files = [path for path in product_files() if package_of(module_name(path)) == package]
    strangers = {
        f"{module_name(path)} imports {module}"
        for path in files
        for module in imports_of(path)
        if package_of(module) in MATRIX and package_of(module) not in allowed(package)
    }
    assert strangers == set()


@pytest.mark.parametrize("package", sorted(FORBIDDEN_OUTSIDE))
def test_a_package_keeps_out_of_others_work(package: str) -> None:
    files = [path for path in product_files() if package_of(module_name(path)) == package]
    strangers = {
        f"{module_name(path)} imports {module}"
        for path in files
        for module in imports_of(path)
        if module.split(".")[0] in FORBIDDEN_OUTSIDE[package]
    }
    assert strangers == set()


def test_import_linter_checks_the_same_matrix() -> None:
    expected = {package: set(MATRIX) - allowed(package) for package, row in MATRIX.items() if row is not EVERYTHING}
    assert contracts() == expected


def test_the_architecture_document_shows_the_same_matrix() -> None:
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    section = text.split("## Who may import whom", 1)[1].split("\n## ", 1)[0]
    shown = {}
    for names, row in re.findall(r"^\| (`[^|]+`) \| ([^|]+) \|", section, re.MULTILINE):
        for name in re.findall(r"`(\w+)`", names):
            shown[name] = EVERYTHING if row.startswith("everything") else set(re.findall(r"`(\w+)`", row))
    assert shown == MATRIX


def test_a_package_allowed_everything_is_imported_by_no_other() -> None:
    free = {package for package, row in MATRIX.items() if row is EVERYTHING}
    assert all(not row & free for row in MATRIX.values() if row is not EVERYTHING)


@pytest.mark.parametrize(
    "path", sorted([*(ROOT / "ext").glob("*.pyx"), *(ROOT / "ext").glob("*.pxd")]), ids=lambda p: p.name
)
def test_native_sources_name_only_c_and_their_own(path: Path) -> None:
    own_declarations = {pxd.stem for pxd in (ROOT / "ext").glob("*.pxd")}
    strangers = {
        module
        for module in cython_imports_of(path)
        if module.split(".")[0] not in NATIVE_MAY_CIMPORT | own_declarations
        and not any(module == name or module.startswith(name + ".") for name in NATIVE_MAY_IMPORT)
    }
    assert strangers == set()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from libc.stdint cimport int64_t\n", ["libc.stdint"]),
        ("cimport gcm, frame\nimport numpy as np\n", ["gcm", "frame", "numpy"]),
        ("def f():\n    from dmcore.wire import x\n", ["dmcore.wire"]),
    ],
    ids=["from-cimport", "lists-and-as", "inside-a-function"],
)
def test_the_reader_of_cython_imports_sees_them_all(tmp_path: Path, text: str, expected: list[str]) -> None:
    path = tmp_path / "x.pyx"
    path.write_text(text)
    assert list(cython_imports_of(path)) == expected
