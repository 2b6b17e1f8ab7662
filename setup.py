"""The native extensions: one table. All static metadata is in pyproject.toml.

Environment: DM_COVERAGE=1 builds with line tracing for `make coverage` (slow: never benchmark that build).
"""

import os
import runpy
import subprocess
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

LZ4 = {"liblz4": "1.9.0"}
ZSTD = {"libzstd": "1.4.0"}
CRYPTO = {"libcrypto": "3.0"}

# module: (source, {pkg-config name: minimum version})
EXTENSIONS: dict[str, tuple[str, dict[str, str]]] = {
    "dmcore.native.aead": ("ext/aead.pyx", CRYPTO),
    "dmcore.native.digests": ("ext/digests.pyx", CRYPTO),
    "dmcore.native.extents": ("ext/extents.pyx", {}),
    "dmcore.native.libraries": ("ext/libraries.pyx", {**LZ4, **ZSTD, **CRYPTO}),
    "dmcore.native.opening": ("ext/opening.pyx", {**LZ4, **ZSTD, **CRYPTO}),
    "dmcore.native.patching": ("ext/patching.pyx", {}),
    "dmcore.native.sealing": ("ext/sealing.pyx", {**LZ4, **ZSTD, **CRYPTO}),
}
DEBIAN_PACKAGES = {"liblz4": "liblz4-dev", "libzstd": "libzstd-dev", "libcrypto": "libssl-dev"}
COVERAGE = os.environ.get("DM_COVERAGE") == "1"
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "embedsignature": False,
    "autotestdict": False,
    "linetrace": COVERAGE,
}


def require(module: str, library: str, minimum: str) -> None:
    """Stop with the missing package's name: a linker's message would not tell an operator what to install."""
    check = ["pkg-config", "--print-errors", f"--atleast-version={minimum}", library]
    try:
        found = subprocess.run(check, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise SystemExit(f"{module} needs pkg-config to find {library}: apt install pkg-config") from None
    if found.returncode:
        raise SystemExit(
            f"{module} needs {library} {minimum} or newer: apt install {DEBIAN_PACKAGES[library]}\n{found.stderr}"
        )


def pkg_config(flag: str, library: str) -> list[str]:
    return subprocess.run(["pkg-config", flag, library], check=True, capture_output=True, text=True).stdout.split()


def write_format_header() -> None:
    """ext/format.h: the constants of the grid and the sealed format exist once, in Python."""
    constants = {**runpy.run_path("src/dmcore/blocks/constants.py"), **runpy.run_path("src/dmcore/seal/constants.py")}
    numbers = {name: value for name, value in constants.items() if name.isupper()}
    lines = [f"#define DM_{name} {value}" + "LL" * (value >> 31 > 0) for name, value in numbers.items()]
    text = "/* Made by setup.py from blocks/constants.py and seal/constants.py. */\n" + "\n".join(lines) + "\n"
    header = Path("ext/format.h")
    if not header.exists() or header.read_text() != text:
        header.write_text(text)


def extension(module: str, source: str, libraries: dict[str, str]) -> Extension:
    cflags, ldflags = ["-O3", "-Wall", "-Wextra", "-Wno-unused-parameter"], []
    for library, minimum in libraries.items():
        require(module, library, minimum)
        cflags += pkg_config("--cflags", library)
        ldflags += pkg_config("--libs", library)
    macros = [("CYTHON_TRACE_NOGIL", "1"), ("CYTHON_USE_SYS_MONITORING", "0")] if COVERAGE else []
    return Extension(
        module,
        [source],
        include_dirs=["ext"],
        extra_compile_args=cflags,
        extra_link_args=ldflags,
        define_macros=macros,
        depends=["ext/format.h", *map(str, sorted(Path("ext").glob("*.pxd")))],
    )


if __name__ == "__main__":
    write_format_header()
    table = [extension(module, *row) for module, row in EXTENSIONS.items()]
    setup(ext_modules=cythonize(table, include_path=["ext"], compiler_directives=DIRECTIVES, force=COVERAGE))
