"""What glitches cost: the same random words with no delays, the library's, and one tick a gate.

    python scripts/energy_delays.py ihp130 asap7

Prints a table in Markdown, a row a mode and kind of delay, with the simulator's speed in this run.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from opennpe.fpga import engine_gates
from opennpe.fpga.gate_model import Delays
from opennpe.golden import catalog
from opennpe.golden.formats import ENGINE_FORMATS

SPEC = catalog.EDGE_4X4.engine
SUMS, LENGTH = 60, 20
KINDS: tuple[Delays, ...] = ("zero", "library", "unit")


def main() -> None:
    """One library after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", nargs="+")
    print("| library | mode | delays | toggles a cycle | fJ a cycle without clock | fJ a MAC | "
          "toggles a second |")  # fmt: skip
    print("|---|---|---|---|---|---|---|")
    for library in parser.parse_args().library:
        gates = engine_gates.build(SPEC, library)
        models = {kind: gates.model(kind) for kind in KINDS}
        for mode in ENGINE_FORMATS:
            words = np.random.default_rng(3).integers(0, 1 << 16, (2, SUMS, LENGTH))
            stream = engine_gates.uniform(SPEC, mode, mode, *words)
            for kind, model in models.items():
                begun = time.thread_time()
                _, run = engine_gates.run(SPEC, model, stream)
                speed = run.events / (time.thread_time() - begun)
                spent = run.energy_fj.sum()
                print(
                    f"| {library} | {mode} | {kind} | {run.events / run.cycles:.0f} | "
                    f"{(spent - run.clock_fj) / run.cycles:.4g} | "
                    f"{spent / (stream.words * SPEC.lanes(mode)):.4g} | {speed / 1e6:.1f} M |"
                )


if __name__ == "__main__":
    main()
