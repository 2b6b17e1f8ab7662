"""How plans are shown."""

from datetime import UTC, datetime

from dmcore.api.plans import GroupView, PlansReply, PlanView
from dmctl.output import NOTHING, moment, print_json, print_pairs, print_table, short_ids, size, span
from dmctl.quantities import duration_text, limit_text, share_text, tiers_text


def show_plans(found: PlansReply, *, as_json: bool) -> None:
    """A row a plan."""
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    ids = short_ids([str(plan.id) for plan in found.plans])
    columns = ["plan", "id", "site", "source", "target", "machines", "rpo", "state"]
    rows = [[plan.name, ids[str(plan.id)], *_plan_row(plan)] for plan in found.plans]
    print_table(f"Plans: {len(rows)}", columns, rows, ["machines", "rpo"])


def _plan_row(plan: PlanView) -> list[str]:
    machines, rpo = str(len(plan.machines)), duration_text(plan.rpo_s)
    return [plan.site, plan.source, plan.target, machines, rpo, plan_state(plan)]


def plan_state(plan: PlanView) -> str:
    """A word or two: the worst first."""
    if plan.paused:
        return "paused"
    failing = sum(group.problem is not None for group in plan.groups)
    late = sum(group.breached for group in plan.groups)
    running = sum(group.job is not None for group in plan.groups)
    said = [f"{count} {word}" for count, word in ((failing, "failing"), (late, "late"), (running, "running")) if count]
    return ", ".join(said) or "waiting"


def show_plan(plan: PlanView, *, as_json: bool) -> None:
    """All of it, and a row a group."""
    if as_json:
        print_json(plan.model_dump(mode="json"))
        return
    print_pairs(
        {
            "plan": plan.name,
            "id": plan.id,
            "state": plan_state(plan),
            "source": f"{plan.source} at {plan.site}",
            "target": f"{plan.target} at connector {plan.connector[:12]}",
            "rpo": duration_text(plan.rpo_s),
            "codec": plan.codec,
            "keeps": tiers_text(plan.retain),
            "limit": limit_text(plan.limit),
            "verifies": share_text(plan.verify),
            "made": moment(plan.created_at),
        }
    )
    now = datetime.now(UTC)
    columns = ["group", "machines", "last point", "lag", "can keep", "next", "backlog", "eta", "problem"]
    ids = short_ids([str(group.id) for group in plan.groups])
    rows = [[ids[str(group.id)], *_group_row(group, now)] for group in plan.groups]
    print_table(f"\nGroups: {len(rows)}", columns, rows, ["lag", "can keep", "backlog", "eta"])


def _group_row(group: GroupView, now: datetime) -> list[str]:
    backlog = NOTHING if group.backlog_bytes is None else size(group.backlog_bytes)
    lag = span(group.lag_s) + (" late" if group.breached else "")
    times = [moment(group.last_point_time), lag, span(group.achievable_rpo_s), _next(group, now)]
    return [", ".join(group.machines), *times, backlog, span(group.eta_s), group.problem or NOTHING]


def _next(group: GroupView, now: datetime) -> str:
    if group.job_state is not None:
        return group.job_state
    return NOTHING if group.next_start is None else f"in {span((group.next_start - now).total_seconds())}"
