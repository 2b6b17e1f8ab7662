"""The README's tour, as typed: its commands, in its order, on SQLite and on PostgreSQL."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.control.databases import PostgresqlServer, postgresql
from tests.lab.roles import lab_up
from tests.source_tree import ROOT

__all__ = ["postgresql"]
pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

UP = "dmctl lab up /tmp/lab"
NOT_HERE = ("make build", "export PATH=")
"""The build is what runs this test, and its commands are found in another way."""


def tour() -> list[str]:
    """The lines to type, up to where machines of the reader's own begin."""
    text = (ROOT / "README.md").read_text()
    section = re.search(r"^## A tour in five minutes\n(.*?)^On machines of your own", text, re.MULTILINE | re.DOTALL)
    assert section is not None
    lines = [line.strip() for line in section[1].splitlines() if line.startswith("    ")]
    return [line for line in lines if not line.startswith(NOT_HERE)]


def is_init(line: str) -> bool:
    return line.startswith("dmctl lab init")


def with_postgresql(lines: list[str]) -> tuple[str, list[str]]:
    """The line that makes a lab on PostgreSQL, and those that are typed on both."""
    plain, on_postgresql = filter(is_init, lines)
    assert "--database" in on_postgresql
    assert "--database" not in plain
    return on_postgresql, [line for line in lines if not is_init(line)]


class Terminal:
    """A shell that keeps its variables, as the one at which a reader types."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._variables = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def type(self, line: str) -> str:
        line = self.placed(line)
        if exported := re.match(r"export (\w+)=(\S+)", line):
            self._variables[exported[1]] = exported[2]
            return ""
        done = subprocess.run(
            ["bash", "-c", line], cwd=ROOT, env={**os.environ, **self._variables}, capture_output=True, text=True,
            check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    def placed(self, line: str) -> str:
        """The README's directories are this test's."""
        return re.sub("/tmp/(lab|recovered)", rf"{self._root}/\1", line)


def walk(lines: list[str], root: Path) -> None:
    """Type what comes before `lab up`, keep that running, type the rest."""
    terminal, up = Terminal(root), lines.index(UP)
    for line in lines[:up]:
        terminal.type(line)
    with lab_up(root / "lab"):
        said = {line: terminal.type(line) for line in lines[up + 1 :]}
    (status,) = (text for line, text in said.items() if line.startswith("dmctl status"))
    assert "web" in status
    assert any(line.startswith("cmp ") for line in said)


def test_on_sqlite(tmp_path: Path) -> None:
    lines = tour()
    on_postgresql, _ = with_postgresql(lines)
    walk([line for line in lines if line != on_postgresql], tmp_path)


def test_on_postgresql(tmp_path: Path, postgresql: PostgresqlServer) -> None:
    on_postgresql, rest = with_postgresql(tour())
    with postgresql.empty() as url:
        typed = re.sub(r"--database \S+", f"--database {shlex.quote(url)}", on_postgresql)
        walk([typed, *rest], tmp_path)
