"""A control plane in the wrong hands, and appliances: what a job or a directive can make of a plan that is not theirs.

Its TLS identity and ticket key are the real ones. In every test here (`unharmed`) the victim's shadow, points and
binding stay as they are, no path is touched that no setting names, nothing is run, what it hears has no block, offset,
key or path in it, and once it is honest again the next cycle makes its point.
"""

import hmac
import json
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.utils import base64url_encode

from dmcore.api.jobs import Codec, Job, JobResult, Outcome
from dmcore.api.limits import Limit
from dmcore.api.nodes import AssignedGroup, AssignedPlans, HeartbeatReply
from dmcore.api.tickets import TYPE, sign_ticket
from dmcore.model.enums import Rung
from dmcore.model.ids import CycleId, GroupId, NodeId, PlanId
from dmcore.model.jobs import JobKind
from tests.lab.hostile import GO_ON, Reply, poll_fields, poll_reply, refusal, said
from tests.lab.hostile_lab import OTHERS, VAULT, HostileLab, Victim

ODD_NAMES = [
    "../..", "/etc/passwd", "machines/../../outside", "machines\0", "a" * 10_240, "machines\n", "~",
    "$(touch was-here)", "; touch was-here", "", "file:///etc/passwd", "\u202emachines", 7, None,
    ["machines"], {"path": "/etc"},
]  # fmt: skip
"""What is no alias, label or id."""


SECRETS_AND_SCRIPTS = ("script", "pre_freeze", "post_thaw", "command", "reader", "path", "kek", "env")
"""Fields that no job has."""
ODD_JOBS: list[dict[str, Any]] = [
    {"epoch": 0}, {"epoch": -1}, {"epoch": 1 << 63}, {"epoch": 1.5}, {"epoch": "1"}, {"successor": -1}, {"plan": 1},
    {"machines": []}, {"machines": ["vm"] * 257}, {"resync": "erase"},
]  # fmt: skip
ODD_ANSWERS = [
    Reply(b""), Reply(b"[" * 100_000), Reply(b"x" * (33 << 20)), Reply(b'{"heartbeat_s": NaN}'),
    Reply(b"{}", 302, headers=(("Location", "/"),)), Reply(b"\x1f\x8b\x08", headers=(("Content-Encoding", "gzip"),)),
    Reply(b'{"plans_version": 1, "heartbeat_s": -1}'), Reply(b'{"plans_version": 1, "heartbeat_s": 1e300}'),
    Reply(b"\xff\xfe", 500), refusal(500, "fault"), refusal(429, "busy"), refusal(403, "no"), refusal(418, "x"),
]  # fmt: skip
ODD_LIMITS: list[Any] = [
    {"bytes_s": 0}, {"bytes_s": -1}, {"bytes_s": 1 << 60}, {"bytes_s": "1"}, {"windows": [{}] * 33}, None,
    {"zone": "../../etc/passwd"}, {"zone": "/etc/passwd"}, {"zone": "A" * 10_240},
]  # fmt: skip


def code_of(outcome: Outcome) -> str:
    assert outcome.result is JobResult.FAILED, outcome
    assert outcome.problem is not None
    return outcome.problem.code


def as_json(fields: object) -> bytes:
    return json.dumps(fields).encode()


def answered(reply: Reply, _: UUID) -> Reply:
    """A directive that is always the same."""
    return reply


def refused(lab: HostileLab, job: Job, *codes: str, name: str = "appliance") -> None:
    """The job came to nothing, for one of these reasons."""
    assert code_of(lab.run(job, name)) in codes


