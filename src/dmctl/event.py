"""`dmctl event`: what operators should know of without asking."""

from collections.abc import Mapping

import click

from dmcore.api.operators import Event, EventKind
from dmcore.model.ids import PlanId
from dmctl.options import json_option
from dmctl.output import NOTHING, moment, print_json, print_table, span
from dmctl.session import session

SECONDS = {EventKind.RPO_BREACHED, EventKind.RPO_KEPT, EventKind.CLOCK_SKEWED, EventKind.JOB_STALLED}
"""Kinds whose value is a time."""


@click.group()
def event() -> None:
    """Events: what operators should know of without asking.

    \b
    Example:
      dmctl event list
    """


@event.command("list")
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True, help="At most so many.")
@click.option("--before", type=click.IntRange(1), help="Only those with a smaller number.")
@json_option
def list_(limit: int, before: int | None, as_json: bool) -> None:
    """List the events, newest first.

    \b
    Example:
      dmctl event list
      dmctl event list --limit 500 --json
    """
    with session() as control:
        found = control.events(limit=limit, before=before)
        plans = {} if as_json else {plan.id: plan.name for plan in control.plans().plans}
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    rows = [_row(each, plans) for each in found.events]
    title = f"Events: {len(rows)}{', and older ones' if found.more else ''}"
    print_table(title, ["number", "time", "event", "plan", "job", "node", "value"], rows, ["number", "value"])


def _row(each: Event, plans: Mapping[PlanId, str]) -> list[str]:
    plan = plans.get(each.plan, str(each.plan)[:8]) if each.plan else NOTHING
    job, node = str(each.job)[:8] if each.job else NOTHING, (each.node or NOTHING)[:12]
    return [str(each.number), moment(each.at), each.kind, plan, job, node, _value(each)]


def _value(each: Event) -> str:
    if not each.value:
        return NOTHING
    return span(each.value) if each.kind in SECONDS else str(each.value)
