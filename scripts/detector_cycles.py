"""Cycles and counts of the face detectors' 1x1 layers on the co-processor, sparse and dense.

    python scripts/sparse_detectors.py detectors
    python scripts/detector_cycles.py detectors --out detectors/cycles.csv

Each 1x1 convolution is compiled by itself for EDGE_8X8 in posit8, as the dense layer it is and as
the compiler would have it (``sparse="cycles"``, transpositions on both sides included), and counted
by the cycle model. A row a layer, a summary a network: cycles, steps of the array (what its
multipliers are clocked for), multiply-accumulates and beats of the bus.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from opennpe.golden import catalog, formats
from opennpe.golden import layers as L
from opennpe.golden.commands import KINDS
from opennpe.golden.network import Network, Tensor
from opennpe.host.compile import compile
from opennpe.sim.coprocessor import cycles

SPEC, FORMAT = catalog.EDGE_8X8, "posit8"


@dataclass(frozen=True)
class Counted:
    """One layer in one way.

    Attributes:
        network, layer: names.
        way: "dense" or "chosen".
        sparse: whether it ran sparse.
        macs: multiply-accumulates of the dense layer, or of the weights that are not zero.
        cycles: of the whole program: loads and stores included.
        steps: of the array.
        beats_read, beats_written: of the bus.
    """

    network: str
    layer: str
    way: str
    sparse: bool
    macs: int
    cycles: int
    steps: int
    beats_read: int
    beats_written: int


def one_layer(name: str, weights: Any, pixels: int) -> Network:
    """A 1x1 convolution by itself, weights rounded with a power of two for each channel."""
    outputs, inputs = weights.shape
    peak = np.abs(weights).max(axis=1)
    scale = np.floor(np.log2(np.where(peak > 0, peak, 1))).astype(np.int64)
    codes = formats.get(FORMAT).encode(np.ldexp(weights, -scale[:, None]), "zero")
    side = round(pixels**0.5)
    x = Tensor("x", (1, inputs, side, pixels // side), FORMAT)
    y = Tensor("y", (1, outputs, side, pixels // side), FORMAT)
    conv = L.Conv(
        name, ("x",), "y", codes[..., None, None], FORMAT, scale, np.zeros(outputs), (1, 1),
        (0, 0, 0, 0), (1, 1),
    )  # fmt: skip
    return Network(("x",), ("y",), {"x": x, "y": y}, (conv,), name=name)


def counted(network: str, item: dict[str, Any], weights: Any) -> list[Counted]:
    """A layer as dense, and as the compiler chooses."""
    layer = one_layer(item["name"], weights, item["N"])
    found = []
    for way, choice in (("dense", "never"), ("chosen", "cycles")):
        program = compile(layer, SPEC, sparse=choice)
        counters = cycles(SPEC, program).counters
        kinds = {KINDS[c["kind"]] for _, c in program.commands if c.op == "exec"}
        sparse = "sparse" in kinds
        macs = int(np.count_nonzero(weights) if sparse else weights.size) * item["N"]
        found.append(
            Counted(
                network, item["name"], way, sparse, macs, counters.cycles, counters.busy,
                counters.beats_read, counters.beats_written,
            )
        )  # fmt: skip
    return found


def main() -> int:
    """Count both networks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="what sparse_detectors.py wrote")
    parser.add_argument("--out", type=Path, help="a CSV file, a row a layer and way")
    arguments = parser.parse_args()
    rows: list[Counted] = []
    for name in ("sparse", "dense"):
        listed = json.loads((arguments.folder / f"{name}.json").read_text(encoding="utf-8"))
        with np.load(arguments.folder / listed["weights"], allow_pickle=False) as arrays:
            for item in listed["layers"]:
                rows += counted(name, item, arrays[item["array"]].astype(np.float64))
                print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    if arguments.out:
        with arguments.out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(asdict(rows[0])))
            writer.writeheader()
            writer.writerows(asdict(row) for row in rows)
    for name in ("sparse", "dense"):
        for way in ("dense", "chosen"):
            total: Counter[str] = Counter()
            own = [row for row in rows if (row.network, row.way) == (name, way)]
            for row in own:
                total.update({k: v for k, v in asdict(row).items() if isinstance(v, int)})
            print(f"{name} network, {way}: {len(own)} layers, {dict(total)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
