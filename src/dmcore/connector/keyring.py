"""The plans' keys at their connector: minted here, persisted wrapped before anybody is given them."""

import threading
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from dmcore.host.errors import FileBroken
from dmcore.host.files import create_file, make_dir, read_state
from dmcore.keys.provider import KeyProvider, WrappedKeys, mint, unwrap_all
from dmcore.model.ids import PlanId
from dmcore.shadow.receiver import UnsealKeys

FIRST_VERSION = 1


class PlanKeyring:
    """One file a version: `<folder>/<plan>/<version>.json`. Thread-safe."""

    def __init__(self, folder: Path, provider: KeyProvider) -> None:
        self._folder, self._provider = folder, provider
        self._lock = threading.Lock()
        self._open: dict[tuple[PlanId, int], UnsealKeys] = {}

    def current(self, plan: PlanId) -> WrappedKeys:
        """The version that new cycles are sealed under; the first is minted when it is first asked for.

        Raises:
            FileBroken: a key file cannot be read.
        """
        with self._lock:
            versions = self._versions(plan)
            if not versions:
                minted = mint(self._provider, plan, FIRST_VERSION)
                create_file(make_dir(self._folder / str(plan)) / f"{FIRST_VERSION}.json", _packed(minted))
                versions = [FIRST_VERSION]
            return self._load(plan, versions[-1])

    def wrapped(self, plan: PlanId, version: int) -> WrappedKeys:
        """One version. Raises FileBroken."""
        with self._lock:
            return self._load(plan, version)

    def lookup(self, plan: PlanId) -> Callable[[int], UnsealKeys]:
        """How a plan's shadows get at its keys. The lookup raises WrongKek, UnwrapFailed, FileBroken."""

        def keys(version: int) -> UnsealKeys:
            with self._lock:
                if (plan, version) not in self._open:
                    clear = unwrap_all(self._provider, self._load(plan, version))
                    self._open[plan, version] = UnsealKeys(clear.dek, clear.digest_root)
                return self._open[plan, version]

        return keys

    def _versions(self, plan: PlanId) -> list[int]:
        names = (path.stem for path in (self._folder / str(plan)).glob("*.json"))
        return sorted(int(name) for name in names if name.isdecimal())

    def _load(self, plan: PlanId, version: int) -> WrappedKeys:
        path = self._folder / str(plan) / f"{version}.json"
        try:
            return WrappedKeys.model_validate_json(read_state(path))
        except (FileNotFoundError, ValidationError) as error:
            raise FileBroken(path=str(path), problem=f"no keys of version {version}: {type(error).__name__}") from error


def _packed(keys: WrappedKeys) -> bytes:
    return keys.model_dump_json(indent=1).encode()
