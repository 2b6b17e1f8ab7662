"""One thread that looks whether something is due that nobody asks for."""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import structlog

LOOK_S = 1.0
SWEEP_S = 3600.0

log = structlog.get_logger()


class Standby:
    """Calls `look` every second, and `sweep` at once and then every hour."""

    def __init__(
        self,
        look: Callable[[], None],
        sweep: Callable[[], None],
        look_s: float = LOOK_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing runs yet."""
        self._look, self._sweep, self._look_s, self._monotonic = look, sweep, look_s, monotonic
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="standby")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Join the thread. Idempotent."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        sweep_at = self._monotonic()
        while not self._stopping.is_set():
            if self._monotonic() >= sweep_at:
                sweep_at = self._monotonic() + SWEEP_S
                self._guarded(self._sweep)
            self._guarded(self._look)
            self._stopping.wait(self._look_s)

    def _guarded(self, act: Callable[[], None]) -> None:
        """A fault in one look must not end the looking: a lost control plane would then stop replication."""
        try:
            act()
        except Exception:
            log.exception("a fault while this node looked for what is due")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
