"""The two connections of a pairing.

The first trusts nobody and sends nothing secret: it fetches the authority's certificate, which the token's
fingerprint judges. Only the second, verified against that authority, carries the token's secret.
"""

import hashlib
import ssl
import time
from collections.abc import Callable

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from dmcore.errors import TrustError
from dmcore.host.address import Address
from dmcore.node.pairing_errors import (
    AuthorityMismatch,
    ConnectorUnreachable,
    MessageMalformed,
    PairingRefused,
    TokenExpired,
    TokenUnknown,
    TokenUsed,
)
from dmcore.node.pairing_link import framed, receive
from dmcore.node.pairing_token import (
    AuthorityAnswer,
    AuthorityRequest,
    Message,
    PairAnswer,
    PairingToken,
    PairRequest,
    Refusal,
)
from dmcore.wire.connection import Dial, dial
from dmcore.wire.tls import PAIRING_ALPN, connector_name, pairing_client_context

TIMEOUT_S = 15.0
REFUSALS: dict[str, type[TrustError]] = {kind.code: kind for kind in (TokenUnknown, TokenUsed, TokenExpired)}

Check = Callable[[ssl.SSLSocket], object]


class PairingClient:
    """Asks connectors. Keeps no connection."""

    def __init__(self, dial: Dial = dial, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._dial, self._monotonic = dial, monotonic

    def fetch_authority(self, token: PairingToken) -> tuple[Address, x509.Certificate]:
        """The first of the token's addresses that answers, and the authority there, which is the token's.

        Raises:
            ConnectorUnreachable: none answers.
            AuthorityMismatch: the one that answers has another authority.
        """
        unreachable: ConnectorUnreachable | None = None
        for address in token.addresses:
            try:
                return address, self._authority_at(address, token.authority_sha256)
            except ConnectorUnreachable as failure:
                unreachable = unreachable or failure
        raise unreachable or ConnectorUnreachable(address="(no address)", problem="the token names none")

    def ask_to_pair(
        self, address: Address, authority: x509.Certificate, token: PairingToken, request: PairRequest
    ) -> PairAnswer:
        """The connector's answer, after it has proved to be the one that made the token.

        Raises:
            TokenUnknown, TokenUsed, TokenExpired, PairingRefused: the connector says no.
            AuthorityMismatch, OtherConnector: it is not that connector; nothing was sent.
            ConnectorUnreachable: it does not answer any more.
        """
        context = pairing_client_context(_pem(authority))
        try:
            data = self._ask(address, context, request, lambda tls: connector_name(tls, token.connector, PAIRING_ALPN))
            return PairAnswer.model_validate_json(_unless_refused(data))
        except (MessageMalformed, ValueError) as problem:
            raise PairingRefused(problem="it does not answer as a connector does") from problem

    def _authority_at(self, address: Address, sha256: str) -> x509.Certificate:
        try:
            data = self._ask(address, pairing_client_context(None), AuthorityRequest(), lambda _: None)
            answer = AuthorityAnswer.model_validate_json(data)
            certificate = x509.load_pem_x509_certificate(answer.authority.encode())
        except (MessageMalformed, ValueError) as problem:
            raise AuthorityMismatch(address=str(address), problem="it does not answer as a connector does") from problem
        if hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest() != sha256:
            raise AuthorityMismatch(address=str(address), problem="its authority has another fingerprint")
        return certificate

    def _ask(self, address: Address, context: ssl.SSLContext, request: Message, check: Check) -> bytes:
        deadline = self._monotonic() + TIMEOUT_S
        try:
            with (
                self._dial(address.host, address.port, TIMEOUT_S) as plain,
                context.wrap_socket(plain) as tls,
            ):
                check(tls)
                tls.sendall(framed(request))
                return receive(tls, deadline)
        except ssl.SSLCertVerificationError as problem:
            raise AuthorityMismatch(address=str(address), problem=problem.verify_message) from problem
        except OSError as problem:
            raise ConnectorUnreachable(address=str(address), problem=problem.strerror or str(problem)) from problem


def _pem(certificate: x509.Certificate) -> str:
    """Of the one certificate that was judged: the peer's own text may hold more of them."""
    return certificate.public_bytes(Encoding.PEM).decode()


def _unless_refused(data: bytes) -> bytes:
    try:
        code = Refusal.model_validate_json(data).refused
    except ValueError:
        return data
    raise REFUSALS[code] if code in REFUSALS else PairingRefused(problem=code)
