"""Which calls fail, how often: shared by the faulty source and the faulty target."""

from dataclasses import dataclass


@dataclass
class Fault:
    call: str
    error: Exception
    after: int
    times: int


class FaultPlan:
    """Calls fail as told; `verify_exercised` fails the test if one was never reached."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def fail(self, call: str, error: Exception, *, times: int = 1, after: int = 0) -> None:
        """Raise the error from the next `times` calls of this name, once `after` more have passed."""
        self._faults.append(Fault(call, error, after, times))

    def reach(self, call: str) -> None:
        """Called by a wrapper before it goes on to the real thing."""
        for fault in self._faults:
            if fault.call != call or not fault.times:
                continue
            if fault.after:
                fault.after -= 1
                continue
            fault.times -= 1
            raise fault.error

    def verify_exercised(self) -> None:
        left = [f"{fault.call}: {fault.times} more" for fault in self._faults if fault.times]
        assert not left, f"injected faults that were never reached: {', '.join(left)}"
