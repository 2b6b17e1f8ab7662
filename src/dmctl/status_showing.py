"""The one screen of `dmctl status`: plans, what is wrong and what to do, silent nodes."""

from collections.abc import Iterator
from datetime import datetime

from rich.console import Group, RenderableType
from rich.text import Text

from dmcore.api.plans import NodeStatus, PlanStatus, Status
from dmctl.codes import exit_code_of
from dmctl.failures import ADVICE
from dmctl.output import age, heading, make_table, moment, printable, span
from dmctl.quantities import duration_text

COLUMNS = ("plan", "state", "lag", "rpo", "can keep", "last point", "groups")
NUMBERS = ("lag", "rpo", "can keep", "groups")


def screen(found: Status) -> RenderableType:
    """All of it."""
    live = sum(node.live for node in found.nodes)
    title = f"Plans: {len(found.plans)}; jobs: {found.running} running, {found.queued} queued; "
    nodes = f"nodes: {live} of {len(found.nodes)} live; {moment(found.now)}"
    plans = sorted(found.plans, key=_urgency)
    rows = [_row(plan) for plan in plans]
    problems = [f"{plan.name}: {line}" for plan in plans for line in wrong(plan)]
    silent = [_silent(node, found.now) for node in found.nodes if not node.live]
    parts: list[RenderableType] = [heading(title + nodes), make_table(COLUMNS, rows, NUMBERS)]
    if problems or silent:
        parts += [heading("\nWhat is wrong"), *(Text(printable(line)) for line in [*silent, *problems])]
    return Group(*parts)


def _urgency(plan: PlanStatus) -> tuple[bool, bool, float, str]:
    """What needs somebody first."""
    lag = plan.lag_s if plan.lag_s is not None else float(plan.rpo_s)
    return not plan.breached, not plan.problems, -lag / plan.rpo_s, plan.name


def _row(plan: PlanStatus) -> list[str]:
    times = [span(plan.lag_s), duration_text(plan.rpo_s), span(plan.achievable_rpo_s), moment(plan.last_point_time)]
    return [plan.name, state(plan), *times, str(plan.groups)]


def state(plan: PlanStatus) -> str:
    """A word or two."""
    if plan.paused:
        return "paused"
    words = [
        f"{plan.breached} late" if plan.breached else "",
        "failing" if plan.problems else "",
        f"{plan.running} running" if plan.running else "",
    ]
    return ", ".join(filter(None, words)) or ("kept" if plan.last_point_time else "no point yet")


def wrong(plan: PlanStatus) -> Iterator[str]:
    """What is, and what to do, a line each."""
    for code in plan.problems:
        yield f"{code}. {ADVICE[exit_code_of(code)]} `dmctl job list --plan '{plan.name}' --state failed` has the jobs."
    if not plan.breached:
        return
    late = f"{plan.breached} of {plan.groups} groups older than the RPO of {duration_text(plan.rpo_s)}."
    keeps = plan.achievable_rpo_s
    if plan.paused:
        yield f"{late} It is paused: `dmctl plan resume '{plan.name}'`."
    elif keeps is not None and keeps > plan.rpo_s:
        yield f"{late} Recent cycles could keep {span(keeps)}: raise its limit or its RPO (`dmctl plan edit`)."
    elif not plan.problems:
        yield f"{late} `dmctl plan show '{plan.name}'` tells which; is the appliance of its site live?"
    else:
        yield late


def _silent(node: NodeStatus, now: datetime) -> str:
    seen = f"silent for {age(node.seen_at, now)}" if node.seen_at else "never heard of since it was enrolled"
    return (
        f"{node.role} {node.node[:12]} at {node.site}: {seen}. Is it running, and can it reach the control plane?"
        f" Gone for good: `dmctl node revoke {node.node[:12]}`."
    )
