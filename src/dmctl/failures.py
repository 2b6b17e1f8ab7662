"""Every failure of a command, as its operator or a script sees it: no traceback, unless DMCTL_DEBUG asks for it."""

import json
import os
import sys
import traceback
from typing import Any

import click
import structlog
from rich.console import Console
from rich.text import Text

from dmcore.errors import DmcoreError, ExitCode
from dmctl.errors import SystemRefused, Unexpected, UsageWrong
from dmctl.output import printable

DEBUG = "DMCTL_DEBUG"

ADVICE = {
    ExitCode.INTERNAL: "Keep the log and report it.",
    ExitCode.USAGE: "`--help` has an example.",
    ExitCode.CONFIGURATION: "Mend it at this node, then run the command again.",
    ExitCode.TRUST: "Find out why before you try again.",
    ExitCode.SOURCE: "Look at the protected machine, then run the job again.",
    ExitCode.TARGET: "Look at the target's space, mode and log; what is durable stays.",
    ExitCode.INTEGRITY: "Keep everything as it is, and look at both nodes' logs and disks.",
    ExitCode.CONNECTION: "Check that the other side runs and can be reached, then try again.",
    ExitCode.REFUSED: "It will be refused again until that is changed.",
    ExitCode.BUSY: "Try again when the other is done.",
    ExitCode.INTERRUPTED: "Nothing is lost: run it again when you like.",
}
"""What to do next, by family. The message itself names the object and often says more."""


def understood(error: Exception) -> DmcoreError:
    """Any exception as an error of the tree, with the correlation id of the running command's log."""
    known = error if isinstance(error, DmcoreError) else _translated(error)
    known.correlation = known.correlation or str(structlog.contextvars.get_contextvars().get("correlation", ""))
    return known


def _translated(error: Exception) -> DmcoreError:
    if isinstance(error, click.ClickException):
        return UsageWrong(problem=error.format_message())
    if not isinstance(error, OSError):
        return Unexpected(kind=type(error).__name__, problem=str(error))
    problem = error.strerror or str(error)
    return SystemRefused(problem=f"{os.fsdecode(error.filename)}: {problem}" if error.filename else problem)


def fields(error: Exception) -> dict[str, Any]:
    """An error for a script. Its names are stable."""
    known = understood(error)
    return {
        "code": known.code,
        "message": str(known),
        "exit_code": int(known.exit_code),
        "permanent": known.permanent,
        "correlation": known.correlation,
    }


def tell(error: Exception, *, as_json: bool) -> ExitCode:
    """Print an error to standard error; returns what to exit with."""
    if os.environ.get(DEBUG):
        traceback.print_exception(error)
    return say(fields(error), as_json=as_json)


def say(problem: dict[str, Any], *, as_json: bool) -> ExitCode:
    """Print what `fields` gives to standard error; returns what to exit with."""
    if as_json:
        click.echo(json.dumps({"error": problem}), err=True)
    else:
        _say_to_person(problem)
    return ExitCode(problem["exit_code"])


def _say_to_person(problem: dict[str, Any]) -> None:
    """Three lines on a terminal. One in a log, so that its last line says what happened."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    correlation = f", correlation {problem['correlation']}" if problem["correlation"] else ""
    message = Text.assemble(("error: ", "bold red"), printable(problem["message"]))
    about = Text(f"[{problem['code']}, exit code {problem['exit_code']}{correlation}]", style="dim")
    between = ("\n  ", "\n  ") if sys.stderr.isatty() else (". ", " ")
    console.print(Text.assemble(message, between[0], ADVICE[ExitCode(problem["exit_code"])], between[1], about))
