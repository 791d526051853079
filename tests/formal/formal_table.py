"""A table from golden as gates: a shared decision graph, small enough for a SAT solver.

65,536 rows of 27 bits as a plain ROM are ten million clauses; the same function as a reduced
ordered decision graph is some thousand multiplexers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import formats, mac

FALSE, TRUE = 0, 1


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes 2, 3, ... choose by an input bit between two earlier nodes; 0 and 1 are constants.

    Attributes:
        inputs: number of input bits.
        bit: int64 (N,), the input bit each node looks at.
        low: int64 (N,), the node taken when it is 0.
        high: int64 (N,), the node taken when it is 1.
        roots: int64 (outputs,), the node of each output bit, lowest first.
    """

    inputs: int
    bit: NDArray[np.int64]
    low: NDArray[np.int64]
    high: NDArray[np.int64]
    roots: NDArray[np.int64]

    def evaluate(self) -> NDArray[np.int64]:
        """The table again, (2**inputs, outputs): what the graph stands for."""
        index = np.arange(1 << self.inputs)
        value = np.zeros((len(self.bit) + 2, len(index)), dtype=bool)
        value[TRUE] = True
        for node, (bit, low, high) in enumerate(zip(self.bit, self.low, self.high, strict=True)):
            value[node + 2] = np.where(index >> bit & 1, value[high], value[low])
        return value[self.roots].T.astype(np.int64)

    def verilog(self, name: str) -> str:
        """A module with ports ``index`` and ``row``."""
        lines = [
            f"module {name}(input [{self.inputs - 1}:0] index, "
            f"output [{len(self.roots) - 1}:0] row);",
            f"  wire [{len(self.bit) + 1}:0] n;",
            "  assign n[0] = 1'b0;",
            "  assign n[1] = 1'b1;",
        ]
        lines += [
            f"  assign n[{node + 2}] = index[{bit}] ? n[{high}] : n[{low}];"
            for node, (bit, low, high) in enumerate(zip(self.bit, self.low, self.high, strict=True))
        ]
        lines += [f"  assign row[{i}] = n[{root}];" for i, root in enumerate(self.roots)]
        return "\n".join([*lines, "endmodule", ""])


def decision_graph(rows: NDArray[np.int64]) -> Graph:
    """The reduced ordered decision graph of bits (2**n, outputs), highest input bit on top."""
    inputs = len(rows).bit_length() - 1
    if len(rows) != 1 << inputs:
        raise ValueError(f"a table has a power of two of rows, got {len(rows)}")
    current = rows.T.astype(np.int64)
    bits: list[NDArray[np.int64]] = []
    lows: list[NDArray[np.int64]] = []
    highs: list[NDArray[np.int64]] = []
    count = 2
    for bit in range(inputs):
        pairs = current[:, 0::2] << 32 | current[:, 1::2]
        unique, place = np.unique(pairs, return_inverse=True)
        low, high = unique >> 32, unique & 0xFFFFFFFF
        node = low.copy()
        new = low != high
        node[new] = count + np.arange(new.sum())
        count += int(new.sum())
        bits.append(np.full(new.sum(), bit))
        lows.append(low[new])
        highs.append(high[new])
        current = node[place].reshape(len(current), -1)
    return Graph(
        inputs, np.concatenate(bits), np.concatenate(lows), np.concatenate(highs), current[:, 0]
    )


def product_rows(a: str, b: str, width: int) -> NDArray[np.int64]:
    """Bits (codes_a * codes_b, width + 1) of every product, NaR last; index = a << bits | b.

    A NaR's product is given as zero, and is not compared (see the miter).
    """
    bits = formats.get(a).bits
    pairs = [mac.multiply(a, b, x, y) for x in range(1 << bits) for y in range(1 << bits)]
    value = np.array([product for product, _ in pairs], dtype=np.int64)
    if np.abs(value).max() >= 1 << (width - 1):
        raise ValueError(f"products of {a} x {b} do not fit {width} bits")
    nan = np.array([bad for _, bad in pairs], dtype=np.int64)
    return np.concatenate([value[:, None] >> np.arange(width) & 1, nan[:, None]], axis=1)
