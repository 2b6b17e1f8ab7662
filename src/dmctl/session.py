"""The control plane that this user is logged in at, asked by every command that needs one."""

from collections.abc import Iterator
from contextlib import contextmanager

from dmcore.api.http import Transport
from dmcore.api.operator_client import OperatorClient
from dmcore.api.server_trust import CONNECT_TIMEOUT_S, ServerTrust
from dmctl.profile import Profile, load_profile


def connect(profile: Profile, connect_timeout_s: float = CONNECT_TIMEOUT_S) -> OperatorClient:
    """A client for this profile. Nothing is asked yet. Raises AddressMalformed."""
    trust = ServerTrust(fingerprint=profile.fingerprint, ca_file=profile.ca_file)
    return OperatorClient(Transport([profile.url], trust, connect_timeout_s=connect_timeout_s), profile.token)


@contextmanager
def session(connect_timeout_s: float = CONNECT_TIMEOUT_S) -> Iterator[OperatorClient]:
    """The client of the profile that a login left.

    Raises:
        NotLoggedIn, FileExposed, FileBroken: there is no such profile.
    """
    with connect(load_profile(), connect_timeout_s) as client:
        yield client
