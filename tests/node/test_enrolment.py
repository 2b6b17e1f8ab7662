"""From a join token to what a node keeps, and what it refuses on the way."""

import base64
import stat
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from dmcore.api.client_errors import AuthorityUnreadable, ControlDenied, ControlUntrusted, PinDiffers
from dmcore.api.errors import JoinTokenMalformed
from dmcore.api.signing import verify_request
from dmcore.errors import DmcoreError
from dmcore.host.clock import utc_now
from dmcore.host.errors import FileBroken
from dmcore.host.files import fsync_dir, replace_file
from dmcore.lab.layout import free_ports
from dmcore.model.enums import Role
from dmcore.model.names import node_id_of
from dmcore.node.control_client import NodeClient
from dmcore.node.control_errors import EnrolledElsewhere, EnrolmentBroken, JoinElsewhere, NotEnrolled
from dmcore.node.enrolment import Enrolment, enroll, load_enrolment
from dmcore.node.identity import public_der
from tests.api.certificates import authority, issued, own_certificate
from tests.api.fake_control import FakeControl, Refuse, Say
from tests.node.control_kit import (
    CONTROL,
    ENROLL,
    NO_PLANS,
    PLANS,
    SITE,
    TICKET_PEM,
    Node,
    enrolled,
    token_for,
)

Enroll = Callable[..., Enrolment]


@pytest.fixture(autouse=True)
def _accepting(control: FakeControl, node: Node) -> None:
    control.answers |= {ENROLL: enrolled(node.identity), PLANS: NO_PLANS}


@pytest.fixture
def join(node: Node) -> Enroll:
    def run(text: str | None = None, ca_file: Path | None = None, *, force: bool = False, **rest: Any) -> Enrolment:
        token = text if text is not None else token_for(node.control).encode()
        return enroll(token, node.identity, SITE, Role.APPLIANCE, node.state_dir, ca_file, force=force, **rest)

    return run


def kept(node: Node) -> dict[str, str]:
    folder = node.state_dir / "control"
    return {path.name: path.read_text() for path in folder.iterdir()} if folder.exists() else {}


def require_usable(node: Node, found: Enrolment) -> None:
    client = NodeClient(found, node.identity)
    assert client.plans() == NO_PLANS
    client.close()


def test_nothing_is_enrolled_at_first(node: Node) -> None:
    assert load_enrolment(node.state_dir) is None


def test_a_token_makes_an_enrolment(node: Node, join: Enroll) -> None:
    made = join()
    assert made == load_enrolment(node.state_dir)
    assert (made.control, made.urls, made.site, made.role) == (CONTROL, (node.control.url,), SITE, Role.APPLIANCE)
    assert made.ticket_key_path.read_text() == TICKET_PEM
    assert made.trust.certificate_path is not None
    assert made.trust.certificate_path.read_text() == node.control.files.pem
    [asked] = node.control.asked
    key = node.identity.private_key
    verify_request(key.public_key(), asked.headers["Authorization"], CONTROL, "POST", "/v1/nodes/enroll", asked.body)
    said = asked.json
    assert base64.b64decode(said["public_key"]) == public_der(key)
    assert (said["secret"], said["site"], said["role"]) == ("s" * 43, SITE, "appliance")
    require_usable(node, made)
    assert "s" * 43 not in "".join(kept(node).values())  # the secret is spent
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (node.state_dir / "control").iterdir()}
    assert modes == {0o600}


@pytest.mark.parametrize("minutes", [10, -10])
def test_a_clock_that_is_off_does_no_harm(node: Node, join: Enroll, minutes: int) -> None:
    answers: list[Say] = [enrolled(node.identity), Refuse(401, "clock.skewed")]
    node.control.answers[ENROLL] = lambda _: answers.pop()
    join(clock=lambda: utc_now() + timedelta(minutes=minutes))
    assert load_enrolment(node.state_dir)


