"""What keeps a benchmark from being run."""

from dataclasses import dataclass

from dmcore.errors import ConfigurationError


@dataclass(eq=False)
class ContentTooSmall(ConfigurationError):
    """The machine has too few files to measure on."""

    code = "bench.content"
    template = "files under {roots} make {found_bytes} bytes of {wanted_bytes}: name more roots, or measure on less"
    roots: str
    found_bytes: int
    wanted_bytes: int


@dataclass(eq=False)
class LibraryDiffers(ConfigurationError):
    """The library that would be measured is not the one that the extensions are linked with."""

    code = "bench.library"
    template = "{library} loads as version {loaded}, but the extensions are linked with {linked}: rebuild (make build)"
    library: str
    loaded: str
    linked: str


@dataclass(eq=False)
class LibraryCallFailed(ConfigurationError):
    """A library call over the benchmark's own blocks failed: its time would mean nothing."""

    code = "bench.call"
    template = "{function} failed on the benchmark's own blocks (returned {returned})"
    function: str
    returned: int


@dataclass(eq=False)
class CompilerFailed(ConfigurationError):
    """The loop that makes library calls could not be compiled."""

    code = "bench.compiler"
    template = "{compiler}: {problem}; benchmarks need a C compiler (apt install build-essential)"
    compiler: str
    problem: str
