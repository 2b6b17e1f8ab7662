"""Options, content and the closing table of the benchmarks: `make bench`, on a machine that rests."""

from typing import cast

import lz4
import pytest
import zstandard
from cryptography.hazmat.backends.openssl.backend import backend
from rich.console import Console
from rich.table import Table

from dmcore.bench import content as bench_content
from dmcore.bench import libraries
from dmcore.bench.compare import Comparison
from dmcore.bench.libraries import Bytes
from dmcore.blocks.constants import DEFAULT_BLOCK_BYTES
from dmcore.native.libraries import versions
from dmcore.seal.constants import MAX_BATCH_DATA_BYTES

COMPARISONS = pytest.StashKey[list[Comparison]]()
TABLES = pytest.StashKey[list[Table]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("dmcore")
    group.addoption("--content-mib", type=int, default=128, help="how much content one pass works on (a multiple of 8)")
    group.addoption("--cycle-mib", type=int, default=2048, help="how much content a whole cycle carries")
    group.addoption("--control-agents", type=int, default=1000, help="simulated agents of a control plane")
    group.addoption("--control-plans", type=int, default=10_000, help="its plans; measured too with a tenth of both")
    group.addoption("--control-s", type=float, default=20, help="how long each load on it lasts")
    group.addoption("--control-replicas", type=int, default=2, help="processes that serve it over HTTPS")
    group.addoption("--rounds", type=int, default=7, help="how often each contestant takes its turn")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[COMPARISONS] = []
    config.stash[TABLES] = []


def pytest_report_header() -> list[str]:
    ours = "libraries: " + ", ".join(f"{name} {version}" for name, version in versions().items())
    return [ours, f"pure Python brings its own: {own_libraries()}"]


def own_libraries() -> str:
    """What the wheels of the reference bundle: often newer than the distribution's, so it can win a stage."""
    zstd = ".".join(map(str, zstandard.ZSTD_VERSION))
    return f"liblz4 {lz4.library_version_string()}, libzstd {zstd}, {backend.openssl_version_text()}"


@pytest.fixture(scope="session")
def rounds(pytestconfig: pytest.Config) -> int:
    return cast("int", pytestconfig.getoption("--rounds"))


@pytest.fixture(scope="session")
def recipe(pytestconfig: pytest.Config) -> bench_content.Recipe:
    wanted = cast("int", pytestconfig.getoption("--content-mib")) << 20
    return bench_content.Recipe(max(wanted, MAX_BATCH_DATA_BYTES), DEFAULT_BLOCK_BYTES)


@pytest.fixture(scope="session")
def content(recipe: bench_content.Recipe) -> Bytes:
    libraries.check_versions()
    return bench_content.load(recipe)


@pytest.fixture
def comparisons(pytestconfig: pytest.Config) -> list[Comparison]:
    """Where a benchmark puts what it found, for the closing table."""
    return pytestconfig.stash[COMPARISONS]


@pytest.fixture
def tables(pytestconfig: pytest.Config) -> list[Table]:
    """Tables to print at the end."""
    return pytestconfig.stash[TABLES]


def pytest_terminal_summary(config: pytest.Config) -> None:
    console = Console(width=130)
    if found := config.stash[COMPARISONS]:
        console.print(table_of(found))
    console.print(*config.stash[TABLES])


def table_of(found: list[Comparison]) -> Table:
    table = Table(title="Stages, one thread, medians; ratios paired by round within this run")
    for name in ("stage", "unit", "ours /s", "libraries alone /s", "pure Python /s", "of libraries", "x Python"):
        table.add_column(name, justify="left" if name in {"stage", "unit"} else "right")
    for row in found:
        rates = [row.rate(row.ours_s), row.rate(row.libraries_s), row.rate(row.reference_s)]
        table.add_row(row.stage, row.unit, *map(number, rates), number(row.of_bound), number(row.times_reference))
    return table


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
