"""What a client of the control plane can meet: nobody there, somebody else, or a no."""

from dataclasses import dataclass

from dmcore.errors import ConfigurationError, ConnectionFailed, ExitCode, RefusedError, TrustError


@dataclass(eq=False)
class ControlUnreachable(ConnectionFailed):
    """No answer, or half of one."""

    code = "control.unreachable"
    template = "no answer from the control plane at {url}: {problem}"
    url: str
    problem: str


@dataclass(eq=False)
class ControlAnswerBroken(ConnectionFailed):
    """Something answered, but not as a control plane does: a proxy's page, another version, half a body."""

    code = "control.answer"
    template = "{url} does not answer as a control plane: {problem}; is the address right, and is a proxy between?"
    url: str
    problem: str


@dataclass(eq=False)
class PinDiffers(TrustError):
    """The server shows another certificate than the one that was pinned. Nothing was sent to it."""

    code = "control.pin"
    template = (
        "{url} shows a certificate with the fingerprint {found}, pinned is {pinned}; nothing was sent. If it was"
        " replaced on purpose, enroll or log in anew; if not, find out who answers there"
    )
    url: str
    found: str
    pinned: str


@dataclass(eq=False)
class ControlUntrusted(TrustError):
    """The server's certificate is not vouched for by the CAs that are trusted here. Nothing was sent to it."""

    code = "control.certificate"
    template = "the certificate of {url} is not trusted: {problem}; name its CA with --ca-file"
    url: str
    problem: str


@dataclass(eq=False)
class AddressMalformed(ConfigurationError):
    """A text that should be the control plane's address."""

    code = "control.address"
    template = "{url!r} is not the address of a control plane: https://host or https://host:port"
    url: str


@dataclass(eq=False)
class AuthorityUnreadable(ConfigurationError):
    """The CA file that should vouch for the control plane."""

    code = "control.authority"
    template = "{path}: {problem}; it should be the CA's certificate in PEM"
    path: str
    problem: str


@dataclass(eq=False)
class ControlRefused(RefusedError):
    """The control plane understood and said no. An instance's `code` is the control plane's own."""

    code = "control.refused"
    template = "{message}"
    reason: str
    """The code it answered."""
    message: str
    status: int

    def __post_init__(self) -> None:
        vars(self)["code"] = self.reason  # what a script branches on


@dataclass(eq=False)
class ControlDenied(ControlRefused):
    """It does not know who asks: a token or signature that is not valid there."""

    code = "control.denied"
    exit_code = ExitCode.TRUST


@dataclass(eq=False)
class ControlBusy(ControlRefused):
    """It cannot now. Nothing was done."""

    code = "control.busy"
    exit_code = ExitCode.BUSY
    permanent = False


@dataclass(eq=False)
class ControlFailing(ControlRefused):
    """A fault or a full disk over there."""

    code = "control.failing"
    exit_code = ExitCode.CONNECTION
    permanent = False
