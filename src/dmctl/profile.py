"""The profile that `dmctl login` leaves: which control plane, how it is known, and the token. For its owner only."""

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dmcore.host.errors import FileBroken
from dmcore.host.files import read_private, replace_file
from dmctl.errors import NotLoggedIn

VARIABLE = "DMCTL_PROFILE"


class Profile(BaseModel):
    """What is kept between commands. One of `fingerprint` and `ca_file` says how the control plane is known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    token: str = Field(repr=False)
    fingerprint: str | None = None
    """SHA-256 of its certificate."""
    ca_file: Path | None = None


def profile_path() -> Path:
    """$DMCTL_PROFILE, or `dmcore/login.json` where configuration is kept."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    folder = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(folder) if Path(folder).is_absolute() else Path.home() / ".config") / "dmcore" / "login.json"


def load_profile() -> Profile:
    """The one that a login left.

    Raises:
        NotLoggedIn: there is none.
        FileExposed: others may have read the token.
        FileBroken: it is not what a login writes.
    """
    path = profile_path()
    try:
        data = read_private(path)
    except FileNotFoundError:
        raise NotLoggedIn(path=str(path)) from None
    try:
        return Profile.model_validate_json(data)
    except ValidationError:  # its text may have the token in it
        raise FileBroken(path=str(path), problem="not a profile of dmctl; run `dmctl login` again") from None


def save_profile(profile: Profile) -> Path:
    """Keep it, in the place of an older one. Returns where it is."""
    path = profile_path()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_file(path, profile.model_dump_json(indent=1).encode())
    return path


def forget_profile() -> Path:
    """Take it away. Raises NotLoggedIn."""
    path = profile_path()
    try:
        path.unlink()
    except FileNotFoundError:
        raise NotLoggedIn(path=str(path)) from None
    return path
