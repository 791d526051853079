"""Rows for the normalisation unit, what golden says of them, and units with planted faults."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from opennpe.golden import formats
from opennpe.golden import layer_norm as ln
from opennpe.golden.layer_norm_spec import KINDS, NormSpec
from opennpe.rtl import layer_norm as unit
from opennpe.rtl import verilog
from opennpe.rtl.layer_norm_replay import TOP, Row, Run


@dataclass(frozen=True, eq=False)
class Case:
    """A row, and golden's sums and codes."""

    row: Row
    sums: ln.Sums
    codes: Any


def codes_of(name: str, length: int, rng: np.random.Generator) -> Any:
    """Codes of one of several characters: any, near zero, constant, few values, one hot."""
    fmt = formats.get(name)
    top = 1 << fmt.bits
    character = rng.integers(6)
    if character == 0:
        codes = rng.integers(0, top, length)
    elif character == 1:
        codes = fmt.encode(rng.normal(size=length) * 2.0 ** rng.integers(-12, 9))
    elif character == 2:
        codes = np.full(length, rng.integers(0, top))
    elif character == 3:
        codes = rng.choice(rng.integers(0, top, 3), length)
    elif character == 4:
        codes = np.zeros(length, dtype=int)
        codes[rng.integers(length)] = rng.integers(0, top)
    else:
        codes = fmt.encode(fmt.maxpos * (0.3 + rng.random(length) * rng.random()))
    codes = codes.astype(np.int64)
    if fmt.nan_code is not None and rng.random() < 0.95:
        codes[codes == fmt.nan_code] = fmt.encode(fmt.minpos)
    return codes


def group(spec: NormSpec, rows: int, longest: int, rng: np.random.Generator) -> list[Case]:
    """Rows of one set of settings: one format, kind, length, number of kept elements."""
    name = formats.ENGINE_FORMATS[rng.integers(4)]
    length = int(rng.integers(1, longest + 1))
    keep = rng.random(length) < (0.6 if rng.random() < 0.3 else 1.0)
    given = {
        "scale": int(rng.integers(-5, 6)),
        "kind": KINDS[rng.integers(2)],
        "epsilon": float(rng.choice([0.0, 1e-6, 1e-5, 0.1])),
        "out": formats.ENGINE_FORMATS[rng.choice(4, p=[0.1, 0.1, 0.3, 0.5])],
        "out_shift": int(rng.choice([0, rng.integers(-16, 17), rng.integers(-512, 512)])),
        "underflow": ("minpos", "zero")[rng.integers(2)],
    }
    settings: Any = ln.settings(spec, name, int(keep.sum()), **given)  # type: ignore[arg-type]
    cases = []
    for _ in range(rows):
        codes = codes_of(name, length, rng)
        mask = rng.permutation(keep)
        nan_code = formats.get(name).nan_code
        if given["out"] == "fp4" and nan_code is not None:
            codes[codes == nan_code] = 1
        cases.append(
            Case(
                Row(settings, codes.astype(np.uint16), mask),
                ln.accumulate(spec, name, codes, mask),
                ln.normalise(spec, codes, name, keep=mask, **given),  # type: ignore[arg-type]
            )
        )
    return cases


def stimuli(spec: NormSpec, rows: int, longest: int, seed: int) -> list[Case]:
    """At least so many rows, in groups of a few; most are short, some are not."""
    rng = np.random.default_rng(seed)
    cases: list[Case] = []
    while len(cases) < rows:
        bound = longest if rng.random() < 0.04 else 4 * spec.lanes
        cases += group(spec, int(rng.integers(1, 9)), bound, rng)
    return cases


def differences(cases: list[Case], run: Run) -> list[str]:
    """What differs between golden and gates, a line a row."""
    found = []
    for index, (case, codes, sums) in enumerate(zip(cases, run.codes, run.sums, strict=True)):
        if sums != case.sums:
            found.append(f"row {index}: sums {sums}, expected {case.sums}")
        if not np.array_equal(codes, case.codes):
            at = int(np.flatnonzero(codes != case.codes)[0])
            found.append(
                f"row {index} element {at}: {codes[at]:#06x}, expected {int(case.codes[at]):#06x}"
                f" of {case.row}"
            )
    return found


@dataclass(frozen=True)
class Fault:
    """A text of a module, and what stands there instead."""

    module: str
    old: str
    new: str


FAULTS = {
    "a sticky bit is lost on the way to the code": Fault(
        "layer_norm_blocks",
        "self.sticky.eq(fraction[:-FRACTION_BITS].any())",
        "self.sticky.eq(0)",
    ),
    "ties below the grid go up": Fault(
        "layer_norm_blocks", "(shifted[0] & (lost | shifted[1]))", "shifted[0]"
    ),
    "a dropped element is counted": Fault(
        "layer_norm_blocks", "decode.word.eq(Mux(self.keep, self.code, 0))",
        "decode.word.eq(self.code)",
    ),
    "NaR of one row is still there in the next": Fault(
        "layer_norm", "nan.eq((nan & ~fresh) |", "nan.eq(nan |"
    ),
    "epsilon is forgotten": Fault(
        "layer_norm_root", "held.eq(sofar - held + epsilon)", "held.eq(sofar - held)"
    ),
    "dropped elements have results": Fault(
        "layer_norm", "register.zero.eq(leading.zero | ~x.keep)", "register.zero.eq(leading.zero)"
    ),
    "pass 2 comes a cycle too early": Fault(
        "layer_norm_root", "spec.turnaround - begun - 1", "spec.turnaround - begun - 2"
    ),
    "RMSNorm subtracts the mean": Fault("layer_norm", "Mux(self.kind, 0, total)", "total"),
    "saturation is a bit short": Fault("layer_norm_blocks", "~Const(0, BITS)", "~Const(1, BITS)"),
    "the last Newton step is not rounded": Fault(
        "layer_norm_root", "((product >> 3 * q) + 1) >> 1", "product >> (3 * q + 1)"
    ),
}  # fmt: skip
"""Planted faults, by what they break."""

MODULES = ("layer_norm_blocks", "layer_norm_root", "layer_norm")


def faulty_verilog(spec: NormSpec, fault: Fault | None) -> str:
    """The unit's Verilog with the fault in it.

    Raises:
        ValueError: the module does not hold the text exactly once.
    """
    folder = Path(unit.__file__).parent
    names = [f"opennpe.rtl.{name}" for name in MODULES]
    kept = {name: sys.modules.pop(name) for name in names}
    try:
        for short, name in zip(MODULES, names, strict=True):
            path = folder / f"{short}.py"
            source = path.read_text()
            if fault is not None and fault.module == short:
                if source.count(fault.old) != 1:
                    raise ValueError(f"{short}.py does not read {fault.old!r} exactly once")
                source = source.replace(fault.old, fault.new)
            module = sys.modules[name] = ModuleType(name)
            exec(compile(source, str(path), "exec"), module.__dict__)
        return verilog.convert(sys.modules[names[-1]].LayerNorm(spec), TOP)
    finally:
        sys.modules.update(kept)
