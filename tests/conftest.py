"""What holds for every test: Hypothesis profiles, no thread left behind, a header naming what was tested."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from dmcore.native import libraries

JOIN_TIMEOUT_S = 5.0
"""How long a thread that was told to end may take; it is a failure's delay, never a passing test's."""

# No deadlines: a shared machine stalls. CI repeats the same examples, so that a red run is about the change.
settings.register_profile("dev", deadline=None, max_examples=50)
settings.register_profile(
    "ci",
    deadline=None,
    max_examples=50,
    derandomize=True,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("thorough", deadline=None, max_examples=2000)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

# A shell that starts the tests in the background has Ctrl-C ignored, and whoever they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# For the processes that tests start; pytest turns on its own.
os.environ.setdefault("PYTHONFAULTHANDLER", "1")


def pytest_report_header() -> str:
    return "libraries: " + ", ".join(f"{name} {version}" for name, version in libraries.versions().items())


@pytest.fixture(autouse=True)
def no_thread_left_behind() -> Iterator[None]:
    """Fail a test that leaves a thread running: whoever starts one joins it."""
    before = set(threading.enumerate())
    yield
    started = [thread for thread in threading.enumerate() if thread not in before and not thread.daemon]
    for thread in started:
        thread.join(JOIN_TIMEOUT_S)
    left = [thread.name for thread in started if thread.is_alive()]
    if left:
        pytest.fail(f"threads still running at the test's end: {', '.join(left)}")
