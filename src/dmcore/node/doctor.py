"""What is checked at both kinds of node: keys, folders, the control plane, certificates."""

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import datetime
from pathlib import Path

from cryptography import x509

from dmcore.api.client_errors import ControlDenied, ControlRefused
from dmcore.api.http import Transport
from dmcore.api.nodes import AssignedPlans
from dmcore.host.clock import Clock
from dmcore.host.files import read_state
from dmcore.keys.local import LocalKek
from dmcore.node.enrolment import Enrolment, load_enrolment
from dmcore.node.findings import Finding, fail, ok, warn
from dmcore.node.identity import KEY_FILE, Identity
from dmcore.node.settings import NodeSettings
from dmcore.node.signed import SignedCalls, Signer

OTHERS = stat.S_IRWXG | stat.S_IRWXO
SKEW_WARN_S, SKEW_FAIL_S = 30, 600
"""From the second on tickets are expired before they come."""
RENEW_DAYS = 30
LOW_FREE = 0.1


def has_identity(settings: NodeSettings) -> bool:
    """Whether this node was ever enrolled, paired or started. Looking for its key must not make one."""
    return (settings.state_dir / KEY_FILE).exists()


def check_no_identity(settings: NodeSettings) -> Iterator[Finding]:
    """What there is to say where there is none."""
    yield fail(
        "state", f"{settings.state_dir} has no node key", "enroll or pair this node, or mount what should be there"
    )


def check_private(paths: Mapping[str, Path]) -> Iterator[Finding]:
    """Files and folders that nobody else may read."""
    for what, path in paths.items():
        mode = path.stat().st_mode
        if mode & OTHERS:
            kind = "700" if stat.S_ISDIR(mode) else "600"
            yield fail(what, f"{path} is open to others ({stat.filemode(mode)})", f"chmod {kind} {path}")
        else:
            yield ok(what, f"{path} is its owner's alone")


def check_key(settings: NodeSettings) -> Iterator[Finding]:
    """The key file is there, private, and the pinned one. Raises KeyError's kinds of LocalKek."""
    LocalKek(settings.kek.file, settings.kek.fingerprint)
    yield ok("key", f"{settings.kek.file} is the pinned one")


def check_folder(what: str, path: Path, reserve_bytes: int = 0) -> Iterator[Finding]:
    """It is there, can be written, and has room."""
    if not path.is_dir():
        yield fail(what, f"{path} is not there", "make it, or mount what should be there")
        return
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        yield fail(what, f"{path} cannot be written", "give it to the user that the node runs as")
        return
    stats = os.statvfs(path)
    free, size = stats.f_bavail * stats.f_frsize, stats.f_blocks * stats.f_frsize
    found = f"{path} has {free / 2**30:.1f} GiB of {size / 2**30:.1f} free"
    if free <= reserve_bytes:
        yield fail(what, f"{found}, no more than its reserve", "free some space, or give it more")
    elif free < LOW_FREE * size:
        yield warn(what, found, "give it more space before it is full")
    else:
        yield ok(what, found)


def check_certificate(what: str, path: Path, now: datetime, advice: str) -> Iterator[Finding]:
    """How long a certificate is good for."""
    try:
        certificate = x509.load_pem_x509_certificate(read_state(path))
    except ValueError:
        yield fail(what, f"{path} is no certificate", advice)
        return
    days = (certificate.not_valid_after_utc - now).days
    if days < 0:
        yield fail(what, f"{path} has expired", advice)
    elif days < RENEW_DAYS:
        yield warn(what, f"{path} expires in {days} days", advice)
    else:
        yield ok(what, f"{path} is good for {days} days")


def check_control(settings: NodeSettings, identity: Callable[[], Identity], clock: Clock) -> Iterator[Finding]:
    """Whether there is an enrolment, the control plane answers, knows this node, and goes by the same time."""
    enrolment = load_enrolment(settings.state_dir)
    if enrolment is None:
        yield warn("control plane", "this node is not enrolled: it gets no jobs", "enroll it, unless that is meant so")
        return
    with closing(Transport(enrolment.urls, enrolment.trust)) as transport:
        answer = transport.send("GET", "/v1/health")
        if answer.date is not None:
            yield _skew((answer.date - clock()).total_seconds())
        yield _known(SignedCalls(transport, Signer(identity(), enrolment.control, clock)), enrolment)


def _known(calls: SignedCalls, enrolment: Enrolment) -> Finding:
    """A request that changes nothing, and is taken of enrolled nodes only."""
    url = enrolment.urls[0]
    try:
        calls.ask("GET", "/v1/nodes/plans", AssignedPlans)
    except ControlDenied as denied:
        return fail("control plane", f"{url} does not know this node: {denied}", "enroll it anew")
    except ControlRefused as refused:
        return warn("control plane", f"{url} answers, but: {refused}", "look at the control plane's log")
    return ok("control plane", f"{url} answers and knows this node")


def _skew(seconds: float) -> Finding:
    found = f"this clock is {abs(seconds):.0f} s {'behind' if seconds > 0 else 'ahead of'} the control plane's"
    if abs(seconds) >= SKEW_FAIL_S:
        return fail("clock", found, "set it: tickets are taken for expired")
    if abs(seconds) >= SKEW_WARN_S:
        return warn("clock", found, "set it: points are named by the source's clock")
    return ok("clock", found)
