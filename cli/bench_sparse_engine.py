"""``opennpe bench --sparse-engine``: sparse execs against the array's own dense mapping, in cycles.

A product of ``outputs`` x ``inputs`` weights and ``pixels`` pixels, as one dense exec and as one
sparse exec, both by the cycle model that is equal to the gates. Operands are in place: fills,
loads and transpositions are the same or hide behind execs, and are counted for whole networks
elsewhere (``opennpe run``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.cli.bench import Claim, Report
from opennpe.cli.progress import Progress, Silent
from opennpe.golden import catalog, formats, microops
from opennpe.golden.commands import FIELDS, KINDS, Command
from opennpe.golden.errors import DataError, ProgramError
from opennpe.golden.spec import CoprocessorSpec
from opennpe.sim import exec_cycles

__all__ = ["PATTERNS", "SpeedUp", "bench_sparse_engine", "figures", "pruned", "table"]

SPEC, FORMAT = "EDGE_8X8", "posit8"
OUTPUTS, PIXELS = 256, 512
INPUTS = (32, 64, 128, 256, 512)
DENSITIES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
PATTERNS = ("unstructured", "4x1", "2:4")
"""Random zeros; blocks of four output channels; two of every four inputs, whatever the density."""
TARGETS = {("unstructured", 128): 7.0, ("unstructured", 512): 9.0, ("4x1", 256): 8.0,
           ("4x1", 512): 8.0}  # fmt: skip
"""Least speed-up at a density of 10 %, by pattern and input channels."""
TARGET_DENSITY = 0.1
HALF = 1.9
"""Least speed-up of 2:4: two less what a record's waits cost."""


