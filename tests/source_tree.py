"""The project's own source as syntax trees, for the tests that check rules no linter knows."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
SRC = ROOT / "src"


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def product_files() -> list[Path]:
    return sorted(SRC.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever it does so; relative imports made absolute."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = list(path.relative_to(SRC).parts)[: -node.level]
                base = ".".join([*parts, *filter(None, [node.module])])
            # `from dmcore import wire` names a package in its second half
            yield from (f"{base}.{alias.name}" for alias in node.names)


CYTHON_IMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+c?import\b|c?import\s+([\w., ]+))", re.MULTILINE)


def cython_imports_of(path: Path) -> Iterator[str]:
    """Every module that a .pyx or .pxd imports or cimports."""
    for source, names in CYTHON_IMPORT.findall(path.read_text()):
        yield from [source] if source else [name.split(" as ")[0].strip() for name in names.split(",")]


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call with its dotted name: `time.sleep`, `open`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node
