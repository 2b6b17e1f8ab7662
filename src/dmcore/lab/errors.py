"""What can be wrong with a lab."""

from dataclasses import dataclass

from dmcore.errors import BusyError, ConfigurationError, ConnectionFailed, DmcoreError, ExitCode, IntegrityError


@dataclass(eq=False)
class LabExists(ConfigurationError):
    """A lab is made in an empty directory only."""

    code = "lab.exists"
    template = "{path}: is not empty; name a new directory"
    path: str


@dataclass(eq=False)
class LabMissing(ConfigurationError):
    """There is no lab in this directory."""

    code = "lab.missing"
    template = "{path}: no lab here; make one with `dmctl lab init {path}`"
    path: str


@dataclass(eq=False)
class LabNotStarted(ConfigurationError):
    """Its control plane is made at the first start, and the operator logged in."""

    code = "lab.not-started"
    template = "{path}: this lab was never up; run `dmctl lab up {path}` first"
    path: str


@dataclass(eq=False)
class LabRuns(BusyError):
    """Another process runs it."""

    code = "lab.runs"
    template = "{path}: the lab is up already; stop the other `dmctl lab up` first"
    path: str


@dataclass(eq=False)
class NoNamespace(ConfigurationError):
    """A sovereign lab needs a network of its own, and cannot have one here."""

    code = "lab.no-namespace"
    template = "no network namespace for a sovereign lab: {problem}; run it as root, or without --sovereign"
    problem: str


@dataclass(eq=False)
class LabDown(ConnectionFailed):
    """Nobody runs the lab's nodes, so nobody takes its jobs."""

    code = "lab.down"
    template = "{path}: the lab is not up; run `dmctl lab up {path}` in another terminal"
    path: str


@dataclass(eq=False)
class NodeFailed(DmcoreError):
    """A process of the lab ended or did not come up."""

    code = "lab.node-failed"
    template = "{name} failed: {problem}; its log is {log}"
    name: str
    problem: str
    log: str


@dataclass(eq=False)
class ToolMissing(ConfigurationError):
    """A program of the machine that the demo uses is not there."""

    code = "lab.tool-missing"
    template = "{tool} is not there; install it (Debian: apt install {package})"
    tool: str
    package: str


@dataclass(eq=False)
class ToolFailed(DmcoreError):
    """A program of the machine failed."""

    code = "lab.tool-failed"
    template = "{tool} exited with {status}: {output}"
    tool: str
    status: int
    output: str


@dataclass(eq=False)
class JobFailed(DmcoreError):
    """The appliance's process ended a job in an error. Its code and exit code stand in for this class's own."""

    code = "lab.job-failed"
    template = "{message}"
    message: str
    job_code: str
    job_exit_code: ExitCode

    def __post_init__(self) -> None:
        vars(self).update(code=self.job_code, exit_code=self.job_exit_code)


@dataclass(eq=False)
class DemoNeedsRoom(ConfigurationError):
    """The demo's directory has too little free space: better told before than in the middle."""

    code = "demo.room"
    template = "{path}: {free_mib} MiB are free and the demo needs about {needed_mib}; name another --workdir"
    path: str
    free_mib: int
    needed_mib: int


@dataclass(eq=False)
class DemoDiffers(IntegrityError):
    """A recovered disk is not what the source was. This must never happen: keep the directory and report it."""

    code = "demo.differs"
    template = "point {point}: the recovered disk {path} is not equal to the source; everything is kept in {workdir}"
    point: str
    path: str
    workdir: str
