"""What the connector answers to an appliance that wants to pair. No sockets here."""

from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from dmcore.connector.ca import Authority, requested_key
from dmcore.connector.paired import PairedList, PairedNode
from dmcore.connector.pairing_tokens import TokenStore
from dmcore.connector.trust_errors import VersionRefused
from dmcore.errors import DmcoreError
from dmcore.host.address import Address
from dmcore.host.clock import Clock
from dmcore.model.ids import NodeId
from dmcore.model.names import node_id_of
from dmcore.node.pairing_errors import MessageMalformed
from dmcore.node.pairing_token import (
    PAIRING_VERSION,
    AuthorityAnswer,
    Message,
    PairAnswer,
    PairRequest,
    Refusal,
    parse_request,
)


@dataclass(frozen=True)
class PairingDesk:
    """Pairs whoever brings an unused token. `address` is where the paired appliance then connects to."""

    authority: Authority
    connector: NodeId
    address: Address
    tokens: TokenStore
    paired: PairedList
    clock: Clock

    def answer(self, request: bytes) -> Message:
        """The answer to a request, or to what claims to be one. Refusals carry a code and nothing else."""
        try:
            return self._answer(request)
        except DmcoreError as refused:
            return Refusal(refused=refused.code)

    def _answer(self, request: bytes) -> Message:
        try:
            asked = parse_request(request)
        except ValueError as problem:
            raise MessageMalformed(problem="not a pairing request") from problem
        if isinstance(asked, PairRequest):
            return self._pair(asked)
        return AuthorityAnswer(authority=self.authority.pem)

    def _pair(self, asked: PairRequest) -> PairAnswer:
        if PAIRING_VERSION not in asked.versions:
            raise VersionRefused(offered=", ".join(map(str, asked.versions)), spoken=str(PAIRING_VERSION))
        requested_key(asked.csr)  # before the token: a bad request must not use it up
        site = self.tokens.use(asked.secret)
        certificate = self.authority.issue_client(asked.csr, site)
        self.paired.add(PairedNode(node=_node_of(certificate), site=site, since=self.clock()))
        return PairAnswer(
            certificate=certificate.public_bytes(Encoding.PEM).decode(),
            authority=self.authority.pem,
            connector=self.connector,
            address=self.address,
        )


def _node_of(certificate: x509.Certificate) -> NodeId:
    return node_id_of(certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