@pytest.mark.parametrize(("site", "role"), [("london", Role.APPLIANCE), (SITE, Role.CONNECTOR)], ids=["site", "role"])
def test_a_token_for_another_node_is_not_spent(node: Node, join: Enroll, site: str, role: Role) -> None:
    with pytest.raises(JoinElsewhere, match="paris"):
        join(token_for(node.control, role, site=site).encode())
    assert (node.control.asked, kept(node)) == ([], {})


def test_what_is_no_token(node: Node, join: Enroll) -> None:
    with pytest.raises(JoinTokenMalformed):
        join("dmj1.nonsense")
    assert node.control.asked == []


def test_another_certificate_does_not_get_the_secret(node: Node, join: Enroll) -> None:
    with pytest.raises(PinDiffers):
        join(token_for(node.control, tls="0" * 64).encode())
    assert (node.control.asked, kept(node)) == ([], {})


def test_a_refusal_leaves_nothing(node: Node, join: Enroll) -> None:
    node.control.answers[ENROLL] = Refuse(403, "join.refused")
    with pytest.raises(ControlDenied):
        join()
    assert kept(node) == {}


def other_pem() -> str:
    key = generate_private_key(SECP256R1()).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.mark.parametrize(
    "lie",
    [
        {"control": uuid4()},
        {"node": "f" * 64},
        {"ticket_key": other_pem()},
        {"ticket_key": "nonsense"},
        {"ticket_key": "-----BEGIN PUBLIC KEY-----\nMA==\n-----END PUBLIC KEY-----\n"},
    ],
    ids=["control", "node", "key", "nonsense", "pem"],
)
def test_an_answer_that_the_token_did_not_promise_is_not_kept(node: Node, join: Enroll, lie: dict[str, Any]) -> None:
    node.control.answers[ENROLL] = enrolled(node.identity, **lie)
    with pytest.raises(EnrolmentBroken):
        join()
    assert kept(node) == {}


def test_a_key_of_another_kind_is_refused_even_if_the_token_names_it(node: Node, join: Enroll) -> None:
    pem = other_pem()
    der = load_pem_public_key(pem.encode()).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    node.control.answers[ENROLL] = enrolled(node.identity, ticket_key=pem)
    with pytest.raises(EnrolmentBroken):
        join(token_for(node.control, ticket_key=node_id_of(der)).encode())


def test_the_address_that_answers_is_found(node: Node, join: Enroll, tmp_path: Path) -> None:
    [port] = free_ports(1)
    with FakeControl.make(tmp_path, own_certificate(tmp_path, "other")) as stranger:
        urls = (f"https://127.0.0.1:{port}", stranger.url, node.control.url)
        made = join(token_for(node.control, urls=urls).encode())
        assert made.urls == urls
        require_usable(node, made)
        assert stranger.asked == []


class TestCa:
    @pytest.fixture
    def signed(self, tmp_path: Path, node: Node) -> Callable[[], tuple[FakeControl, Path]]:
        def make() -> tuple[FakeControl, Path]:
            ca, key = authority(tmp_path)
            other = FakeControl.make(tmp_path, issued(tmp_path, key))
            other.answers = {ENROLL: enrolled(node.identity), PLANS: NO_PLANS}
            return other, ca

        return make

    @pytest.mark.parametrize("pinned", [False, True])
    def test_vouches_for_the_server_and_is_kept(
        self, node: Node, join: Enroll, signed: Callable[[], tuple[FakeControl, Path]], pinned: bool
    ) -> None:
        """Even where the token has a fingerprint: a CA's server may change its certificate."""
        server, ca = signed()
        with server as running:
            text = token_for(running, tls="0" * 64 if pinned else None).encode()
            made = join(text, ca)
            assert made.trust.ca_file is not None
            assert made.trust.ca_file != ca
            ca.unlink()
            assert made == load_enrolment(node.state_dir)
            require_usable(node, made)
            assert set(kept(node)) == {"enrolment.json", "ca.pem", "ticket.pub"}

    def test_without_it_the_systems_must_know_the_server(
        self, node: Node, join: Enroll, signed: Callable[[], tuple[FakeControl, Path]]
    ) -> None:
        server, _ = signed()
        with server as running:
            with pytest.raises(ControlUntrusted):
                join(token_for(running, tls=None).encode())
            assert running.asked == []

    def test_that_is_not_there(self, node: Node, join: Enroll, tmp_path: Path) -> None:
        with pytest.raises(AuthorityUnreadable, match=r"none\.pem"):
            join(None, tmp_path / "none.pem")
        assert node.control.asked == []


