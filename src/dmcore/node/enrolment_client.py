"""The one request of an enrolment."""

import base64
from contextlib import closing

from dmcore.api.http import Transport
from dmcore.api.join import JoinToken
from dmcore.api.nodes import EnrollReply, EnrollRequest
from dmcore.api.server_trust import ServerTrust
from dmcore.host.clock import Clock
from dmcore.node.identity import Identity, public_der
from dmcore.node.signed import SignedCalls, Signer
from dmcore.node.version import OWN_VERSION


def ask_to_enroll(token: JoinToken, identity: Identity, trust: ServerTrust, clock: Clock) -> EnrollReply:
    """The control plane's answer, unjudged. Signed with the key that it brings, which proves that we have it.

    Raises:
        PinDiffers, ControlUntrusted: nothing was sent.
        ControlDenied, ControlRefused, ControlUnreachable, ControlAnswerBroken.
    """
    request = EnrollRequest(
        secret=token.secret,
        public_key=base64.b64encode(public_der(identity.private_key)).decode(),
        site=token.site,
        role=token.role,
        version=OWN_VERSION,
    )
    with closing(Transport(token.urls, trust)) as transport:
        calls = SignedCalls(transport, Signer(identity, token.control, clock))
        return calls.ask("POST", "/v1/nodes/enroll", EnrollReply, request)
