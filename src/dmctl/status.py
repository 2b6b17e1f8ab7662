"""`dmctl status`: one screen."""

import json
from collections.abc import Callable
from contextlib import ExitStack

import click
from rich.console import RenderableType
from rich.live import Live
from rich.text import Text

from dmcore.api.operator_client import OperatorClient
from dmcore.errors import DmcoreError
from dmctl import failures
from dmctl.options import json_option
from dmctl.output import print_json, printable, stdout
from dmctl.session import session
from dmctl.status_showing import screen
from dmctl.stopping import Stop

Show = Callable[[RenderableType], None]

LOOK_S = 2.0


@click.command()
@click.option("--watch", is_flag=True, help="Look again every two seconds, until Ctrl-C.")
@json_option
@click.pass_context
def status(ctx: click.Context, watch: bool, as_json: bool) -> None:
    """Show every plan's lag beside its RPO, what is wrong and what to do about it, and which nodes are silent.

    With --watch and --json, one object a line.

    \b
    Example:
      dmctl status
      dmctl status --watch
    """
    with session() as control:
        if watch:
            ctx.exit(_watch(control, as_json=as_json))
        found = control.status()
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    stdout().print(screen(found))


def _watch(control: OperatorClient, *, as_json: bool) -> int:
    with Stop() as stop, ExitStack() as undo:
        show = None if as_json else _shower(undo)
        while True:
            _look(control, show)
            if stop.wait(LOOK_S):
                return stop.exit_code


def _look(control: OperatorClient, show: Show | None) -> None:
    """One look. A control plane that does not answer now is no reason to look no more."""
    try:
        found = control.status()
    except DmcoreError as problem:
        if problem.permanent:
            raise
        if show is None:
            failures.tell(problem, as_json=True)
        else:
            show(Text(printable(f"The control plane does not tell now: {problem}"), style="red"))
        return
    if show is None:
        click.echo(json.dumps(found.model_dump(mode="json")))
    else:
        show(screen(found))


def _shower(undo: ExitStack) -> Show:
    """In its place on a terminal, one below the other elsewhere."""
    console = stdout()
    if not console.is_terminal:
        return console.print
    live = undo.enter_context(Live(console=console, auto_refresh=False, screen=True))
    return lambda drawn: live.update(drawn, refresh=True)
