import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from dmcore.api.jobs import Codec, DiskTotals, JobView
from dmcore.api.limits import Limit
from dmcore.api.plans import DEFAULT_TIERS, GroupMode, PlanEdit, PlanSpec, Tier, Verify
from dmcore.errors import ExitCode
from dmcore.model.enums import Reason, Rung
from dmcore.model.jobs import JobState
from tests.dmctl.conftest import Dmctl
from tests.dmctl.control import FakeControl
from tests.dmctl.facts import CONNECTOR, NOW, a_group, completed

CREATE = ["plan", "create", "web", "--source", "vms", "--target", "shadows", "--rpo", "5m"]
MACHINE = ["--machine", "web1"]


def created(control: FakeControl) -> PlanSpec:
    what, spec = control.asked[-1]
    assert what == "create_plan"
    assert isinstance(spec, PlanSpec)
    return spec


class TestCreate:
    def test_with_the_least_that_is_needed(self, dmctl: Dmctl, control: FakeControl) -> None:
        result = dmctl(*CREATE, *MACHINE)
        assert result.exit_code == 0
        assert created(control) == PlanSpec(name="web", source="vms", target="shadows", machines=("web1",), rpo_s=300)
        shown = {line.split()[0]: line.split(maxsplit=1)[1].strip() for line in result.stdout.splitlines()[:10]}
        assert shown["keeps"] == "10m:1h,1h:1d,1d:7d"
        assert shown["target"] == "shadows at connector c0c0c0c0c0c0"

    def test_with_all_that_there_is(self, dmctl: Dmctl, control: FakeControl) -> None:
        options = ["--machine", "web1,web2", "--machine", "db 1", "--site", "paris", "--connector", "c0c0"]
        options += ["--codec", "zstd", "--retain", "10m:1h,1d:7d", "--group", "plan", "--limit", "100MB/s"]
        options += ["--limit-window", "mon-fri 08:00-18:00 20MB/s", "--limit-zone", "Europe/Paris"]
        assert dmctl(*CREATE, *options).exit_code == 0
        spec = created(control)
        assert spec.machines == ("web1", "web2", "db 1")
        assert (spec.site, spec.connector, spec.codec, spec.group_mode) == (
            "paris", CONNECTOR, Codec.ZSTD, GroupMode.PLAN,
        )  # fmt: skip
        assert spec.retain == (Tier(every_s=600, for_s=3600), Tier(every_s=86_400, for_s=604_800))
        assert (spec.limit.bytes_s, spec.limit.windows[0].bytes_s, spec.limit.zone) == (
            10**8,
            2 * 10**7,
            "Europe/Paris",
        )

    def test_as_json(self, dmctl: Dmctl, control: FakeControl) -> None:
        made = json.loads(dmctl(*CREATE, *MACHINE, "--json").stdout)
        assert UUID(made["id"]) in control.plan_views
        assert made["retain"] == [tier.model_dump() for tier in DEFAULT_TIERS]

    @pytest.mark.parametrize(
        ("options", "problem"),
        [
            ([], "Missing option '--machine'"),
            (["--machine", "web1,web1"], "a machine is named twice"),
            (["--machine", "web1,"], "machines.1 '': String should match"),
            (["--machine", "../etc/passwd"], "machines.0 '../etc/passwd'"),
            (["--machine", "x" * 10_000], "machines.0 'xxx"),
            ([*MACHINE, "--rpo", "soon"], "'soon' is not a duration; give a whole number with s, m, h or d"),
            ([*MACHINE, "--rpo", "1s"], "rpo_s 1: Input should be greater than or equal to 5"),
            ([*MACHINE, "--codec", "gzip"], "'gzip' is not one of 'none', 'lz4', 'zstd'"),
            ([*MACHINE, "--retain", "1h"], "'1h' is not a tier; give EVERY:FOR pairs"),
            ([*MACHINE, "--retain", ",".join(["1h:1d"] * 9)], "retain"),
            ([*MACHINE, "--limit", "1B/s"], "rate '1B/s': bytes_s: Input should be greater"),
            ([*MACHINE, "--source", "/dev/sda"], "source '/dev/sda'"),
            ([*MACHINE, "--site", "Paris!"], "site 'Paris!'"),
        ],
    )
    def test_bad_input_never_reaches_the_control_plane(
        self, dmctl: Dmctl, control: FakeControl, options: list[str], problem: str
    ) -> None:
        result = dmctl(*CREATE, *options)
        assert result.exit_code == ExitCode.USAGE
        assert problem in " ".join(result.stderr.split())
        assert len(result.stderr) < 1000
        assert control.asked == []

    def test_a_connector_must_be_one(self, dmctl: Dmctl, control: FakeControl) -> None:
        result = dmctl(*CREATE, *MACHINE, "--connector", "a1")  # an appliance
        assert result.exit_code == ExitCode.REFUSED
        assert "no connector 'a1'; `dmctl node list` lists them" in result.stderr

    def test_a_name_that_is_taken(self, dmctl: Dmctl, control: FakeControl) -> None:
        control.add_plan("web")
        result = dmctl(*CREATE, *MACHINE)
        assert result.exit_code == ExitCode.REFUSED
        assert "there is a plan web already" in result.stderr


