"""The engine's emitted Verilog beside a table computed by golden, as one circuit.

What is compared is the accumulator's input after one word pair that begins a sum without a bias:
decode, multiply, align and the adder, of every lane of a mode at once, the other lanes' operands
free. The registers between the steps become wires (the engine has no feedback there), so the
circuit is combinational; ``bad`` has a bit a lane that is 1 when the lane differs.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from formal_table import Graph, decision_graph, product_rows
from numpy.typing import NDArray
from opennpe.golden import formats, mac
from pyosys import libyosys

TABLE, MITER = "golden_table", "miter"
SUM, NAN = "accumulate.result", "accumulate.nan_out"
REGISTERS = """
(* techmap_celltype = "$dff $dffe" *)
module register_as_wire #(
  parameter WIDTH = 1, CLK_POLARITY = 1, EN_POLARITY = 1
) (input CLK, EN, input [WIDTH-1:0] D, output [WIDTH-1:0] Q);
  assign Q = D;
endmodule
(* techmap_celltype = "$sdff $sdffe $sdffce" *)
module clearable_register_as_wire #(
  parameter WIDTH = 1, CLK_POLARITY = 1, EN_POLARITY = 1, SRST_POLARITY = 1, SRST_VALUE = 0
) (input CLK, EN, SRST, input [WIDTH-1:0] D, output [WIDTH-1:0] Q);
  assign Q = SRST == SRST_POLARITY ? SRST_VALUE : D;
endmodule
"""


@dataclass(frozen=True)
class Case:
    """A mode to prove: the operand formats."""

    a: str
    b: str

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return int(formats.get(self.a).bits)

    @property
    def lanes(self) -> int:
        """Lanes of a word."""
        return 16 // self.bits

    @property
    def product_bits(self) -> int:
        """Signed bits of the largest product."""
        return int(mac.max_product(self.a, self.b)).bit_length() + 1

    def rows(self) -> NDArray[np.int64]:
        """Golden's product of every pair of codes, in bits; see ``formal_table.product_rows``."""
        return product_rows(self.a, self.b, self.product_bits)


def miter_text(case: Case, manifest: dict[str, object], graph: Graph) -> str:
    """Verilog of the table and of the miter around the engine and a table a lane."""
    ports = {port["name"]: port for port in manifest["ports"]}  # type: ignore[attr-defined]
    payload = ports["words__payload"]
    names = [entry["name"] for entry in manifest["formats"]]  # type: ignore[attr-defined]
    driven = {
        "a": "a",
        "b": "b",
        "mode_a": str(names.index(case.a)),
        "mode_b": str(names.index(case.b)),
        "first": "1",
    }
    fields = [
        f"  assign payload[{f['offset']}+:{f['width']}] = {driven.get(f['name'], '0')};"
        for f in payload["fields"]
    ]
    lanes = [_lane_text(case, lane) for lane in range(case.lanes)]
    return "\n".join(
        [
            graph.verilog(TABLE),
            f"module {MITER}(input [15:0] a, b, output [{case.lanes - 1}:0] bad);",
            f"  wire [{payload['width'] - 1}:0] payload;",
            "  wire [127:0] sum;",
            "  wire [3:0] nan;",
            *fields,
            f"  {manifest['top']} engine(.words__payload(payload), .words__valid(1'b1),",
            "    .biases__payload(128'b0), .biases__valid(1'b1), .shifts__valid(1'b1),",
            "    .results__ready(1'b1), .underflow_zero(1'b0), .clk(1'b0), .rst(1'b0),",
            f"    .\\{SUM} (sum), .\\{NAN} (nan));",
            *lanes,
            "endmodule",
            "",
        ]
    )


def _lane_text(case: Case, lane: int) -> str:
    """One lane: NaR as the table says, and where it is none the product, sign-extended."""
    bits, top, width = case.bits, case.product_bits, 128 // case.lanes
    code = f"[{lane * bits}+:{bits}]"
    slot = lane * 4 // case.lanes
    return f"""  wire [{top}:0] row{lane};
  {TABLE} table{lane}(.index({{a{code}, b{code}}}), .row(row{lane}));
  wire signed [{width - 1}:0] want{lane} = $signed(row{lane}[{top - 1}:0]);
  assign bad[{lane}] = (nan[{slot}] != row{lane}[{top}])
    | (!row{lane}[{top}] & (sum[{lane * width}+:{width}] != want{lane}));"""


class Miter:
    """The circuit of a mode in Yosys, flat and reduced.

    Args:
        case: the mode.
        verilog: the emitted engine.
        manifest: its manifest, read.
        rows: the table to compare with.
        folder: for the files that Yosys reads and writes.
    """

    def __init__(
        self,
        case: Case,
        verilog: Path,
        manifest: Path,
        rows: NDArray[np.int64],
        folder: Path,
    ) -> None:
        self.case, self.folder = case, folder
        described = json.loads(manifest.read_text())
        top = described["top"]
        graph = decision_graph(rows)
        if not np.array_equal(graph.evaluate(), rows):
            raise AssertionError("the decision graph is not the table")
        registers, text = folder / "registers.v", folder / "miter.v"
        registers.write_text(REGISTERS)
        text.write_text(miter_text(case, described, graph))
        self.design = libyosys.Design()
        self.run(
            f"read_verilog {verilog}",
            f"hierarchy -top {top}",
            "proc -norom",
            "flatten",
            "opt_clean",
            "opt_dff",  # enables become part of the registers, so that these can be bridged
            f"expose w:{SUM} w:{NAN}",
            "setattr -unset init w:*",
            f"techmap -map {registers}",
            f"read_verilog {text}",
            f"hierarchy -top {MITER}",
            "proc -norom",
            "flatten",
            "opt -full",
            "opt_clean -purge",
            "select -assert-none t:$*dff* t:$mem* %u",
        )

    def run(self, *passes: str) -> None:
        """Yosys passes, their log kept in ``yosys.log``."""
        with _log_to(self.folder / "yosys.log"):
            for command in passes:
                libyosys.run_pass(command, self.design)

    def prove_by_sat(self) -> bool:
        """Yosys's own SAT: whether no operands make any lane differ."""
        log = self.folder / "yosys.log"
        self.run(f"sat -prove bad 0 -show a,b {MITER}")
        said = log.read_text()
        proved, refuted = (said.count(f"SAT proof finished - {x}") for x in PROOF)
        if proved + refuted != 1:
            raise AssertionError(f"Yosys gave no verdict: see {log}")
        return proved == 1

    def aiger(self) -> Path:
        """The circuit as and-inverter graph, ASCII AIGER with symbols."""
        path = self.folder / "miter.aag"
        self.run(
            "techmap",
            "aigmap",
            f"write_aiger -ascii -symbols {path}",
        )
        return path


PROOF: Sequence[str] = ("no model found: SUCCESS!", "model found: FAIL!")


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Yosys logs to the process's standard output, past Python: send it to a file instead."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with path.open("a") as log:
            os.dup2(log.fileno(), 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