class TestTickets:
    def test_signed_with_another_key(self, lab: HostileLab, victim: Victim) -> None:
        with lab.unharmed(victim):
            forged = sign_ticket(Ed25519PrivateKey.generate(), lab.claims(victim, epoch=victim.epoch + 1))
            refused(lab, lab.job(victim, ticket=forged), "ticket.other", "ticket.forged")

    def test_altered_after_it_was_signed(self, lab: HostileLab, victim: Victim) -> None:
        with lab.unharmed(victim):
            for what in ("plan", "group", "cycle", "epoch", "node", "connector", "exp"):
                honest = lab.job(victim)
                altered = {**jwt.decode(honest.ticket, options={"verify_signature": False}), what: 1 << 34}
                if what not in {"epoch", "exp"}:
                    altered[what] = str(uuid4()) if what in {"plan", "group", "cycle"} else "ab" * 32
                other = jwt.encode(altered, Ed25519PrivateKey.generate(), algorithm="EdDSA", headers={"typ": TYPE})
                parts = [other.split(".")[0], other.split(".")[1], honest.ticket.split(".")[2]]
                refused(lab, honest.model_copy(update={"ticket": ".".join(parts)}), "ticket.forged")

    def test_signed_in_a_way_that_proves_nothing(self, lab: HostileLab, victim: Victim) -> None:
        """With no signature, or with the public key as a shared secret."""
        with lab.unharmed(victim):
            for algorithm in ("none", "HS256"):
                honest = lab.job(victim)
                head = base64url_encode(as_json({"alg": algorithm, "typ": TYPE})).decode()
                text = f"{head}.{honest.ticket.split('.')[1]}"
                key = lab.control.tickets.public_pem.encode()
                tag = hmac.digest(key, text.encode(), "sha256") if algorithm == "HS256" else b""
                made = f"{text}.{base64url_encode(tag).decode()}"
                refused(lab, honest.model_copy(update={"ticket": made}), "ticket.forged", "ticket.malformed")

    def test_of_another_type(self, lab: HostileLab, victim: Victim) -> None:
        with lab.unharmed(victim):
            honest = lab.job(victim)
            claims = jwt.decode(honest.ticket, options={"verify_signature": False})
            made = jwt.encode(claims, lab.control.tickets.private_key, algorithm="EdDSA", headers={"typ": "JWT"})
            refused(lab, honest.model_copy(update={"ticket": made}), "ticket.malformed")

    def test_expired(self, lab: HostileLab, victim: Victim) -> None:
        with lab.unharmed(victim):
            past = int(lab.clock().timestamp()) - 7200
            refused(lab, lab.job(victim, claims={"iat": past, "exp": past + 60}), "ticket.expired")

    def test_of_another_node_or_connector(self, lab: HostileLab, victim: Victim) -> None:
        with lab.unharmed(victim):
            for what in ("node", "connector"):
                refused(lab, lab.job(victim, claims={what: NodeId("ab" * 32)}), "ticket.other")

    def test_of_another_plan_group_or_cycle(self, lab: HostileLab, victim: Victim) -> None:
        with lab.unharmed(victim):
            for what in ("plan", "group", "cycle"):
                job = lab.job(victim, claims={what: uuid4()})
                used = {"plan": victim.plan, "group": victim.group, "cycle": CycleId(uuid4())}[what]
                refused(lab, job.model_copy(update={what: used}), "ticket.other")

    def test_of_another_epoch_than_the_job(self, lab: HostileLab, victim: Victim) -> None:
        with lab.unharmed(victim):
            job = lab.job(victim)
            refused(lab, job.model_copy(update={"epoch": job.epoch + 5}), "cycle.not-begun")

    def test_with_an_epoch_that_leaves_none_for_an_honest_control_plane(self, lab: HostileLab, victim: Victim) -> None:
        with lab.unharmed(victim):
            for epoch in (1 << 53, (1 << 63) - 1, 1 << 40):
                refused(lab, lab.job(victim, claims={"epoch": epoch}), "ticket.leap")


class TestReplays:
    def test_an_old_job_again(self, lab: HostileLab, victim: Victim) -> None:
        lab.honest(victim)
        with lab.unharmed(victim):
            outcomes = [lab.run(job.model_copy(update={"job": uuid4()})) for job in victim.jobs]
            assert [outcome.result for outcome in outcomes[:-1]] == [JobResult.FAILED] * (len(outcomes) - 1)

    def test_an_old_epoch_for_a_new_cycle(self, lab: HostileLab, victim: Victim) -> None:
        lab.honest(victim)
        with lab.unharmed(victim):
            for epoch in (1, victim.epoch):
                refused(lab, lab.job(victim, claims={"epoch": epoch}), "cycle.epoch-behind", "cycle.stale-epoch")

    def test_a_cycle_that_was_done_under_a_new_epoch(self, lab: HostileLab, victim: Victim) -> None:
        """It has its point, and no other."""
        with lab.unharmed(victim):
            outcome = lab.run(lab.job(victim, claims={"cycle": victim.jobs[-1].cycle}))
            assert outcome.point == lab.points(victim)[-1]

    def test_a_successor_that_no_node_has_begun(self, lab: HostileLab, victim: Victim) -> None:
        with lab.unharmed(victim):
            for successor in (1, (1 << 32) - 1, 1 << 40):
                job = lab.job(victim, successor=successor)
                lab.control.give(lab.node_id(), job)
                lab.control.settled(lab.node_id())
                assert not lab.control.beats[job.job]


