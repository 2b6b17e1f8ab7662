"""`dmctl`: the commands by name, and the one place where a failure becomes a message and an exit code."""

import os
import sys
from importlib import import_module
from pathlib import Path
from uuid import uuid4

import click
import structlog

from dmcore.errors import ExitCode
from dmcore.host import logs
from dmcore.host.settings import LogLevel, LogSettings
from dmctl import failures

COMMANDS = {
    "appliance": "dmctl.appliance",
    "audit": "dmctl.audit",
    "completion": "dmctl.completion",
    "connector": "dmctl.connector",
    "control": "dmctl.control",
    "demo": "dmctl.demo",
    "event": "dmctl.event",
    "job": "dmctl.job",
    "join": "dmctl.join",
    "key": "dmctl.key",
    "lab": "dmctl.lab",
    "login": "dmctl.login",
    "logout": "dmctl.login",
    "node": "dmctl.node",
    "plan": "dmctl.plan",
    "point": "dmctl.point",
    "site": "dmctl.site",
    "source": "dmctl.source",
    "status": "dmctl.status",
    "token": "dmctl.token",
    "version": "dmctl.version",
}
"""Each is the object of its own name in its module, imported when it is used."""


class Root(click.Group):
    """The commands of COMMANDS, and their failures."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """All of them, sorted."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        """One of them."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(COMMANDS[cmd_name]), cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> None:
        """Run the command. What goes wrong ends in a message and an exit code."""
        as_json = "--json" in ctx.args
        with structlog.contextvars.bound_contextvars(correlation=uuid4().hex):
            try:
                super().invoke(ctx)
                sys.stdout.flush()  # here, where its failure is still a message and an exit code
            except (click.exceptions.Exit, BrokenPipeError):  # click's own: done already, and nobody reads
                raise
            except (KeyboardInterrupt, click.Abort):
                click.echo("stopped", err=True)
                ctx.exit(ExitCode.INTERRUPTED)
            except click.ClickException as error:
                if not as_json:
                    raise
                ctx.exit(failures.tell(error, as_json=True))
            except Exception as error:  # noqa: BLE001 - no traceback reaches the user
                drop_output()
                ctx.exit(failures.tell(error, as_json=as_json))


def drop_output() -> None:
    """What standard output could not take is not tried again at the interpreter's end, which would decide the exit."""
    try:
        sys.stdout.flush()
    except OSError:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"]})
def root() -> None:
    """Keep shadows of disks at another site, and turn every cycle into a recovery point.

    Exit codes: 0 done, 1 a fault of dmcore, 2 usage, 3 configuration, 4 trust, 5 source, 6 target, 7 integrity,
    8 connection, 9 refused, 10 busy, 130 interrupted. With --json, errors are one JSON object on standard error.

    \b
    Example:
      dmctl demo
      dmctl plan run web --wait
      dmctl connector points --config connector.toml
    """
    logs.configure(LogSettings(level=LogLevel.WARNING))  # the nodes' own commands go by their configuration


def main() -> None:
    """The console script."""
    root(prog_name="dmctl")
