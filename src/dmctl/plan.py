"""`dmctl plan`: what is protected, where to, how often. Making, changing and running; plan_showing.py shows."""

from typing import Any

import click

from dmcore.api.jobs import Codec
from dmcore.api.limits import NO_LIMIT
from dmcore.api.plans import DEFAULT_TIERS, GroupMode, PlanEdit, PlanSpec, PlanView, RunRequest, Tier
from dmcore.model.enums import Role, Rung
from dmctl.asking import request_of
from dmctl.completing import PLAN
from dmctl.confirming import confirm, yes_option
from dmctl.finding import find_node, find_plan
from dmctl.limits import LimitOptions, limit_options
from dmctl.options import json_option, wait_option
from dmctl.output import print_json
from dmctl.params import DURATION, SHARE, TIERS, values
from dmctl.plan_showing import show_plan, show_plans
from dmctl.quantities import DURATION_HELP, SHARE_HELP, TIERS_HELP, tiers_text
from dmctl.session import session
from dmctl.watching import follow_jobs, jobs_made

RPO_HELP = f"How old the newest point may get: {DURATION_HELP}."
MACHINE_HELP = "A machine to protect, by its label. Repeat it for more, or put commas between."
VERIFY_HELP = f"How much of each newest point is verified, all by itself: {SHARE_HELP}."
RETAIN_HELP = f"Which points are kept. {TIERS_HELP}."


@click.group()
def plan() -> None:
    """Plans: what is protected, where to, how often.

    A PLAN is a name, an id, or the beginning of an id that no other has.

    \b
    Example:
      dmctl plan create web --source vms --machine web1 --machine web2 --target shadows --rpo 5m
      dmctl plan run web --wait
    """


@plan.command()
@click.argument("name")
@click.option("--source", required=True, help="What the appliance's settings call the source.")
@click.option("--machine", "machines", multiple=True, required=True, help=MACHINE_HELP)
@click.option("--target", required=True, help="What the connector's settings call the target.")
@click.option("--rpo", "rpo_s", type=DURATION, required=True, help=RPO_HELP)
@click.option("--site", help="Where the source is, if several sites have one of this name.")
@click.option("--connector", help="Which connector has the target, if several do: the beginning of its id is enough.")
@click.option("--codec", type=click.Choice(values(Codec)), default=Codec.LZ4.value, show_default=True)
@click.option("--retain", type=TIERS, help=f"{RETAIN_HELP} Not given: {tiers_text(DEFAULT_TIERS)}.")
@click.option(
    "--group", "group_mode", type=click.Choice(values(GroupMode)), default=GroupMode.MACHINE.value, show_default=True,
    help="What has points of its own: each machine, or the whole plan, whose machines then wait for each other.",
)  # fmt: skip
@click.option("--verify", type=SHARE, help=VERIFY_HELP)
@limit_options
@json_option
def create(
    machines: tuple[str, ...], connector: str | None, retain: tuple[Tier, ...] | None, limit: LimitOptions,
    as_json: bool, **rest: Any,
) -> None:  # fmt: skip
    """Make a plan called NAME. Its first cycle starts at once. Needs the role operator.

    \b
    Example:
      dmctl plan create web --source vms --machine web1 --machine web2 --target shadows --rpo 5m
      dmctl plan create db --source vms --machine db1,db2 --target shadows --rpo 15m --group plan --limit 100MB/s
      dmctl plan create mail --source vms --machine mail --target shadows --rpo 1h --retain 1h:1d,1d:7d
      dmctl plan create erp --source vms --machine erp --target shadows --rpo 15m --verify 1%/day
    """
    given = {name: value for name, value in rest.items() if value is not None}
    spec = request_of(
        PlanSpec, machines=machines_of(machines), retain=retain or DEFAULT_TIERS, limit=limit.over(NO_LIMIT), **given
    )
    with session() as control:
        if connector is not None:
            spec = spec.model_copy(update={"connector": find_node(control, connector, Role.CONNECTOR).node})
        made = control.create_plan(spec)
    show_plan(made, as_json=as_json)


def machines_of(typed: tuple[str, ...]) -> tuple[str, ...]:
    """The labels; none has a comma in it."""
    return tuple(label.strip() for part in typed for label in part.split(","))


