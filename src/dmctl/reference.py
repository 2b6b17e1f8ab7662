"""docs/dmctl.md: every command's own help, in one place. `tools/write-dmctl-docs` writes it; a test compares it."""

from collections.abc import Iterator

import click

from dmctl.main import root

WIDTH = 100

HEAD = """\
# dmctl

Every command and its options, as `--help` prints them. `tools/write-dmctl-docs` writes this file.

Commands for the control plane go by the profile that `dmctl login` leaves: `$DMCTL_PROFILE`, or
`~/.config/dmcore/login.json`. `--config` names the node's configuration file ([configuration.md](configuration.md));
the variable `DMCTL_CONFIG` stands in for it. With `--json` a command prints one object with exact numbers, and an
error as one on standard error: `{"error": {"code", "message", "exit_code", "permanent", "correlation"}}`. The exit
codes are in the [README](../README.md#exit-codes). With `DMCTL_DEBUG=1` an error is preceded by its traceback.
"""


def commands(
    command: click.Command, parent: click.Context | None = None, name: str = "dmctl"
) -> Iterator[click.Context]:
    """A context for a command and for each below it, in the order that they are listed."""
    ctx = click.Context(
        command, parent, name, terminal_width=WIDTH, max_content_width=WIDTH, **command.context_settings
    )
    yield ctx
    if isinstance(command, click.Group):
        for each in command.list_commands(ctx):
            below = command.get_command(ctx, each)
            if below is not None:
                yield from commands(below, ctx, each)


def text() -> str:
    """The whole file."""
    sections = [f"## {ctx.command_path}\n\n```text\n{ctx.get_help()}\n```\n" for ctx in commands(root)]
    return "\n".join([HEAD, *sections])


if __name__ == "__main__":
    click.echo(text(), nl=False)
