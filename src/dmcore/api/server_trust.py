"""How a client knows that it speaks to its control plane: one pinned certificate, or a CA and the host's name."""

import hashlib
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from dmcore.api.client_errors import AddressMalformed, AuthorityUnreadable, ControlUnreachable, PinDiffers
from dmcore.errors import DmcoreError

CONNECT_TIMEOUT_S = 5.0
DEFAULT_PORT = 443
URL_PATTERN = r"^https://(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9]([A-Za-z0-9.-]{0,252}))(:[0-9]{1,5})?$"
_URL = re.compile(URL_PATTERN)


@dataclass(frozen=True)
class ServerTrust:
    """One of: a pinned certificate (its SHA-256, or itself), a CA's file, or the system's CAs (nothing given)."""

    fingerprint: str | None = None
    """SHA-256 of the certificate (DER), lower-case hex."""
    certificate_path: Path | None = None
    """The pinned certificate, PEM. None: it is fetched at the first connection, and must have the fingerprint."""
    ca_file: Path | None = None

    @property
    def pinned(self) -> bool:
        """Whether exactly one certificate is accepted."""
        return self.fingerprint is not None

    def context(self, url: str, timeout_s: float) -> ssl.SSLContext:
        """For connections to this URL. Asks there for the certificate if only its fingerprint is known.

        Raises:
            PinDiffers: another certificate is shown there.
            AuthorityUnreadable: the CA's file, or the pinned certificate's, is none.
            ControlUnreachable: there is nobody to show one.
        """
        if self.fingerprint is None:
            return _ca_context(self.ca_file)
        if self.certificate_path is not None:
            return pinned_context(_pem_of(self.certificate_path), str(self.certificate_path))
        return pinned_context(fetch_pinned(url, self.fingerprint, timeout_s), url)


def require_address(url: str) -> tuple[str, int]:
    """Host and port of a control plane's URL.

    Raises:
        AddressMalformed: it is not https://host[:port].
    """
    if not _URL.fullmatch(url):
        raise AddressMalformed(url=url)
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, DEFAULT_PORT if parts.port is None else parts.port
    except ValueError as problem:
        raise AddressMalformed(url=url) from problem
    if not host or not port:
        raise AddressMalformed(url=url)
    return host, port


def fetch_certificate(url: str, timeout_s: float) -> str:
    """The certificate (PEM) that a server shows, whoever it is. Nothing is sent; judge it before anything is.

    Raises:
        AddressMalformed, ControlUnreachable.
    """
    try:
        return ssl.get_server_certificate(require_address(url), timeout=timeout_s)
    except (OSError, ValueError) as problem:
        raise ControlUnreachable(url=url, problem=str(problem) or type(problem).__name__) from problem


def fingerprint_of(pem: str) -> str:
    """SHA-256 of a certificate, lower-case hex; a ValueError if it is none."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


def fetch_pinned(url: str, fingerprint: str, timeout_s: float) -> str:
    """The certificate (PEM) that a server shows, which is the pinned one.

    Raises:
        PinDiffers: it is another.
        AddressMalformed, ControlUnreachable.
    """
    pem = fetch_certificate(url, timeout_s)
    if (found := fingerprint_of(pem)) != fingerprint:
        raise PinDiffers(url=url, found=found, pinned=fingerprint)
    return pem


def fetch_first_pinned(urls: Sequence[str], fingerprint: str, timeout_s: float = CONNECT_TIMEOUT_S) -> str:
    """The pinned certificate (PEM) from the first address that shows it.

    Raises:
        PinDiffers: at none, and somewhere another.
        AddressMalformed, ControlUnreachable.
    """
    failures: list[DmcoreError] = []
    for url in urls:
        try:
            return fetch_pinned(url, fingerprint, timeout_s)
        except (PinDiffers, ControlUnreachable) as failure:
            failures.append(failure)
    raise next((each for each in failures if isinstance(each, PinDiffers)), failures[0])


def pinned_context(pem: str, origin: str) -> ssl.SSLContext:
    """Accepts this one certificate. The host's name does not matter: it is the certificate that is known.

    Raises:
        AuthorityUnreadable: it is no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=pem)
    except (ssl.SSLError, ValueError) as problem:
        raise AuthorityUnreadable(path=origin, problem=str(problem)) from problem
    return context


def _ca_context(ca_file: Path | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as problem:  # an SSLError, if it is no certificate
        raise AuthorityUnreadable(path=str(ca_file), problem=problem.strerror or str(problem)) from problem
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _pem_of(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError) as problem:
        raise AuthorityUnreadable(path=str(path), problem=str(problem)) from problem