class TestAnothersThings:
    def test_anothers_machine(self, lab: HostileLab, victim: Victim) -> None:
        other = lab.victim()
        with lab.unharmed(victim, other):
            refused(lab, lab.job(victim, machines=other.machines), "plan.binding")
            refused(lab, lab.job(victim, machines=(*victim.machines, *other.machines)), "plan.binding")

    def test_the_machine_of_another_group_of_the_plan(self, lab: HostileLab, victim: Victim) -> None:
        other = lab.victim(plan=victim.plan)
        with lab.unharmed(victim, other):
            refused(lab, lab.job(victim, machines=other.machines), "plan.binding")

    def test_a_machine_of_the_same_name_in_another_source(self, lab: HostileLab, victim: Victim) -> None:
        """Its disks would have the ids of the victim's."""
        with lab.unharmed(victim):
            refused(lab, lab.job(victim, source=OTHERS), "plan.binding")
            refused(lab, lab.job(victim, source=OTHERS, resync=Rung.COMPARE), "plan.binding")

    def test_another_target(self, lab: HostileLab, victim: Victim) -> None:
        with lab.unharmed(victim):
            refused(lab, lab.job(victim, target=VAULT), "plan.binding")

    def test_another_site(self, lab: HostileLab, victim: Victim) -> None:
        """An appliance that is paired with the connector, of a site that has nothing to do with the plan."""
        with lab.unharmed(victim):
            job = lab.job(victim, claims={"node": lab.node_id("stranger")})
            refused(lab, job, "plan.binding", name="stranger")

    def test_anothers_shadow(self, lab: HostileLab, victim: Victim) -> None:
        """A plan's lease of another plan's group, and a group's of another's plan."""
        other = lab.victim()
        with lab.unharmed(victim, other):
            refused(lab, lab.job(other, claims={"group": victim.group}), "cycle.unknown")
            refused(lab, lab.job(victim, claims={"plan": other.plan}), "cycle.unknown")

    def test_a_new_group_over_a_bound_machine(self, lab: HostileLab, victim: Victim) -> None:
        with lab.unharmed(victim):
            refused(lab, lab.job(victim, claims={"group": GroupId(uuid4())}), "plan.binding")

    def test_a_new_plan_over_a_bound_machine(self, lab: HostileLab, victim: Victim) -> None:
        """It gets a shadow of its own, sealed under keys of its own."""
        with lab.unharmed(victim):
            claims = {"plan": PlanId(uuid4()), "group": GroupId(uuid4()), "epoch": 1}
            assert lab.run(lab.job(victim, claims=claims)).result is JobResult.COMPLETED

    def test_a_weaker_codec(self, lab: HostileLab, victim: Victim) -> None:
        """What it can choose is how blocks are compressed: they are sealed all the same."""
        with lab.unharmed(victim):
            for codec in Codec:
                assert lab.run(lab.job(victim, codec=codec, resync=Rung.COMPARE)).result is JobResult.COMPLETED
                lab.finished()
                lab.expected(victim)

    def test_one_group_to_two_appliances_under_one_epoch(self, lab: HostileLab, victim: Victim) -> None:
        with lab.unharmed(victim):
            job = lab.job(victim, claims={"epoch": victim.epoch})
            second = lab.job(victim, claims={"epoch": job.epoch, "node": lab.node_id("second")})
            refused(lab, second, "ticket.other", "cycle.stale-epoch", name="second")
            victim.epoch = job.epoch

    def test_one_group_to_two_appliances_at_once(self, lab: HostileLab, victim: Victim) -> None:
        """Whichever comes later fences the other; every point is of one of them, whole."""
        for _ in range(3):
            lab.change(victim)
            jobs = [lab.job(victim), lab.job(victim, claims={"node": lab.node_id("second"), "epoch": victim.epoch + 1})]
            victim.epoch += 1
            lab.control.give(lab.node_id(), jobs[0])
            lab.control.give(lab.node_id("second"), jobs[1])
            for job in jobs:
                lab.control.outcome(job)
            lab.finished()
        lab.newest_is_right(victim)
        with lab.unharmed(victim):
            pass

    def test_a_connector_that_is_not_paired(self, lab: HostileLab, victim: Victim) -> None:
        with lab.unharmed(victim):
            refused(lab, lab.job(victim, connector=NodeId("ab" * 32)), "pairing.missing")

    def test_an_alias_that_no_setting_has(self, lab: HostileLab, victim: Victim) -> None:
        with lab.unharmed(victim):
            for what in ("source", "target"):
                refused(lab, lab.job(victim).model_copy(update={what: "outside"}), "alias.unknown", "plan.binding")

    def test_a_machine_that_is_none(self, lab: HostileLab, victim: Victim) -> None:
        with lab.unharmed(victim):
            for machine in ("...", "no-such", "secret.txt", ".dmcore-snapshots", "disk0.img"):
                answer = poll_fields(lab.job(victim), machines=[machine])
                lab.control.answer(lab.node_id(), answer)
                lab.control.settled(lab.node_id())