@dataclass(frozen=True)
class SpeedUp:
    """One layer.

    Attributes:
        pattern: one of ``PATTERNS``.
        inputs: input channels.
        density: share of weights that are not zero, as asked for.
        dense_cycles, sparse_cycles: of the execs, set-up and last results included.
        records: of the stream, fillers included.
        block_rows: output channels of a record.
        stream_bits: bits of the stream a dense weight, whole lines.
        ratio: dense over sparse cycles.
    """

    pattern: str
    inputs: int
    density: float
    dense_cycles: int
    sparse_cycles: int
    records: int
    block_rows: int
    stream_bits: float
    ratio: float

    def summary(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def pruned(rng: np.random.Generator, pattern: str, shape: tuple[int, int], density: float) -> Any:
    """Booleans of a shape: which weights are not zero."""
    outputs, inputs = shape
    if pattern == "4x1":
        blocks = _exactly(rng, (outputs // 4, inputs), density)
        return np.repeat(blocks, 4, axis=0)
    if pattern == "2:4":
        order = rng.random((outputs, inputs // 4, 4)).argsort(axis=-1)
        return (order < 2).reshape(shape)
    return _exactly(rng, shape, density)


def _exactly(rng: np.random.Generator, shape: tuple[int, int], density: float) -> NDArray[np.bool_]:
    """As many random places as the density says."""
    flat = np.zeros(int(np.prod(shape)), dtype=bool)
    flat[: round(density * flat.size)] = True
    return np.asarray(rng.permutation(flat).reshape(shape))


def _stream(spec: CoprocessorSpec, name: str, weights: NDArray[Any], rows: int) -> microops.Stream:
    """The stream of fewest records, then of fewest lines; of fewer rows a record if none fits."""
    found = []
    for delta in microops.DELTAS:
        try:
            shape = microops.Shape(name, rows, delta, spec.line_words)
        except ProgramError:
            continue
        found.append(microops.pack(shape, weights))
    if not found:
        return _stream(spec, name, weights, rows // 2)
    return min(found, key=lambda s: (int(s.counts.sum()), len(s.lines)))


def _cycles(spec: CoprocessorSpec, command: Command, counts: NDArray[np.int64]) -> int:
    """Cycles of one exec alone, from its command taken to its last line written."""
    found = {name: np.array([command[name]]) for name, _ in FIELDS["exec"] if name != "op"}
    described = exec_cycles.describe(spec, found)
    profile = exec_cycles.Profile(*exec_cycles.profiles_of(described, {0: counts}).found[0])
    return int(spec.array.rows + 2 + profile.written)


def _measured(
    spec: CoprocessorSpec, name: str, pattern: str, inputs: int, density: float
) -> SpeedUp:
    rng = np.random.default_rng(inputs)
    fmt = formats.get(name)
    lanes = spec.engine.lanes(name)
    there = pruned(rng, pattern, (OUTPUTS, inputs), density)
    weights = np.where(there, fmt.encode(1.0, "zero"), 0).astype(fmt.dtype)
    rows = 4 if pattern == "4x1" else 1
    stream = _stream(spec, name, weights, rows)
    rows = stream.shape.rows
    line_codes = spec.line_words * lanes
    mode = formats.ENGINE_FORMATS.index(name)
    common = {"mode_a": mode, "mode_b": mode, "out": mode, "begin": 1, "finish": 1, "kernel_y": 1,
              "kernel_x": 1}  # fmt: skip
    blocks = -(-inputs // line_codes)
    last = inputs - (blocks - 1) * line_codes
    dense = Command("exec", {
        **common, "kind": KINDS.index("dense"), "blocks": blocks, "words": spec.line_words,
        "last_words": -(-last // lanes), "last_elements": (last - 1) % lanes + 1,
        "tiles": -(-OUTPUTS // line_codes), "lines": PIXELS,
    })  # fmt: skip
    sparse = Command("exec", {
        **common, "kind": KINDS.index("sparse"), "blocks": 1, "words": 1, "last_words": 1,
        "last_elements": 1, "tiles": len(stream.counts),
        "lines": -(-PIXELS // line_codes) * rows, "block_rows": microops.BLOCK_ROWS.index(rows),
    })  # fmt: skip
    none = np.zeros(0, dtype=np.int64)
    taken = _cycles(spec, dense, none), _cycles(spec, sparse, stream.counts)
    bits = stream.lines.size * 16 / weights.size
    return SpeedUp(
        pattern, inputs, density, *taken, int(stream.counts.sum()), rows, bits,
        taken[0] / taken[1],
    )  # fmt: skip


def _claims(rows: Sequence[SpeedUp]) -> tuple[Claim, ...]:
    found = []
    for row in rows:
        target = TARGETS.get((row.pattern, row.inputs)) if row.density == TARGET_DENSITY else None
        if row.pattern == "2:4" and row.inputs >= 128:
            target = HALF
        if target is not None:
            what = f"{row.pattern}, {row.inputs} inputs, density {row.density:.0%}"
            found.append(Claim(f"{what}: speed-up over dense", row.ratio, target))
    return tuple(found)


def bench_sparse_engine(
    spec_name: str = SPEC, name: str = FORMAT, progress: Progress | Silent | None = None
) -> Report:
    """Cycles of sparse execs against dense ones, over patterns, depths and densities.

    Raises:
        DataError: no such format.
    """
    if name not in formats.ENGINE_FORMATS:
        raise DataError(f"'{name}' is no engine format: {', '.join(formats.ENGINE_FORMATS)}")
    spec = catalog.get(spec_name)
    spec.check_coprocessor()
    cases = [
        (pattern, inputs, density)
        for pattern in PATTERNS
        for inputs in INPUTS
        for density in (DENSITIES if pattern != "2:4" else (0.5,))
    ]
    shown = progress or Silent()
    shown.stage(f"cycles of {name} on {spec_name}", len(cases))
    rows = []
    for case in cases:
        rows.append(_measured(spec, name, *case))
        shown.advance()
    notes = (
        f"{OUTPUTS} output channels, {PIXELS} pixels, {name} on {spec_name}; execs alone, both "
        "mappings, set-up and last results included",
    )
    return Report(tuple(rows), _claims(rows), notes)


# -- faces ----------------------------------------------------------------------------------------
def table(report: Report) -> Any:
    """Speed-ups by pattern, depth and density, as a table of rich."""
    from rich.table import Table

    made = Table(title="sparse execs against the array's dense mapping")
    for head in ("pattern", "inputs", "density", "dense cycles", "sparse cycles", "records",
                 "bits a weight", "speed-up"):  # fmt: skip
        made.add_column(head, justify="left" if head == "pattern" else "right")
    for r in report.rows:
        made.add_row(
            r.pattern, str(r.inputs), f"{r.density:.0%}", str(r.dense_cycles),
            str(r.sparse_cycles), str(r.records), f"{r.stream_bits:.2f}", f"{r.ratio:.2f}",
        )  # fmt: skip
    return made


def figures(report: Report) -> dict[str, Any]:
    """The picture by file name (a matplotlib figure)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title("Cycles of the array: dense over sparse exec", loc="left", fontsize=10)
    for pattern, line in (("unstructured", "-"), ("4x1", "--")):
        for index, inputs in enumerate(INPUTS):
            own = [r for r in report.rows if (r.pattern, r.inputs) == (pattern, inputs)]
            axis.plot([100 * (1 - r.density) for r in own], [r.ratio for r in own], line,
                      color=f"C{index}", marker="o", markersize=3,
                      label=f"{pattern}, {inputs} inputs")  # fmt: skip
    axis.set_yscale("log", base=2)
    axis.set_xlabel("zeros, %")
    axis.set_ylabel("speed-up")
    axis.grid(alpha=0.25)
    axis.legend(fontsize=7, ncols=2)
    return {"sparse_engine.png": figure}