class TestAgain:
    def test_at_the_same_control_plane_everything_else_stays(self, node: Node, join: Enroll) -> None:
        join()
        plans = node.state_dir / "control" / "plans.json"
        plans.write_text("{}")
        join()
        assert plans.exists()
        require_usable(node, join())

    @pytest.fixture
    def moved(self, node: Node, join: Enroll) -> str:
        """A token of another control plane, of a node that is enrolled here."""
        join()
        (node.state_dir / "control" / "outcomes").mkdir()
        node.control.answers[ENROLL] = enrolled(node.identity, control=UUID(int=0xC1))
        return token_for(node.control, control=UUID(int=0xC1)).encode()

    def test_at_another_only_by_force(self, node: Node, join: Enroll, moved: str) -> None:
        before = kept_record(node)
        with pytest.raises(EnrolledElsewhere, match="--force"):
            join(moved)
        assert kept_record(node) == before
        assert join(moved, force=True).control == UUID(int=0xC1)
        assert not (node.state_dir / "control" / "outcomes").exists()

    def test_a_refusal_leaves_the_older_one(self, node: Node, join: Enroll, moved: str) -> None:
        node.control.answers[ENROLL] = Refuse(403, "join.refused")
        with pytest.raises(ControlDenied):
            join(moved, force=True)
        found = load_enrolment(node.state_dir)
        assert found is not None
        assert found.control == CONTROL

    def test_one_that_cannot_be_read_is_left_by_force(self, node: Node, join: Enroll) -> None:
        join()
        (node.state_dir / "control" / "enrolment.json").write_text("{}")
        with pytest.raises(FileBroken, match="--force"):
            load_enrolment(node.state_dir)
        with pytest.raises(FileBroken):
            join()
        require_usable(node, join(force=True))

    @pytest.mark.parametrize("step", range(4))
    def test_a_crash_in_between_leaves_the_old_none_or_the_new(
        self, node: Node, join: Enroll, monkeypatch: pytest.MonkeyPatch, step: int
    ) -> None:
        """Never an enrolment whose files are partly another's."""
        join()
        done = 0

        def dies(call: Callable[..., None]) -> Callable[..., None]:
            def instead(*arguments: Any, **named: Any) -> None:
                nonlocal done
                if done == step:
                    raise OSError("power cut")
                done += 1
                call(*arguments, **named)

            return instead

        monkeypatch.setattr("dmcore.node.enrolment.fsync_dir", dies(fsync_dir))
        monkeypatch.setattr("dmcore.node.enrolment.replace_file", dies(replace_file))
        with pytest.raises(OSError, match="power cut"):
            join()
        assert load_enrolment(node.state_dir) is None
        monkeypatch.undo()
        require_usable(node, join())


def kept_record(node: Node) -> str:
    return (node.state_dir / "control" / "enrolment.json").read_text()


def test_each_error_says_what_to_do() -> None:
    for error in (
        EnrolledElsewhere(control="c", url="u"),
        EnrolmentBroken(url="u", problem="p"),
        JoinElsewhere(wanted="w", own="o"),
        NotEnrolled(role="appliance"),
    ):
        assert isinstance(error, DmcoreError)
        assert len(str(error)) > 40


def test_what_a_change_that_broke_off_has_left_is_not_told_to_the_next(node: Node, join: Enroll) -> None:
    """Outcomes of another control plane's jobs, say, without the record of whose they are."""
    left = node.state_dir / "control" / "outcomes" / "x.json"
    left.parent.mkdir(parents=True)
    left.write_text("{}")
    join()
    assert load_enrolment(node.state_dir)
    assert not left.exists()
