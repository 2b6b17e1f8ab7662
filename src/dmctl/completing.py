"""Names that a shell completes by asking the control plane; nothing, where it cannot be asked."""

from contextlib import suppress

import click
from click.shell_completion import CompletionItem

from dmctl.session import session

CONNECT_TIMEOUT_S = 1.0
"""Somebody has pressed a key and waits."""


def plans(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001 - click's
    """The plans' names that begin so, and ids, where one begins so and is begun."""
    with suppress(Exception), session(CONNECT_TIMEOUT_S) as control:
        known = control.plans().plans
        named = [CompletionItem(plan.name, help=str(plan.id)) for plan in known if plan.name.startswith(incomplete)]
        ids = [CompletionItem(str(plan.id), help=plan.name) for plan in known if str(plan.id).startswith(incomplete)]
        return named + (ids if incomplete else [])
    return []


PLAN = click.argument("name", metavar="PLAN", shell_complete=plans)
PLAN_OPTION = click.option("--plan", "plan_name", metavar="PLAN", shell_complete=plans, help="Only of this plan.")
