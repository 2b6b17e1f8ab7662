"""Asking before something is lost for good."""

import sys

import click

from dmctl.errors import NotConfirmed
from dmctl.output import printable

yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


def at_a_terminal() -> bool:
    """Whether somebody sits there who can be asked."""
    return sys.stdin.isatty()


def confirm(noun: str, name: str, expected: str, *, yes: bool) -> None:
    """Have the operator type which one it is. The question goes to standard error.

    Raises:
        NotConfirmed: something else was typed, or nothing.
    """
    if yes:
        return
    question = f"This ends {noun} {printable(name)} for good. Type {printable(expected)} to go on"
    try:
        typed = click.prompt(question, default="", show_default=False, err=True)
    except click.Abort:
        if at_a_terminal():  # Ctrl-C; elsewhere it is the end of what could be read
            raise
        typed = ""
    if typed.strip() != expected:
        raise NotConfirmed(noun=noun, name=name, expected=expected)
