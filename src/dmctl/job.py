"""`dmctl job`: what nodes do, have done, and are about to do."""

from datetime import UTC, datetime

import click

from dmcore.api.jobs import JobView
from dmcore.model.jobs import JobKind, JobState
from dmctl.completing import PLAN_OPTION
from dmctl.finding import find_job, find_plan
from dmctl.job_showing import show_job, show_jobs
from dmctl.job_texts import doing, ended, short_id, title
from dmctl.options import json_option
from dmctl.output import print_json, printable
from dmctl.params import values
from dmctl.session import session
from dmctl.watching import follow_jobs

JOBS = click.argument("names", metavar="JOB...", nargs=-1, required=True)
JOB = click.argument("name", metavar="JOB")


@click.group()
def job() -> None:
    """Jobs: cycles of appliances; verifications, recoveries and the like of connectors.

    A JOB is an id as `list` shows it, or the beginning of one that no other has.

    \b
    Example:
      dmctl job list --plan web
      dmctl job watch 240928ec
    """


@job.command("list")
@PLAN_OPTION
@click.option("--state", type=click.Choice(values(JobState)), help="Only those in this state.")
@click.option("--kind", type=click.Choice(values(JobKind)), help="Only those of this kind.")
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True, help="At most so many.")
@json_option
def list_(plan_name: str | None, state: str | None, kind: str | None, limit: int, as_json: bool) -> None:
    """List the jobs, newest first.

    \b
    Example:
      dmctl job list
      dmctl job list --plan web --state failed --limit 10
    """
    with session() as control:
        plan = find_plan(control, plan_name).id if plan_name is not None else None
        found = control.jobs(
            plan=plan, state=JobState(state) if state else None, kind=JobKind(kind) if kind else None, limit=limit
        )
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    show_jobs(found, datetime.now(UTC))


@job.command()
@JOB
@json_option
def show(name: str, as_json: bool) -> None:
    """Show JOB: how far it is, or what came of it, and a row for each disk.

    \b
    Example:
      dmctl job show 240928ec
    """
    with session() as control:
        found = find_job(control, name)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    show_job(found)


@job.command()
@JOBS
@json_option
@click.pass_context
def watch(ctx: click.Context, names: tuple[str, ...], as_json: bool) -> None:
    """Show how far each JOB is until it has ended. The exit code is that of the first that is not done, else 0.

    Ctrl-C ends the showing, not the jobs (exit code 130). --json prints events, one object a line.

    \b
    Example:
      dmctl job watch 240928ec
      dmctl job watch 240928ec 77ab0e12 --json
    """
    with session() as control:
        ctx.exit(follow_jobs(control, [find_job(control, name) for name in names], as_json=as_json))


@job.command()
@JOB
@json_option
def cancel(name: str, as_json: bool) -> None:
    """End JOB. A node that has it is told with its next heartbeat. What is durable stays. Needs the role operator.

    \b
    Example:
      dmctl job cancel 240928ec
    """
    with session() as control:
        made = control.cancel_job(find_job(control, name).id)
    if as_json:
        print_json(made.model_dump(mode="json"))
        return
    click.echo(printable(_cancelled(made)))


def _cancelled(made: JobView) -> str:
    how = doing(made) if ended(made) else "its node is told with the next heartbeat"
    return f"Job {short_id(made)}, {title(made)}: {how}."
