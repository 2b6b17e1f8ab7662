"""Rules about the product's source that no linter knows."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.source_tree import ROOT, calls, imports_of, module_name, parsed, product_files

UNSAFE_READERS = {"dill", "marshal", "pickle", "shelve", "yaml"}
"""What reads bytes by running them, or invites to."""

WORDS_BEFORE_SLEEP = "# sleeps:"
"""A `time.sleep` needs this comment on its line, with the reason that no condition can be waited for."""


def places(nodes: Iterator[tuple[Path, ast.AST]]) -> list[str]:
    return [f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}" for path, node in nodes]


def every_call() -> Iterator[tuple[Path, str, ast.Call]]:
    for path in product_files():
        for name, call in calls(parsed(path)):
            yield path, name, call


def test_no_assert_guards_input() -> None:
    """It vanishes under `python -O`; product code raises."""
    found = ((p, node) for p in product_files() for node in ast.walk(parsed(p)) if isinstance(node, ast.Assert))
    assert places(found) == []


def test_certificates_are_always_verified() -> None:
    def lax(call: ast.Call) -> bool:
        off = {"verify", "verify_ssl", "check_hostname", "verify_signature"}
        return any(k.arg in off and isinstance(k.value, ast.Constant) and k.value.value is False for k in call.keywords)

    assert places((p, call) for p, name, call in every_call() if lax(call) or "_create_unverified" in name) == []


def test_nobody_goes_unverified_but_in_the_first_step_of_pairing() -> None:
    """The fetched authority is judged by the token's fingerprint; nothing else may cross that connection."""
    users = {
        f"{module_name(p)}.{function.name}"
        for p in product_files()
        for function in ast.walk(parsed(p))
        if isinstance(function, ast.FunctionDef) and "CERT_NONE" in ast.unparse(function)
    }
    assert users <= {"dmcore.wire.tls.pairing_client_context"}
    assert [str(p) for p in product_files() if p.name != "tls.py" and "CERT_NONE" in p.read_text()] == []


def test_nothing_reads_bytes_by_running_them() -> None:
    used = {(module_name(p), module) for p in product_files() for module in imports_of(p)}
    assert {pair for pair in used if pair[1].split(".")[0] in UNSAFE_READERS} == set()
    assert places((p, call) for p, name, call in every_call() if name in {"eval", "exec", "os.system"}) == []


def test_nothing_is_run_through_a_shell() -> None:
    def shell(call: ast.Call) -> bool:
        return any(
            k.arg == "shell" and not (isinstance(k.value, ast.Constant) and not k.value.value) for k in call.keywords
        )

    assert places((p, call) for p, _name, call in every_call() if shell(call)) == []


def test_a_sleep_says_why() -> None:
    def unexplained(path: Path, call: ast.Call) -> bool:
        return WORDS_BEFORE_SLEEP not in path.read_text().splitlines()[call.lineno - 1]

    sleeps = [(p, call) for p, name, call in every_call() if name in {"time.sleep", "sleep"} and unexplained(p, call)]
    assert places(iter(sleeps)) == []


CLOCKS_AND_FILES = {
    "time.time", "time.monotonic", "time.sleep", "datetime.now", "datetime.utcnow", "socket.create_connection",
    "os.open", "os.write", "os.pwrite", "os.pwritev", "os.fsync", "os.fdatasync", "os.rename", "os.replace", "os.link",
    "os.unlink", "os.remove", "os.truncate", "os.ftruncate", "os.posix_fallocate",
}  # fmt: skip
"""What appliance and connector get handed in (a clock, a way to dial) or do through host.files and shadow.storage."""


def test_nodes_reach_clocks_network_and_files_through_seams() -> None:
    """So that a test can record, fail, delay and cut every one of them."""
    rooms = ("dmcore.appliance", "dmcore.connector", "dmcore.shadow")
    seam = "dmcore.shadow.storage"
    found = (
        (p, call) for p, name, call in every_call()
        if name in CLOCKS_AND_FILES and module_name(p).startswith(rooms) and module_name(p) != seam
    )  # fmt: skip
    assert places(found) == []


def test_only_the_edge_reads_the_environment() -> None:
    """Settings come from one file and are passed down; what is read deep inside cannot be found or tested."""
    edge = {"dmctl", "dmcore.node", "dmcore.lab", "dmcore.bench"}
    readers = {
        module_name(p)
        for p in product_files()
        for node in ast.walk(parsed(p))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {"os.environ", "os.getenv"}
    }
    assert {module for module in readers if not any(module.startswith(name) for name in edge)} == set()


def test_the_commands_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    readme = (ROOT / "README.md").read_text()
    for target in ("build", "test", "lint", "bench", "torture", "coverage", "demo", "clean"):
        assert f"make {target}" in readme
        assert f"\n{target}:" in makefile
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("make test")
