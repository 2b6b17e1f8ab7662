"""`dmctl login` and `dmctl logout`: which control plane the other commands ask, and as whom."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import click

from dmcore.api.server_trust import CONNECT_TIMEOUT_S, ServerTrust, fetch_certificate, fingerprint_of
from dmctl import confirming, session
from dmctl.errors import FingerprintUnconfirmed
from dmctl.options import json_option
from dmctl.output import print_json, print_pairs
from dmctl.profile import Profile, forget_profile, save_profile

MAX_TOKEN_BYTES = 4096
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_TOKEN = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True)
class Trusted:
    """How the control plane is to be known, as typed: at most one of them."""

    fingerprint: str | None
    ca_file: Path | None
    system_ca: bool

    def __post_init__(self) -> None:
        if sum(map(bool, (self.fingerprint, self.ca_file, self.system_ca))) > 1:
            raise click.UsageError("choose one of --fingerprint, --ca-file and --system-ca")

    def resolved(self, url: str) -> ServerTrust:
        """The same for a client; without any, whoever sits at the terminal says whether it is the right one.

        Raises:
            FingerprintUnconfirmed: nobody does. AddressMalformed, ControlUnreachable: there is nothing to show.
        """
        if self.ca_file or self.system_ca:
            return ServerTrust(ca_file=self.ca_file)
        return ServerTrust(fingerprint=self.fingerprint or _confirmed(url))


def _fingerprint(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:  # noqa: ARG001 - click's
    text = value.replace(":", "").lower() if value is not None else None
    if text is not None and not _FINGERPRINT.fullmatch(text):
        raise click.BadParameter("a SHA-256 fingerprint is 64 hex digits, with or without colons")
    return text


@click.command()
@click.argument("url")
@click.option(
    "--token-file", metavar="FILE", help="A file that holds the token; - is standard input. Not given: it is asked for."
)
@click.option("--fingerprint", callback=_fingerprint, help="SHA-256 of the control plane's certificate.")
@click.option("--ca-file", type=click.Path(path_type=Path), help="The CA that vouches for its certificate.")
@click.option("--system-ca", is_flag=True, help="A CA that this machine trusts vouches for it.")
@json_option
def login(
    url: str, token_file: str | None, fingerprint: str | None, ca_file: Path | None, system_ca: bool, as_json: bool
) -> None:
    """Remember the control plane at URL (https://host:port), and a token for it. Both are tried first.

    Without --fingerprint, --ca-file or --system-ca the fingerprint of its certificate is shown, and you are asked
    whether it is the one that the control plane printed. The token never stands in the command line. What is
    remembered is in $DMCTL_PROFILE, or ~/.config/dmcore/login.json, for its owner only.

    \b
    Example:
      dmctl login https://control.example:8443 --token-file token
      dmctl login https://control.example --token-file - --system-ca < token
    """
    address = url.rstrip("/")
    trust = Trusted(fingerprint, ca_file, system_ca).resolved(address)
    ca_path = trust.ca_file.absolute() if trust.ca_file else None
    profile = Profile(url=address, token=_token(token_file), fingerprint=trust.fingerprint, ca_file=ca_path)
    with session.connect(profile) as control:
        control_id = control.health().control
        control.status()  # which the token must be good for
    facts = {"url": address, "control": str(control_id), "profile": str(save_profile(profile))}
    if as_json:
        print_json(dict(facts))
        return
    click.echo("Logged in.")
    print_pairs(dict(facts))


def _confirmed(url: str) -> str:
    """The fingerprint of what answers there, if somebody knows it. The question goes to standard error."""
    found = fingerprint_of(fetch_certificate(url, CONNECT_TIMEOUT_S))
    if not confirming.at_a_terminal():
        raise FingerprintUnconfirmed(url=url, fingerprint=found)
    click.echo(f"{url} shows a certificate with the SHA-256 fingerprint\n  {found}", err=True)
    if not click.confirm("Is it the one that the control plane printed?", err=True):
        raise FingerprintUnconfirmed(url=url, fingerprint=found)
    return found


def _token(source: str | None) -> str:
    text = _token_text(source).strip()
    if not _TOKEN.fullmatch(text):
        raise click.UsageError("that is no token: `dmctl token create` makes one, a single word dmo_...")
    return text


def _token_text(source: str | None) -> str:
    if source is None:
        return str(click.prompt("Token", hide_input=True, err=True))
    if source == "-":
        return sys.stdin.read(MAX_TOKEN_BYTES)
    with Path(source).open(encoding="utf-8", errors="replace") as file:
        return file.read(MAX_TOKEN_BYTES)


@click.command()
@json_option
def logout(as_json: bool) -> None:
    """Forget the control plane and the token. The token stays good: `dmctl token revoke` ends it.

    \b
    Example:
      dmctl logout
    """
    if as_json:
        print_json({"forgotten": str(forget_profile())})
        return
    click.echo(f"Forgot {forget_profile()}.")
