"""Verilated designs as shared libraries, built once and kept in the user's cache."""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from opennpe.golden import formats
from opennpe.golden.errors import ToolError
from opennpe.golden.whole import replacing
from opennpe.rtl import tools

__all__ = ["FLAGS", "JOBS", "cache_folder", "content", "library", "remembered"]

FLAGS = ("-O3", "--x-assign", "fast", "--x-initial", "fast", "-Wno-fatal", "-Wno-lint")
"""Verilator's options for speed; Amaranth's Verilog is full of what its lint complains of."""
JOBS = 2
"""Compilers at once: more would not fit the memory of small machines."""
COMPILER_FLAGS = "-fPIC -fvisibility=hidden"
OPTIMISE = "OPT_FAST=-O2 OPT_SLOW=-O0 OPT_GLOBAL=-O2"
"""What runs every cycle is worth the compiler's time; what runs once is half of the code."""


def cache_folder() -> Path:
    """Where libraries are kept: ``OPENNPE_CACHE``, else the user's cache folder."""
    chosen = os.environ.get("OPENNPE_CACHE")
    if chosen:
        return Path(chosen) / "rtl"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "opennpe" / "rtl"


def content(*parts: str | bytes) -> str:
    """A name for what goes into a step: a hash of all of it."""
    key = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        key.update(hashlib.sha256(raw).digest())
    return key.hexdigest()[:32]


def remembered(make: Callable[[], str], *parts: str) -> str:
    """A generated text, made only if the cache does not have it.

    It is known by ``parts`` and by what makes it: the modules of golden and rtl, Amaranth, Yosys.

    Raises:
        ToolError: Amaranth or Yosys is missing.
    """
    folders = (Path(formats.__file__).parent, Path(__file__).parent)
    sources = [path.read_text() for folder in folders for path in sorted(folder.glob("*.py"))]
    try:
        makers = [f"{name} {metadata.version(name)}" for name in ("amaranth", "pyosys")]
    except metadata.PackageNotFoundError as error:
        raise ToolError(f"{error.name} is missing: pip install 'opennpe[rtl]'") from error
    target = _cache() / f"{content(*parts, *sources, *makers)}.txt"
    if target.is_file():
        return target.read_text()
    text = make()
    with replacing(target) as temporary:
        temporary.write_text(text)
    return text


def library(
    top: str, sources: Mapping[str, str], flags: Sequence[str] = (), link: Sequence[str] = ()
) -> Path:
    """The shared library of a Verilated module and a harness, from the cache if it is there.

    A library is known by a hash of all that goes into it, and appears whole or not at all.

    Args:
        top: the top module.
        sources: text by file name: Verilog (``.v``), C++ to compile (``.cpp``), headers (``.h``).
        flags: Verilator's, beside :data:`FLAGS`.
        link: the linker's.

    Raises:
        ToolError: Verilator or the compiler is missing, or the build failed.
    """
    options = [*FLAGS, *flags, "-CFLAGS", COMPILER_FLAGS, "-LDFLAGS", " ".join(["-shared", *link])]
    parts = [top, *(part for item in sorted(sources.items()) for part in item), *options, OPTIMISE]
    target = _cache() / f"{content(*parts, tools.versions())}.so"
    if target.is_file():
        return target
    with tempfile.TemporaryDirectory(prefix=".build-", dir=target.parent) as name:
        folder = Path(name)
        for file, text in sources.items():
            (folder / file).write_text(text)
        _verilate(folder, top, [name for name in sources if not name.endswith(".h")], options)
        os.replace(folder / "library.so", target)
    return target


def _cache() -> Path:
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    # A cache that cannot be written costs a build, not the run.
    temporary = tempfile.mkdtemp(prefix="opennpe-rtl-")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return Path(temporary)


def _verilate(folder: Path, top: str, files: Sequence[str], options: Sequence[str]) -> None:
    environment = tools.build_environment()
    environment["MAKEFLAGS"] += f" {OPTIMISE}"
    tools.run(
        [
            tools.verilator(),
            *("--cc", "--exe", "--build", "-j", str(JOBS), "--top-module", top),
            *options,
            *("--Mdir", str(folder / "obj"), "-o", str(folder / "library.so")),
            *("-CFLAGS", f"-I{folder}"),
            *(str(folder / file) for file in files),
        ],
        folder=folder,
        environment=environment,
    )
