import re
import shlex

import click
import pytest

from dmctl.main import COMMANDS, root
from dmctl.reference import commands, text
from tests.dmctl.conftest import Dmctl
from tests.source_tree import ROOT

ALL = list(commands(root))
NAMES = [ctx.command_path for ctx in ALL]


def examples(ctx: click.Context) -> list[str]:
    lines = (ctx.command.help or "").split("Example:\n", 1)[1].splitlines()
    return [line.strip() for line in lines if line.strip()]


@pytest.mark.parametrize("ctx", ALL, ids=NAMES)
class TestEveryCommand:
    def test_has_an_example_of_itself(self, ctx: click.Context) -> None:
        assert examples(ctx)
        assert all(line.startswith(ctx.command_path) or ctx.command is root for line in examples(ctx))

    def test_its_examples_are_lines_that_dmctl_takes(self, ctx: click.Context) -> None:
        for line in examples(ctx):
            words = shlex.split(re.split("[|<>]", line)[0], comments=True)[1:]
            try:
                parse(words)
            except click.BadParameter as problem:
                assert "does not exist" in problem.message  # noqa: PT017 - of another machine

    def test_help_shows_the_example_as_it_is_written(self, ctx: click.Context, dmctl: Dmctl) -> None:
        shown = dmctl(*ctx.command_path.split()[1:], "--help")
        assert shown.exit_code == 0
        for line in examples(ctx):
            assert line in shown.stdout
        assert "\\b" not in shown.stdout

    def test_is_in_the_reference(self, ctx: click.Context) -> None:
        assert f"\n## {ctx.command_path}\n" in (ROOT / "docs" / "dmctl.md").read_text()


def parse(words: list[str]) -> None:
    """Take a command line apart as click would, without running it."""
    found: click.Command | None = root
    parent, name = click.Context(root, info_name="dmctl", **root.context_settings), None
    while isinstance(found, click.Group):
        name, found, words = found.resolve_command(parent, words)
    assert found is not None
    options = {option for param in found.params for option in param.opts}
    from_environment = ["--config", "x"] if "--config" in options and "--config" not in words else []
    found.make_context(name, [*words, *from_environment], parent=parent)


def test_the_reference_is_current() -> None:
    assert (ROOT / "docs" / "dmctl.md").read_text() == text(), "run tools/write-dmctl-docs"


def test_every_command_lists_or_shows_as_json_too() -> None:
    """But those that run until they are stopped, and those that only lead to others."""
    without = {
        ctx.command_path
        for ctx in ALL
        if not isinstance(ctx.command, click.Group) and "as_json" not in {param.name for param in ctx.command.params}
    }
    assert without == {"dmctl connector serve", "dmctl control serve", "dmctl lab exec", "dmctl lab up"}


def test_every_module_of_the_table_has_its_command(dmctl: Dmctl) -> None:
    assert {path.split()[1] for path in NAMES if " " in path} == set(COMMANDS)
    assert dmctl("nonsense").exit_code == 2
