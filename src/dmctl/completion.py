"""`dmctl completion`: what a shell needs to complete command lines."""

import click
from click.shell_completion import BashComplete, FishComplete, ZshComplete

from dmctl.options import json_option
from dmctl.output import print_json

SHELLS = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}
VARIABLE = "_DMCTL_COMPLETE"
"""Click's: what the script sets when it asks."""


@click.command()
@click.argument("shell", type=click.Choice(list(SHELLS)))
@json_option
@click.pass_context
def completion(ctx: click.Context, shell: str, as_json: bool) -> None:
    """Print the completion script for SHELL. Plans are completed by asking the control plane, if you are logged in.

    \b
    Example:
      dmctl completion bash >~/.local/share/bash-completion/completions/dmctl
      dmctl completion zsh >~/.zfunc/_dmctl
      dmctl completion fish >~/.config/fish/completions/dmctl.fish
    """
    script = SHELLS[shell](ctx.find_root().command, {}, "dmctl", VARIABLE).source()
    if as_json:
        print_json({"shell": shell, "script": script})
    else:
        click.echo(script)
