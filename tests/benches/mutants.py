"""Plants bugs in the engine, one at a time, and shows that the campaign catches each.

    python tests/benches/mutants.py                 # all of them, as a table
    python tests/benches/mutants.py tie carry       # some of them

A bug is a change to one line of the engine's source: the text is exchanged while the module is
imported, the Verilog is emitted, built and replayed. A text that is no longer in the source, a
change that leaves the Verilog as it was, and a bug that no batch notices are failures.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from typing import Any

import bench_campaign as campaign
import numpy as np
from bench_batch import Batch
from bench_expected import Expected, expect
from mutant_list import CONTROL, MUTANTS, Mutant
from opennpe.golden.errors import ToolError
from opennpe.golden.spec import EngineSpec

SEED = 11


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant.

    Attributes:
        mutant: the planted bug.
        batch: the batch that noticed it; None: no batch did.
        sums: sums replayed up to and with the one that noticed; None under cocotb.
        how: what was noticed.
        seconds: emission, build and replay.
    """

    mutant: Mutant
    batch: str | None
    sums: int | None
    how: str
    seconds: float


@dataclass(frozen=True, eq=False)
class Trial:
    """A batch, a rule, pauses or none, and what golden expects."""

    name: str
    batch: Batch
    underflow: Any
    idle_seed: int | None
    expected: Expected


def trials(seed: int = SEED) -> Iterator[Trial]:
    """The quick campaign under both rules: without pauses, then with them."""
    for idle_seed in (None, seed):
        for underflow in ("minpos", "zero"):
            for name, batch in campaign.quick(np.random.default_rng(seed)):
                yield Trial(name, batch, underflow, idle_seed, expect(batch, underflow))


class _Planter(SourceFileLoader):
    """Loads a module with the mutant's text in it."""

    def __init__(self, fullname: str, path: str, mutant: Mutant) -> None:
        super().__init__(fullname, path)
        self.mutant = mutant

    def get_code(self, fullname: str) -> Any:
        text = self.mutant.plant(Path(self.path).read_text())
        return compile(text, self.path, "exec", dont_inherit=True)


class _Finder:
    """Finds the one module that a mutant changes."""

    def __init__(self, mutant: Mutant, folder: Path) -> None:
        self.mutant, self.folder = mutant, folder

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != f"opennpe.rtl.{self.mutant.module}":
            return None
        file = str(self.folder / f"{self.mutant.module}.py")
        loader = _Planter(name, file, self.mutant)
        return importlib.util.spec_from_file_location(name, file, loader=loader)


def emit_here(mutant: Mutant | None, folder: Path) -> None:
    """Emit the mutant's Verilog (None: the engine as it is); for a process of its own."""
    if mutant is not None:
        import opennpe.rtl

        sys.meta_path.insert(0, _Finder(mutant, Path(opennpe.rtl.__path__[0])))  # type: ignore[arg-type]
    from opennpe.rtl import verilog

    verilog.emit(EngineSpec(), folder)


def emit(mutant: Mutant | None, folder: Path) -> Path:
    """The Verilog of a mutant, by a fresh interpreter."""
    name = [] if mutant is None else [mutant.name]
    command = [sys.executable, __file__, "--emit", str(folder), *name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:]
        raise ToolError(f"mutant {'-' if mutant is None else mutant.name}: {' '.join(said)}")
    return next(iter(folder.glob("*.v")))


def replay(verilog: Path, cases: Sequence[Trial]) -> tuple[str | None, int, str]:
    """Run the trials until one notices: its name, sums so far, and what it noticed."""
    from opennpe.rtl.replay import Replayer

    replayer = Replayer(EngineSpec(), verilog=verilog)
    done = 0
    for case in cases:
        b = case.batch
        name = f"{case.name}, {case.underflow}" + (", pauses" if case.idle_seed else "")
        arrays = (b.mode_a, b.mode_b, b.out, b.start, b.words_a, b.words_b, b.bias, b.shift)
        try:
            codes, _ = replayer.run_arrays(*arrays, case.underflow, case.idle_seed)
        except ToolError as error:
            return name, done + len(b), str(error)
        wrong = case.expected.defined & (codes != case.expected.codes)
        if wrong.any():
            s, lane = (int(x) for x in np.argwhere(wrong)[0])
            bad = f"lane {lane}: {codes[s, lane]:#06x} for {case.expected.codes[s, lane]:#06x}"
            return name, done + s + 1, bad
        done += len(b)
    return None, done, "nothing"