class TestNames:
    def test_a_plan_by_name_id_or_beginning(self, dmctl: Dmctl, control: FakeControl) -> None:
        one = control.add_plan("web", UUID("aa" * 16))
        control.add_plan("aa", UUID("bb" * 16))
        for name, found in (("web", "web"), (str(one.id), "web"), ("aaa", "web"), ("AAAA", "web"), ("aa", "aa")):
            assert json.loads(dmctl("plan", "show", name, "--json").stdout)["name"] == found

    @pytest.mark.parametrize(("name", "code"), [("ab", "name.ambiguous"), ("x", "name.unknown"), ("", "name.unknown")])
    def test_no_plan_or_several(self, dmctl: Dmctl, control: FakeControl, name: str, code: str) -> None:
        for number in range(2):
            control.add_plan(f"web{number}", UUID(f"ab{number}".ljust(32, "0")))
        result = dmctl("plan", "show", name, "--json")
        assert result.exit_code == ExitCode.REFUSED
        error = json.loads(result.stderr)["error"]
        assert error["code"] == code
        assert "type more of the id" in error["message"] or "`dmctl plan list` lists them" in error["message"]


class TestListAndShow:
    def test_a_row_a_plan_that_fits_80_columns(self, dmctl: Dmctl, control: FakeControl) -> None:
        control.add_plan("web", UUID("aa" * 16))
        control.add_plan("db", UUID("bb" * 16), paused=True)
        lines = dmctl("plan", "list").stdout.splitlines()
        assert lines[0] == "Plans: 2"
        assert lines[2].split() == ["web", "aaaaaaaa", "paris", "vms", "shadows", "2", "5m", "waiting"]
        assert lines[3].split()[-1] == "paused"
        assert all(len(line) <= 80 for line in lines)

    def test_as_json(self, dmctl: Dmctl, control: FakeControl) -> None:
        made = control.add_plan("web")
        told = json.loads(dmctl("plan", "list", "--json").stdout)
        assert told == {"plans": [made.model_dump(mode="json")], "more": False}

    def test_no_plans(self, dmctl: Dmctl, control: FakeControl) -> None:
        assert dmctl("plan", "list").stdout.startswith("Plans: 0")

    def test_the_worst_comes_first(self, dmctl: Dmctl, control: FakeControl) -> None:
        running = {"job": UUID(int=9), "job_state": JobState.RUNNING}
        groups = (a_group(problem="source.changed"), a_group(breached=True, **running), a_group(**running))
        control.add_plan(groups=groups)
        assert "1 failing, 1 late, 2 running" in dmctl("plan", "list").stdout

    def test_a_row_a_group(self, dmctl: Dmctl, control: FakeControl) -> None:
        soon = datetime.now(UTC) + timedelta(seconds=100)
        groups = (
            a_group(last_point_time=NOW, lag_s=700, breached=True, achievable_rpo_s=400.0, job=UUID(int=9),
                    job_state=JobState.RUNNING, backlog_bytes=5_000_000, eta_s=30),
            a_group(machines=("web2",), next_start=soon, problem="source.changed"),
            a_group(machines=("web3",)),
        )  # fmt: skip
        control.add_plan(groups=groups)
        first, second, third = dmctl("plan", "show", "web").stdout.splitlines()[-3:]
        assert first.split()[1:] == (
            ["web1", "2026-03-01", "12:00:00Z", "12", "min", "late", "7", "min", "running", "5.0", "MB", "30", "s", "-"]
        )
        assert "in 1" in second
        assert second.endswith("source.changed")
        assert third.split()[1:] == ["web3", "-", "-", "-", "-", "-", "-", "-"]

    def test_what_a_name_holds_does_not_steer_the_terminal(self, dmctl: Dmctl, control: FakeControl) -> None:
        plan = control.add_plan("web")
        control.plan_views[plan.id] = plan.model_copy(update={"name": "w\x1b[2Jb"})
        assert "\x1b" not in dmctl("plan", "list").output
        assert "\x1b" not in dmctl("plan", "show", str(plan.id)).output


