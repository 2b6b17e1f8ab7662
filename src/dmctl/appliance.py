"""`dmctl appliance`: pair it with a connector, and run its jobs."""

from pathlib import Path

import click

from dmcore.appliance import pairing
from dmcore.appliance.agent import Appliance, load_job
from dmcore.host import logs
from dmcore.model.enums import Role
from dmcore.node.identity import load_identity
from dmcore.node.settings import load_appliance
from dmctl.doctor import appliance_doctor
from dmctl.enrolling import enroll_command, token_text
from dmctl.follow import follow_folder
from dmctl.options import config_option, json_option
from dmctl.output import print_json, print_pairs
from dmctl.running import Runner
from dmctl.serving import serve_appliance
from dmctl.stopping import Stop
from dmctl.views import View, failures_shown, log_stream, make_view


@click.group()
def appliance() -> None:
    """The Replication Appliance: pair it with a connector, and run its jobs.

    \b
    Example:
      dmctl appliance pair --token-file token --config appliance.toml
      dmctl appliance run job.json --config appliance.toml
    """


@appliance.command()
@click.argument("token", required=False)
@click.option("--token-file", type=click.Path(path_type=Path), help="A file that holds the token.")
@config_option
@json_option
def pair(token: str | None, token_file: Path | None, config: Path, as_json: bool) -> None:
    """Pair this appliance with the connector that made TOKEN. `-` reads it from standard input.

    An argument can be seen by every user of this machine while the command runs: better pipe the token, or name a file.

    \b
    Example:
      dmctl appliance pair - --config appliance.toml < token
      dmctl appliance pair --token-file token --config appliance.toml
    """
    text = token_text(token, token_file)
    settings = load_appliance(config)
    paired = pairing.pair(text, load_identity(settings.state_dir), settings.site, settings.state_dir)
    facts = {"connector": paired.connector, "address": str(paired.address), "site": paired.site}
    if as_json:
        print_json(dict(facts))
    else:
        click.echo("Paired.")
        print_pairs(dict(facts))


@appliance.command()
@click.argument("jobs", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--follow",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Then run the jobs that appear in this directory, until it is stopped.",
)
@click.option("--events", "as_events", is_flag=True, help="Print events while it runs, one JSON object a line.")
@click.option("--json", "as_json", is_flag=True, help="Print only each report, one JSON object a line.")
@config_option
@click.pass_context
def run(
    ctx: click.Context, jobs: tuple[Path, ...], follow: Path | None, as_events: bool, as_json: bool, config: Path
) -> None:
    """Serve the control plane that this appliance is enrolled at, until it is stopped: take jobs, several at a time.

    While the control plane does not answer, the last known plans are run by their schedule, and reported later.

    With JOBS, run the cycles of these job files instead, in this order. The first that fails ends the command.

    With --follow, the *.json files of a directory are taken in the order of their names: put them there by renaming.
    Each goes to done/ beside its NAME.report.json, or to failed/ beside its NAME.error.json. A stopped one stays.

    Ctrl-C or SIGTERM ends the cycle where it is, with exit code 130 (0 for a SIGTERM, unless it is JOBS that run).
    A next attempt of the cycle sends only what is not durable at the connector, if the source has kept its snapshot.

    \b
    Example:
      dmctl appliance run --config appliance.toml
      dmctl appliance run job.json --config appliance.toml
      dmctl appliance run --follow /var/lib/dmcore/jobs --events --config appliance.toml
    """
    if as_events and as_json:
        raise click.UsageError("choose one of --events and --json")
    if not jobs and follow is None:
        if as_events or as_json:
            raise click.UsageError("--events and --json are for job files: name one, or a directory with --follow")
        ctx.exit(serve_appliance(config))
    view = make_view(as_events=as_events, as_json=as_json)
    with Stop() as stop:
        with failures_shown(view):
            _run(config, jobs, follow, view, stop, as_json=as_json)
        ctx.exit(stop.exit_code)


def _run(config: Path, jobs: tuple[Path, ...], follow: Path | None, view: View, stop: Stop, *, as_json: bool) -> None:
    settings = load_appliance(config)
    logs.configure(settings.logging, log_stream(view))
    due = [load_job(path) for path in jobs]
    with Appliance(settings) as node:
        runner = Runner(node.run, view, stop)
        for job in due:
            runner.run(job)
        if follow is not None:
            follow_folder(follow, runner, as_json=as_json)


appliance.add_command(appliance_doctor)
appliance.add_command(enroll_command(Role.APPLIANCE, load_appliance))