def judge(mutant: Mutant, cases: Sequence[Trial], original: str, folder: Path) -> Verdict:
    """Emit, build and replay one mutant."""
    begin = time.monotonic()
    verilog = emit(mutant, folder / mutant.name.replace(" ", "-"))
    if verilog.read_text() == original:
        raise ToolError(f"mutant {mutant.name} left the Verilog as it was")
    if mutant.cocotb:
        batch, how = under_cocotb(verilog, mutant.cocotb)
        return Verdict(mutant, batch, None, how, time.monotonic() - begin)
    return Verdict(mutant, *replay(verilog, cases), time.monotonic() - begin)


def under_cocotb(verilog: Path, test: str) -> tuple[str | None, str]:
    """Run one test of the cocotb bench: its name if it noticed, and what it said."""
    from bench_runner import BenchFailure, EngineBench

    bench = EngineBench.build(verilog, verilog.with_name("manifest.json"), verilog.parent / "sim")
    sizes = {"campaign": "quick", "mixture": 300, "posit16_pairs": 0, "seed": SEED}
    try:
        bench.run(sizes, test)
    except BenchFailure as failure:
        return f"cocotb: {test}", str(failure).splitlines()[0]
    return None, "nothing"


def run(mutants: Sequence[Mutant], folder: Path) -> Iterator[Verdict]:
    """The unchanged engine first, which must pass all; then every mutant."""
    # Mutants are built once and never again: they stay out of the user's cache. ccache is told
    # to see through the folder's name, so that the same Verilog hits it in the next run.
    own = {
        "OPENNPE_CACHE": str(folder / "cache"),
        "CCACHE_BASEDIR": str(folder),
        "CCACHE_NOHASHDIR": "1",
    }
    with _environment(own):
        cases = list(trials())
        verilog = emit(None, folder / "unchanged")
        batch, _, how = replay(verilog, cases)
        if batch is not None:
            raise ToolError(f"the engine without any planted bug fails {batch}: {how}")
        original = verilog.read_text()
        for mutant in mutants:
            yield judge(mutant, cases, original, folder)


@contextmanager
def _environment(own: dict[str, str]) -> Iterator[None]:
    """Environment variables for a while."""
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def row(verdict: Verdict) -> str:
    """A line of the table."""
    caught = verdict.batch or "NOT CAUGHT"
    sums = "" if verdict.sums is None else verdict.sums
    return (
        f"{verdict.mutant.name:18} {verdict.mutant.breaks:60} {caught:44} "
        f"{sums:>8} {verdict.seconds:5.0f}"
    )


HEADING = f"{'mutant':18} {'what it breaks':60} {'caught by':44} {'sums':>8} {'s':>5}"


def main() -> int:
    """Print the table; the exit status is the number of mutants that lived."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("names", nargs="*", help="mutants to try (default: all)")
    parser.add_argument("--emit", type=Path, help="only write the Verilog there")
    chosen = parser.parse_args()
    known = {mutant.name: mutant for mutant in (*MUTANTS, CONTROL)}
    unknown = [name for name in chosen.names if name not in known]
    if unknown:
        parser.error(f"unknown mutant {unknown[0]}: expected one of {', '.join(known)}")
    picked = [known[name] for name in chosen.names]
    if chosen.emit:
        emit_here(picked[0] if picked else None, chosen.emit)
        return 0
    lived = 0
    print(HEADING)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        for verdict in run(picked or MUTANTS, Path(folder)):
            print(row(verdict), flush=True)
            lived += verdict.batch is None and verdict.mutant is not CONTROL
    return lived


if __name__ == "__main__":
    sys.exit(main())
