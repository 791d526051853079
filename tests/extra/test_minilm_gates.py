"""A layer of MiniLM with its twelve heads on the co-processor's gates, without the host.

Every tensor is the simulator's, the counters are the cycle model's.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import minilm_model as model
import numpy as np
import pytest
from minilm_sentences import SENTENCES
from opennpe import sim
from opennpe.golden import catalog
from opennpe.golden import layers as L
from opennpe.golden.commands import KINDS
from opennpe.golden.network import Network
from opennpe.golden.registers import MemorySettings
from opennpe.host.compile import compile
from opennpe.rtl.cosim import Cosim
from opennpe.sim.coprocessor import cycles
from test_minilm import SHIPPED, block, network, shorter

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("host", "agree")]
import on_gates
from host_cases import SPECS

pytestmark = [
    pytest.mark.extra,
    pytest.mark.rtl,
    pytest.mark.skipif(not model.found(), reason="MiniLM is not there: see test_minilm.py"),
]

MEMORY = 1 << 23
SPEED = MemorySettings(20, 1, 20, 1)
TOKENS = {"posit8": 16, SHIPPED: 10}


def unmasked(piece: Network) -> Network:
    """The network for sentences that fill their tokens: a program is for a number of tokens."""
    layers = tuple(
        replace(layer, inputs=layer.inputs[:1]) if isinstance(layer, L.StreamSoftmax) else layer
        for layer in piece.layers
    )
    return replace(piece, inputs=piece.inputs[:1], layers=layers)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("policy", TOKENS)
def test_one_layer_on_gates_is_the_simulators(policy):
    spec, tokens = SPECS["4x4"], TOKENS[policy]
    found = network(policy)
    piece = unmasked(shorter(block(found, 2), tokens))
    (hidden,) = piece.inputs
    given = {k: v[:1] for k, v in model.inputs(SENTENCES[-1:]).items()}
    kept, _ = sim.run(spec, found, given, keep=(hidden,))
    inputs = {hidden: kept[hidden][:, :tokens]}
    program = compile(piece, spec, "all")
    gates = Cosim(spec, MEMORY)
    results, counters = on_gates.run(spec, gates, program, inputs, SPEED, policy)
    expected, _ = sim.run(spec, piece, inputs, keep=tuple(results))
    for name, codes in results.items():
        assert np.array_equal(codes, expected[name]), f"{policy}: tensor '{name}'"
    kinds = Counter(KINDS[c["kind"]] for _, c in program.commands if c.op == "exec")
    assert kinds["softmax"] >= 12 and kinds["transpose"] and kinds["norm"], kinds
    assert len(results) >= 12
    print(f"{policy}: {len(results)} tensors, {counters.cycles} cycles, {dict(kinds)}")


def main() -> None:
    """Cycles of a whole layer of 64 tokens by the cycle model, by kind of exec."""
    for policy in TOKENS:
        piece = unmasked(block(network(policy), 2))
        macs = sum(piece.macs(layer) for layer in piece.layers)
        for spec in (catalog.EDGE_8X8, catalog.EDGE_4X4):
            program = compile(piece, spec)
            found = cycles(spec, program, SPEED)
            kinds: Counter[str] = Counter()
            commands = [c for _, c in program.commands]
            for command, begun, ended in zip(commands, found.begun, found.ended, strict=False):
                if command.op == "exec":
                    kinds[KINDS[command["kind"]]] += int(ended - begun)
            total = found.counters.cycles
            peak = macs / spec.array.macs_per_cycle("posit8") / total
            print(
                f"{policy}, {spec.name}: {total} cycles, {peak:.1%} of posit8's peak, {dict(kinds)}"
            )


if __name__ == "__main__":
    main()
