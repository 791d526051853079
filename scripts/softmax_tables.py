"""The tables of docs/softmax.md, printed: what each way to store probabilities does to attention.

python scripts/softmax_tables.py          # exponentials, cycles, attention, constant rows
python scripts/softmax_tables.py --area   # cells of the unit on an ECP5, by Yosys
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import formats, softmax
from opennpe.golden.softmax import SoftmaxSpec

SPEC = SoftmaxSpec()
SEED = 197
ROWS, WIDTH = 64, 64
SPREADS = (1.0, 2.5)
"""Standard deviations of the logits: flat and sharp rows."""
WAYS: tuple[tuple[str, str, int, formats.Underflow, bool], ...] = (
    ("posit8, never zero", "posit8", 0, "minpos", False),
    ("posit8, zero below minpos/2", "posit8", 0, "zero", False),
    ("posit8 x 2^-3, never zero", "posit8", 3, "minpos", False),
    ("posit8 x 2^-3, zero below minpos/2", "posit8", 3, "zero", False),
    ("posit8 x 2^-6, zero below minpos/2", "posit8", 6, "zero", False),
    ("posit8 deferred, never zero", "posit8", 0, "minpos", True),
    ("posit8 deferred, zero below minpos/2", "posit8", 0, "zero", True),
    ("posit4 x 2^-3, zero below minpos/2", "posit4", 3, "zero", False),
    ("posit4 deferred, zero below minpos/2", "posit4", 0, "zero", True),
    ("fp4 x 2^-5", "fp4", 5, "zero", False),
    ("fp4 x 2^-2, deferred", "fp4", 2, "zero", True),
    ("posit16, zero below minpos/2", "posit16", 0, "zero", False),
    ("posit16 deferred, zero below minpos/2", "posit16", 0, "zero", True),
    ("U0.8", "u0.8", 0, "zero", False),
    ("U0.16", "u0.16", 0, "zero", False),
)
"""Name, result format, out_shift, underflow rule, whether the division is deferred."""


def logits(length: int, spread: float) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """posit16 codes (ROWS, length) of normal logits, and their softmax in float64."""
    f = formats.get("posit16")
    codes = f.encode(np.random.default_rng(SEED).normal(0, spread, (ROWS, length)))
    return codes, softmax.two_pass(f.decode(codes))


def probabilities(
    codes: NDArray[Any], out: str, shift: int, underflow: formats.Underflow, deferred: bool
) -> NDArray[np.float64]:
    """What the product with the values sees, with whatever is divided or scaled afterwards."""
    given = SPEC, codes, "posit16", softmax.multiplier(1.0), None, out, shift, underflow
    if deferred:
        found = softmax.deferred(*given)
        total = np.ldexp(found.mantissa.astype(float), found.exponent)[:, None]
        return np.asarray(np.ldexp(formats.get(out).decode(found.codes), -shift) / total)
    result = softmax.softmax(*given)
    if out in softmax.FIXED:
        return result / float(1 << softmax.FIXED[out])
    return np.asarray(np.ldexp(formats.get(out).decode(result), -shift))


def attention(length: int) -> Iterator[str]:
    """Lines of the table of one row length."""
    values = np.random.default_rng(SEED + 1).normal(0, 1, (length, WIDTH))
    head = "".join(f" sum, s = {s:g} | L1 | output |" for s in SPREADS)
    yield f"| {length} elements |{head}"
    yield "|---|" + "---|" * 3 * len(SPREADS)
    for name, *way in WAYS:
        cells = []
        for spread in SPREADS:
            codes, exact = logits(length, spread)
            got = probabilities(codes, *way)
            right = exact @ values
            wrong = np.linalg.norm(got @ values - right) / np.linalg.norm(right)
            l1 = np.abs(got - exact).sum(axis=1).mean()
            cells += [f"{got.sum(axis=1).mean():.3f}", f"{l1:.4f}", f"{wrong:.4f}"]
        yield f"| {name} | " + " | ".join(cells) + " |"


def uniform() -> Iterator[str]:
    """Lines of the table of constant rows: what is left of their sum."""
    ways = [w for w in WAYS if w[0] in ("U0.8", "U0.16") or w[1] == "posit8"]
    lengths = (64, 197, 511, 512, 1024, 4096)
    yield "| constant row of | " + " | ".join(map(str, lengths)) + " |"
    yield "|---|" + "---|" * len(lengths)
    for name, *way in ways:
        sums = []
        for length in lengths:
            codes = np.zeros((1, length), dtype=np.uint16)
            sums.append(f"{probabilities(codes, *way).sum():.3f}")
        yield f"| {name} | " + " | ".join(sums) + " |"


def exponentials() -> Iterator[str]:
    """Lines of the table of tables: error and size for a few choices."""
    yield "| T | P | F | relative error | ROM bits |"
    yield "|---|---|---|---|---|"
    for t, p, f in ((3, 10, 8), (4, 12, 8), (5, 16, 12), (6, 16, 12), (6, 18, 16)):
        spec = SoftmaxSpec(table_bits=t, mantissa_bits=p, fraction_bits=f)
        yield f"| {t} | {p} | {f} | 2^{math.log2(spec.exp2_error):.2f} | {spec.rom_bits} |"


def cycles() -> Iterator[str]:
    """Lines of the table of cycles from one row to the next."""
    lengths, modes = (16, 64, 197, 1024), ("exact", "truncating")
    yield "| lanes | mode | turnaround | latency | " + " | ".join(map(str, lengths)) + " |"
    yield "|---|---|---|---|" + "---|" * len(lengths)
    for lanes in (4, 8, 16):
        for mode in modes:
            spec = SoftmaxSpec(lanes=lanes, mode=mode)  # type: ignore[arg-type]
            rows = " | ".join(str(spec.row_cycles(n)) for n in lengths)
            yield f"| {lanes} | {mode} | {spec.turnaround} | {spec.latency} | {rows} |"


def area() -> Iterator[str]:
    """Lines of the table of cells, by ``synth_ecp5``."""
    from opennpe.fpga import families, utilisation
    from opennpe.rtl.softmax import Softmax

    yield "| lanes | mode | LUT4 | carry (CCU2C) | flip-flops | 18x18 multipliers |"
    yield "|---|---|---|---|---|---|"
    for lanes in (2, 4):
        for mode in ("exact", "truncating"):
            spec = SoftmaxSpec(lanes=lanes, mode=mode)  # type: ignore[arg-type]
            cells = utilisation.count(families.get("ecp5"), Softmax(spec)).cells
            kinds = ("LUT4", "CCU2C", "TRELLIS_FF", "MULT18X18D")
            yield f"| {lanes} | {mode} | " + " | ".join(str(cells.get(k, 0)) for k in kinds) + " |"


def tables() -> list[str]:
    """All lines but those of :func:`area`, a blank one between tables."""
    lines: list[str] = []
    for part in (exponentials(), cycles(), attention(197), attention(1024), uniform()):
        lines += [*part, ""]
    return lines[:-1]


if __name__ == "__main__":
    print("\n".join(area() if "--area" in sys.argv[1:] else tables()))
