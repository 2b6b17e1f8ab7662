"""`dmctl point`: recovery points, as the control plane knows them."""

from collections.abc import Callable
from datetime import UTC, datetime

import click

from dmcore.api.jobs import JobView
from dmcore.api.operator_client import OperatorClient
from dmcore.api.points import PointView
from dmcore.model.enums import Role
from dmctl.completing import PLAN_OPTION
from dmctl.confirming import confirm, yes_option
from dmctl.finding import find_node, find_plan, find_point
from dmctl.options import json_option, wait_option
from dmctl.output import moment, print_json
from dmctl.params import PERCENT
from dmctl.point_showing import show_point, show_points
from dmctl.session import session
from dmctl.watching import follow_jobs, jobs_made

POINT = click.argument("name", metavar="POINT")


@click.group()
def point() -> None:
    """Recovery points. They are at connectors, which answer for them also without a control plane: `dmctl connector`.

    A POINT is an id, the beginning of one that no other has, or `latest`: the newest that is good (of --plan).

    \b
    Example:
      dmctl point list --plan web
      dmctl point verify latest --plan web --wait
    """


@point.command("list")
@PLAN_OPTION
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True, help="At most so many.")
@json_option
def list_(plan_name: str | None, limit: int, as_json: bool) -> None:
    """List the points, newest first.

    \b
    Example:
      dmctl point list
      dmctl point list --plan web --limit 500 --json
    """
    with session() as control:
        plan = find_plan(control, plan_name).id if plan_name is not None else None
        found = control.points(plan=plan, limit=limit)
        plans = {} if as_json else {plan.id: plan.name for plan in control.plans().plans}
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    show_points(found, plans, datetime.now(UTC))


@point.command()
@POINT
@PLAN_OPTION
@json_option
def show(name: str, plan_name: str | None, as_json: bool) -> None:
    """Show POINT, and what was asked of its connector about it: where it was recovered to, and what came of that.

    \b
    Example:
      dmctl point show latest --plan web
    """
    with session() as control:
        found = control.point(_find(control, name, plan_name).id)  # lists do not tell of its jobs
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    show_point(found, datetime.now(UTC))


@point.command()
@POINT
@click.option("--sample", "sample_percent", type=PERCENT, help="Only so much of it, blocks at random: 5%.")
@PLAN_OPTION
@wait_option
@json_option
@click.pass_context
def verify(
    ctx: click.Context, name: str, sample_percent: float | None, plan_name: str | None, wait: bool, as_json: bool
) -> None:
    """Have the connector read POINT whole and check every block of it. Needs the role operator.

    Damage is named in the connector's log, and healed by the next cycle. A good sample does not make a point verified.

    \b
    Example:
      dmctl point verify latest --wait
      dmctl point verify latest --plan web --sample 5% --wait
    """
    _job(
        ctx, name, plan_name, lambda control, chosen: control.verify_point(chosen.id, sample_percent=sample_percent),
        wait=wait, as_json=as_json,
    )  # fmt: skip


@point.command()
@POINT
@click.option("--to", "alias", required=True, help="A place of [recoveries] in the connector's own settings.")
@PLAN_OPTION
@wait_option
@json_option
@click.pass_context
def recover(ctx: click.Context, name: str, alias: str, plan_name: str | None, wait: bool, as_json: bool) -> None:
    """Have the connector write the disks of POINT to a place of its own. Needs the role operator.

    Into a folder of your choice: `dmctl connector recover`, at the connector.

    \b
    Example:
      dmctl point recover latest --plan web --to standby --wait
    """
    _job(
        ctx,
        name,
        plan_name,
        lambda control, chosen: control.recover_point(chosen.id, alias),
        wait=wait,
        as_json=as_json,
    )


@point.command()
@POINT
@click.option("--off", is_flag=True, help="Let it go when its time comes, after all.")
@PLAN_OPTION
@wait_option
@json_option
@click.pass_context
def preserve(ctx: click.Context, name: str, off: bool, plan_name: str | None, wait: bool, as_json: bool) -> None:
    """Keep POINT whatever its age. Needs the role operator.

    \b
    Example:
      dmctl point preserve 9f8e7d6c
      dmctl point preserve 9f8e7d6c --off
    """
    _job(
        ctx, name, plan_name, lambda control, chosen: control.preserve_point(chosen.id, preserved=not off),
        wait=wait, as_json=as_json,
    )  # fmt: skip


@point.command()
@POINT
@PLAN_OPTION
@yes_option
@wait_option
@json_option
@click.pass_context
def delete(ctx: click.Context, name: str, plan_name: str | None, yes: bool, wait: bool, as_json: bool) -> None:
    """Ask the connector to delete POINT. Its own retention may keep it, whoever asks. Needs the role admin.

    \b
    Example:
      dmctl point delete 9f8e7d6c --wait
    """

    def ask(control: OperatorClient, chosen: PointView) -> JobView:
        confirm("point", f"{chosen.id} of {moment(chosen.source_time)}", str(chosen.id)[:8], yes=yes)
        return control.delete_point(chosen.id)

    _job(ctx, name, plan_name, ask, wait=wait, as_json=as_json)


@point.command()
@click.option("--connector", required=True, help="Its id, or the beginning of it.")
@wait_option
@json_option
@click.pass_context
def rebuild(ctx: click.Context, connector: str, wait: bool, as_json: bool) -> None:
    """Have a connector state all its points again, and make the control plane's list from that. Needs the role admin.

    \b
    Example:
      dmctl point rebuild --connector 77ab0e12 --wait
    """
    with session() as control:
        made = control.rebuild(find_node(control, connector, Role.CONNECTOR).node)
        _follow(ctx, control, made, wait=wait, as_json=as_json)


def _find(control: OperatorClient, name: str, plan_name: str | None) -> PointView:
    return find_point(control, name, find_plan(control, plan_name).id if plan_name is not None else None)


def _job(
    ctx: click.Context, name: str, plan_name: str | None, ask: Callable[[OperatorClient, PointView], JobView],
    *, wait: bool, as_json: bool,
) -> None:  # fmt: skip
    with session() as control:
        chosen = _find(control, name, plan_name)
        click.echo(f"point {chosen.id} of {moment(chosen.source_time)}", err=True)  # `latest` may be any
        _follow(ctx, control, ask(control, chosen), wait=wait, as_json=as_json)


def _follow(ctx: click.Context, control: OperatorClient, made: JobView, *, wait: bool, as_json: bool) -> None:
    if wait:
        ctx.exit(follow_jobs(control, [made], as_json=as_json))
    if as_json:
        print_json(made.model_dump(mode="json"))
        return
    jobs_made([made])