@plan.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the plans. `dmctl status` tells how they are doing.

    \b
    Example:
      dmctl plan list
      dmctl plan list --json
    """
    with session() as control:
        found = control.plans()
    show_plans(found, as_json=as_json)


@plan.command()
@PLAN
@json_option
def show(name: str, as_json: bool) -> None:
    """Show PLAN and how each of its groups is doing.

    \b
    Example:
      dmctl plan show web
      dmctl plan show web --json
    """
    with session() as control:
        chosen = find_plan(control, name)
    show_plan(chosen, as_json=as_json)


@plan.command()
@PLAN
@click.option("--name", "new_name", help="What it is called from now on.")
@click.option("--machine", "machines", multiple=True, help=f"{MACHINE_HELP} All of them: the list is replaced.")
@click.option("--rpo", "rpo_s", type=DURATION, help=RPO_HELP)
@click.option("--codec", type=click.Choice(values(Codec)))
@click.option("--retain", type=TIERS, help=RETAIN_HELP)
@click.option("--verify", type=SHARE, help=VERIFY_HELP)
@limit_options
@json_option
def edit(
    name: str, new_name: str | None, machines: tuple[str, ...], limit: LimitOptions, as_json: bool, **rest: Any
) -> None:
    """Change PLAN. What is not given stays; source, target and grouping stay for good. Needs the role operator.

    \b
    Example:
      dmctl plan edit web --rpo 10m
      dmctl plan edit web --limit 50MB/s --limit-window 'mon-fri 08:00-18:00 10MB/s' --limit-zone Europe/Paris
    """
    changes = {"name": new_name, "machines": machines_of(machines) or None, **rest}
    with session() as control:
        before = find_plan(control, name)
        changes["limit"] = limit.over(before.limit) if limit.given else None
        given = {key: value for key, value in changes.items() if value is not None}
        if not given:
            raise click.UsageError("nothing to change; `--help` lists what can be")
        made = control.edit_plan(before.id, request_of(PlanEdit, **given))
    show_plan(made, as_json=as_json)


@plan.command()
@PLAN
@click.option("--resync", type=click.Choice([Rung.COMPARE.value]), help="Compare whole disks, whatever is tracked.")
@wait_option
@json_option
@click.pass_context
def run(ctx: click.Context, name: str, resync: str | None, wait: bool, as_json: bool) -> None:
    """Run a cycle of every group of PLAN now, due or not. Needs the role operator.

    With --wait it is shown how far they are, and the exit code is that of the jobs. Ctrl-C then ends the showing, not
    the jobs (exit code 130). --json prints events, one object a line.

    \b
    Example:
      dmctl plan run web --wait
      dmctl plan run web --resync compare
    """
    with session() as control:
        made = control.run_plan(find_plan(control, name).id, request_of(RunRequest, resync=resync))
        if wait:
            ctx.exit(follow_jobs(control, made.jobs, as_json=as_json))
    if as_json:
        print_json(made.model_dump(mode="json"))
        return
    jobs_made(made.jobs)


@plan.command()
@PLAN
@click.option("--against-source", is_flag=True, help="What to verify against. It has to be said: it reads all.")
@wait_option
@json_option
@click.pass_context
def verify(ctx: click.Context, name: str, against_source: bool, wait: bool, as_json: bool) -> None:
    """Compare whole disks of PLAN with their shadows now. Needs the role operator.

    Each group gets a new point, and what its source's tracking has missed is healed by that and counted: `untracked`.
    With --wait, the exit code says so, too. A point is checked by `dmctl point verify`.

    \b
    Example:
      dmctl plan verify web --against-source --wait
    """
    if not against_source:
        raise click.UsageError("say --against-source: whole disks are read at the source")
    with session() as control:
        made = control.run_plan(find_plan(control, name).id, RunRequest(against_source=True))
        if wait:
            ctx.exit(follow_jobs(control, made.jobs, as_json=as_json))
    if as_json:
        print_json(made.model_dump(mode="json"))
        return
    jobs_made(made.jobs)


@plan.command()
@PLAN
@json_option
def pause(name: str, as_json: bool) -> None:
    """Start no more cycles of PLAN. One that runs is paused where it is. Its points stay. Needs the role operator.

    \b
    Example:
      dmctl plan pause web
    """
    with session() as control:
        made = control.pause_plan(find_plan(control, name).id)
    _say("Paused", made, as_json=as_json)


@plan.command()
@PLAN
@json_option
def resume(name: str, as_json: bool) -> None:
    """Go on with PLAN. Needs the role operator.

    \b
    Example:
      dmctl plan resume web
    """
    with session() as control:
        made = control.resume_plan(find_plan(control, name).id)
    _say("Resumed", made, as_json=as_json)


def _say(done: str, made: PlanView, *, as_json: bool) -> None:
    if as_json:
        print_json(made.model_dump(mode="json"))
        return
    click.echo(f"{done} plan {made.name}.")


@plan.command()
@PLAN
@yes_option
@json_option
def delete(name: str, yes: bool, as_json: bool) -> None:
    """Protect the machines of PLAN no more. It asks for the plan's name, unless --yes is given. Needs the role admin.

    Shadows and points stay at the connector, which removes them only at its own operator's word.

    \b
    Example:
      dmctl plan delete web
      dmctl plan delete web --yes
    """
    with session() as control:
        chosen = find_plan(control, name)
        confirm("plan", chosen.name, chosen.name, yes=yes)
        control.delete_plan(chosen.id)
    if as_json:
        print_json({"id": str(chosen.id), "name": chosen.name, "deleted": True})
        return
    click.echo(f"Deleted plan {chosen.name}. Its points stay at connector {chosen.connector[:12]}.")
