"""Jobs from a directory: taken by name, put into done/ or failed/ beside what came of them."""

import json
from pathlib import Path
from typing import Any

from dmcore.appliance.agent import load_job
from dmcore.host.files import fsync_dir, make_dir, replace_file
from dmctl import failures
from dmctl.errors import Interrupted
from dmctl.running import Runner

POLL_S = 0.5
DONE, FAILED = "done", "failed"


def follow_folder(folder: Path, runner: Runner, *, as_json: bool) -> None:
    """Run the jobs that appear in a directory until somebody asks to stop. A job that fails does not end it.

    Raises:
        OSError: what came of a job cannot be written.
    """
    while not runner.stop.asked:
        path = next_job(folder)
        if path is None:
            runner.stop.wait(POLL_S)
        else:
            run_file(path, runner, as_json=as_json)


def next_job(folder: Path) -> Path | None:
    """The first waiting job file. Names with a dot are being written."""
    waiting = (path for path in folder.glob("*.json") if not path.name.startswith(".") and path.is_file())
    return min(waiting, default=None)


def run_file(path: Path, runner: Runner, *, as_json: bool) -> None:
    """Run one job file and put it where it belongs. It stays if the run was stopped."""
    try:
        report = runner.run(load_job(path))
    except Exception as error:  # noqa: BLE001 - whatever it is, the next job is another's
        runner.view.fail(error)
        failures.tell(error, as_json=as_json)
        if not isinstance(error, Interrupted):
            _put(path, FAILED, "error", failures.fields(error))
    else:
        _put(path, DONE, "report", report.as_dict())


def _put(path: Path, where: str, what: str, outcome: dict[str, Any]) -> None:
    """The outcome first: whoever sees it need not look for the job. After a crash in between the job runs again."""
    folder = make_dir(path.parent / where)
    replace_file(folder / f"{path.stem}.{what}.json", json.dumps(outcome, indent=1).encode())
    path.replace(folder / path.name)
    fsync_dir(path.parent)
    fsync_dir(folder)