class TestAnswersThatAreNone:
    """The node cannot read the answer: it waits a little and asks again."""

    def test_odd_names(self, lab: HostileLab, victim: Victim) -> None:
        with lab.unharmed(victim):
            for odd in ODD_NAMES:
                job = lab.job(victim)
                names = ("source", "target", "connector", "ticket", "job")
                fields: list[dict[str, Any]] = [{name: odd} for name in names]
                fields += [{"machines": [odd]}, {"codec": odd} if odd is not None else {"codec": 1}]
                lab.control.answer(lab.node_id(), *(poll_fields(job, **each) for each in fields))
                lab.control.settled(lab.node_id())
                assert not lab.control.outcomes[job.job]

    def test_scripts_keys_and_commands(self, lab: HostileLab, victim: Victim) -> None:
        with lab.unharmed(victim):
            for field in SECRETS_AND_SCRIPTS:
                job = lab.job(victim)
                lab.control.answer(lab.node_id(), poll_fields(job, **{field: f"{lab.outside}/script.sh"}))
                lab.control.settled(lab.node_id())
                assert not lab.control.outcomes[job.job]

    def test_odd_numbers_and_lists(self, lab: HostileLab, victim: Victim) -> None:
        with lab.unharmed(victim):
            for changes in ODD_JOBS:
                job = lab.job(victim)
                lab.control.answer(lab.node_id(), poll_fields(job, **changes))
                lab.control.settled(lab.node_id())
                assert not lab.control.outcomes[job.job]

    def test_odd_answers(self, lab: HostileLab, victim: Victim) -> None:
        with lab.unharmed(victim):
            for reply in ODD_ANSWERS:
                for node in (lab.node_id(), lab.connector_id):
                    lab.control.answer(node, reply, reply)
                    lab.control.settled(node)

    def test_intervals_that_make_no_sense(self, lab: HostileLab, victim: Victim) -> None:
        """Whatever it says of heartbeats, a node that is left alone acts by itself before long."""
        with lab.unharmed(victim):
            for heartbeat_s in (0.0, 1e-9, float((1 << 36) - 1)):
                job = lab.job(victim)
                reply = poll_reply(job, heartbeat_s=heartbeat_s, lease_s=0)
                lab.control.answer(lab.node_id(), said(reply))
                assert lab.control.outcome(job).result is JobResult.COMPLETED
                lab.finished()
                assert lab.services["appliance"].desk._grace_s <= 3600
                lab.expected(victim)

    def test_words_that_would_forge_a_log(
        self, lab: HostileLab, victim: Victim, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with lab.unharmed(victim):
            lab.control.answer(lab.node_id(), *[refusal(403, "no", "\x1b[2J\n2026 [info] all is well\r\x07")] * 2)
            lab.control.settled(lab.node_id())
        told = capsys.readouterr()
        assert "all is well" in told.out + told.err
        assert not {"\x1b", "\x07"} & set(told.out + told.err)
        assert not [line for line in (told.out + told.err).splitlines() if line.startswith("2026 [info]")]


class TestDirectives:
    def test_a_storm_of_cancels(self, lab: HostileLab, victim: Victim) -> None:
        stop = said(HeartbeatReply(cancel=True, limit=Limit(), site_limit=Limit(), heartbeat_s=0))
        with lab.unharmed(victim):
            lab.control.directives = lambda _: stop
            for _ in range(10):
                job = lab.job(victim, resync=Rung.COMPARE)
                outcome = lab.run(job)
                assert outcome.result in {JobResult.CANCELLED, JobResult.COMPLETED}
                if outcome.result is JobResult.COMPLETED:
                    lab.expected(victim)
            lab.control.directives = lambda _: GO_ON
            lab.finished()
            lab.expected(victim)

    def test_a_storm_of_pauses(self, lab: HostileLab, victim: Victim) -> None:
        """Paused and resumed at every word, and paused for good: until it says otherwise."""
        pause = said(HeartbeatReply(pause=True, limit=Limit(), site_limit=Limit(), heartbeat_s=0))
        with lab.unharmed(victim):
            turns = iter(range(1 << 30))
            lab.control.directives = lambda _: GO_ON if next(turns) % 2 else pause
            job = lab.job(victim, resync=Rung.COMPARE)
            lab.control.give(lab.node_id(), job)
            lab.control.wait_beats(job.job, 4)
            lab.control.directives = lambda _: GO_ON
            assert lab.control.outcome(job).result is JobResult.COMPLETED
            lab.finished()
            lab.expected(victim)

    def test_limits_that_are_none(self, lab: HostileLab, victim: Victim) -> None:
        """In heartbeats and in plans. A cycle goes on by what it was told before."""
        with lab.unharmed(victim):
            for limit in ODD_LIMITS:
                beat = {"limit": limit, "site_limit": limit, "heartbeat_s": 0.25}
                lab.control.directives = partial(answered, Reply(as_json(beat)))
                plans = {"version": 99, "site_limit": limit, "groups": []}
                lab.control.plans = Reply(as_json(plans))
                lab.control.answer(lab.node_id(), said(poll_reply(plans_version=99)))
                lab.control.settled(lab.node_id())
                assert lab.run(lab.job(victim)).result is JobResult.COMPLETED
                lab.finished()
                lab.expected(victim)

    def test_a_limit_of_almost_nothing(self, lab: HostileLab, victim: Victim) -> None:
        """It can hold replication up, for as long as it says so."""
        crawl = Limit(bytes_s=1 << 10)
        lab.change(victim)
        with lab.unharmed(victim):
            lab.control.directives = lambda _: said(HeartbeatReply(limit=crawl, site_limit=crawl, heartbeat_s=0))
            job = lab.job(victim)
            lab.control.give(lab.node_id(), job)
            lab.control.wait_beats(job.job, 3)
            lab.control.directives = lambda _: GO_ON
            assert lab.control.outcome(job).result is JobResult.COMPLETED
            lab.finished()
            lab.expected(victim)

    def test_plans_of_anothers_machines(self, lab: HostileLab, victim: Victim) -> None:
        """It says what a node is to run by itself, and goes away."""
        other = lab.victim()
        groups = (
            AssignedGroup(
                plan=other.plan, group=victim.group, machines=other.machines, rpo_s=5, paused=False, limit=Limit()
            ),
        )
        with lab.unharmed(victim, other):
            lab.control.plans = said(AssignedPlans(version=7, site_limit=Limit(), groups=groups))
            lab.control.answer(lab.node_id(), said(poll_reply(plans_version=7)))
            lab.control.settled(lab.node_id())
            lab.begin_alone(victim)
            lab.control.plans = said(AssignedPlans(version=8, site_limit=Limit(), groups=()))
            lab.control.answer(lab.node_id(), said(poll_reply(plans_version=8)))
            lab.control.settled(lab.node_id())

    def test_revoked(self, lab: HostileLab, victim: Victim) -> None:
        """In the midst of a cycle, too: what runs is not harmed, and the nodes go on when they are welcome again."""
        with lab.unharmed(victim):
            for reply in (refusal(401, "node.unknown"), refusal(401, "node.revoked"), refusal(404, "x")):
                lab.control.everything = reply
                lab.control.wait_polls(20)
                lab.control.everything = None

    def test_replaced(self, lab: HostileLab, victim: Victim) -> None:
        """It claims that another process has the node's place. The nodes end; started again, they go on."""
        before = lab.held(victim)
        lab.control.everything = refusal(409, "node.superseded")
        lab.await_ended(4)
        lab.control.everything = None
        lab.stop()
        lab.start()
        assert lab.held(victim) == before
        with lab.unharmed(victim):
            pass

    def test_a_lease_that_is_lost_at_every_word(self, lab: HostileLab, victim: Victim) -> None:
        with lab.unharmed(victim):
            lab.control.directives = lambda _: refusal(409, "lease.lost")
            for _ in range(5):
                lab.control.give(lab.node_id(), lab.job(victim, resync=Rung.COMPARE))
                lab.control.settled(lab.node_id())
            lab.control.directives = lambda _: GO_ON
            lab.idle()
            lab.finished()
            lab.expected(victim)

    def test_a_storm_of_jobs_for_groups_that_are_none(self, lab: HostileLab, victim: Victim) -> None:
        with lab.unharmed(victim):
            for _ in range(40):
                lab.control.give(lab.node_id(), lab.job(victim, source="nowhere", claims={"group": GroupId(uuid4())}))
            lab.control.settled(lab.node_id())
            lab.idle()

    def test_work_of_the_other_kind_of_node(self, lab: HostileLab, victim: Victim) -> None:
        with lab.unharmed(victim):
            point = lab.points(victim)[-1]
            lab.control.give(lab.node_id(), lab.connector_job(JobKind.EXPIRE, point))
            lab.control.give(lab.connector_id, lab.job(victim))
            lab.control.settled(lab.node_id())
            lab.control.settled(lab.connector_id)