class TestEdit:
    def test_only_what_is_given_is_sent(self, dmctl: Dmctl, control: FakeControl) -> None:
        plan = control.add_plan()
        assert dmctl("plan", "edit", "web", "--rpo", "10m").exit_code == 0
        assert control.asked[-1] == ("edit_plan", plan.id, PlanEdit(rpo_s=600))
        assert control.asked[-1][2].model_fields_set == {"rpo_s"}

    def test_all_that_can_be(self, dmctl: Dmctl, control: FakeControl) -> None:
        plan = control.add_plan(limit=Limit(bytes_s=10**8, zone="Europe/Paris"))
        options = ["--name", "www", "--machine", "a,b", "--codec", "none", "--retain", "1h:1d"]
        options += ["--limit-window", "sat 00:00-24:00 none"]
        shown = json.loads(dmctl("plan", "edit", "web", *options, "--json").stdout)
        assert (shown["name"], shown["machines"], shown["codec"]) == ("www", ["a", "b"], "none")
        now = control.plan_views[plan.id]
        assert (now.limit.bytes_s, len(now.limit.windows), now.limit.zone) == (10**8, 1, "Europe/Paris")
        assert now.rpo_s == 300

    def test_nothing_to_change(self, dmctl: Dmctl, control: FakeControl) -> None:
        control.add_plan()
        assert dmctl("plan", "edit", "web").exit_code == ExitCode.USAGE

    def test_what_cannot_be(self, dmctl: Dmctl, control: FakeControl) -> None:
        control.add_plan()
        assert dmctl("plan", "edit", "web", "--name", "a/b").exit_code == ExitCode.USAGE
        assert dmctl("plan", "edit", "web", "--source", "other").exit_code == ExitCode.USAGE
        assert [what[0] for what in control.asked] == ["plans"]


class TestPauseAndDelete:
    def test_pause_and_resume(self, dmctl: Dmctl, control: FakeControl) -> None:
        plan = control.add_plan()
        assert dmctl("plan", "pause", "web").stdout == "Paused plan web.\n"
        assert control.plan_views[plan.id].paused
        assert json.loads(dmctl("plan", "resume", "web", "--json").stdout)["paused"] is False

    def test_delete_asks_for_the_name(self, dmctl: Dmctl, control: FakeControl) -> None:
        plan = control.add_plan()
        result = dmctl("plan", "delete", str(plan.id)[:6], input="web\n")
        assert result.stdout == "Deleted plan web. Its points stay at connector c0c0c0c0c0c0.\n"
        assert control.plan_views == {}

    @pytest.mark.parametrize("typed", ["", "y\n", "Web\n"])
    def test_another_answer_deletes_nothing(self, dmctl: Dmctl, control: FakeControl, typed: str) -> None:
        control.add_plan()
        result = dmctl("plan", "delete", "web", input=typed)
        assert result.exit_code == ExitCode.REFUSED
        assert "nothing was deleted: plan web was not confirmed" in result.stderr
        assert len(control.plan_views) == 1

    def test_delete_by_a_script(self, dmctl: Dmctl, control: FakeControl) -> None:
        plan = control.add_plan()
        result = dmctl("plan", "delete", "web", "--yes", "--json")
        assert json.loads(result.stdout) == {"id": str(plan.id), "name": "web", "deleted": True}


class TestVerify:
    @pytest.mark.parametrize(("typed", "percent"), [("1%/day", 1.0), ("0.5%/day", 0.5), ("none", 0.0)])
    def test_a_daily_share(self, dmctl: Dmctl, control: FakeControl, typed: str, percent: float) -> None:
        shown = dmctl(*CREATE, *MACHINE, "--verify", typed).stdout
        assert created(control).verify == Verify(percent_per_day=percent)
        assert f"verifies  {typed}" in " ".join(shown.split(" "))
        dmctl("plan", "edit", "web", "--verify", typed)
        assert control.asked[-1][2] == PlanEdit(verify=Verify(percent_per_day=percent))

    @pytest.mark.parametrize("typed", ["1%", "101%/day", "-1%/day", "x"])
    def test_what_is_no_daily_share(self, dmctl: Dmctl, control: FakeControl, typed: str) -> None:
        result = dmctl(*CREATE, *MACHINE, "--verify", typed)
        assert result.exit_code == ExitCode.USAGE
        assert "is not a daily share" in result.stderr


class TestRun:
    def test_the_jobs_are_named(self, dmctl: Dmctl, control: FakeControl) -> None:
        control.add_plan()
        first, second = dmctl("plan", "run", "web").stdout.splitlines()
        short = str(control.job_views[0].id)[:8]
        assert first == f"Job {short}, cycle of web (web1): dmctl job watch {short}"
        assert "(web2)" in second

    def test_as_json(self, dmctl: Dmctl, control: FakeControl) -> None:
        control.add_plan()
        jobs = json.loads(dmctl("plan", "run", "web", "--json").stdout)["jobs"]
        assert [job["machines"] for job in jobs] == [["web1"], ["web2"]]

    def test_a_resync_is_asked_for(self, dmctl: Dmctl, control: FakeControl) -> None:
        control.add_plan()
        dmctl("plan", "run", "web", "--resync", "compare")
        assert control.asked[-1][2].resync == "compare"
        assert dmctl("plan", "run", "web", "--resync", "seed").exit_code == ExitCode.USAGE

    def test_verifying_against_the_source_has_to_be_said(self, dmctl: Dmctl, control: FakeControl) -> None:
        control.add_plan()
        assert dmctl("plan", "verify", "web").exit_code == ExitCode.USAGE
        assert dmctl("plan", "verify", "web", "--against-source").stdout.count("dmctl job watch") == 2
        assert control.asked[-1][2].against_source
        jobs = json.loads(dmctl("plan", "verify", "web", "--against-source", "--json").stdout)["jobs"]
        assert len(jobs) == 2

    @pytest.mark.parametrize(("missed", "code"), [(0, ExitCode.OK), (5 << 20, ExitCode.SOURCE)])
    def test_what_the_tracking_has_missed_is_no_success(
        self, dmctl: Dmctl, control: FakeControl, no_wait: None, missed: int, code: ExitCode
    ) -> None:
        control.add_plan()
        disk = DiskTotals(disk=UUID(int=9), rung=Rung.COMPARE, reason=Reason.REQUESTED, untracked_bytes=missed)

        def verified(job: JobView) -> JobView:
            progress = job.progress.model_copy(update={"disks": (disk,)})
            return completed(job).model_copy(update={"progress": progress, "against_source": True})

        control.meanwhile = verified
        result = dmctl("plan", "verify", "web", "--against-source", "--wait")
        assert result.exit_code == code
        assert ("has missed 5.2 MB" in result.stderr) == bool(missed)
        shown = dmctl("job", "show", str(control.job_views[0].id)).stdout
        assert ("yes; its tracking has missed 5.2 MB" in shown) == bool(missed)

    def test_wait_shows_all_groups_until_they_are_done(self, dmctl: Dmctl, control: FakeControl, no_wait: None) -> None:
        control.add_plan()
        control.meanwhile = completed
        result = dmctl("plan", "run", "web", "--wait")
        assert result.exit_code == 0
        assert [line.split(": ", 1)[1] for line in result.stdout.splitlines()] == ["queued"] * 2 + [
            "done in 12.0 s"
        ] * 2
