"""Mapped blocks are their RTL, proved by ABC's equivalence check; recipes give one netlist."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyosys
import pytest
from mapped_verilog import models, structural
from opennpe.fpga import liberty, recipes, synthesis, timing
from opennpe.golden import catalog
from opennpe.golden.errors import SpecError, TechError, ToolError
from opennpe.rtl import yosys
from opennpe.rtl.codec import Decode, Round
from opennpe.rtl.mac import Align, Multiply
from small_liberty import SMALL

pytestmark = pytest.mark.rtl

ABC = Path(pyosys.__file__).parent / "yosys-abc"
BITS = catalog.EDGE_4X4.engine.accumulator_bits
BLOCKS = {
    "decode": Decode,
    "multiply": Multiply,
    "align": lambda: Align(BITS),
    "round": lambda: Round(11),
}
SLOW = pytest.mark.regress
CASES = (
    ("decode", "ihp130", "stock"),
    ("round", "ihp130", "timing"),
    pytest.param("decode", "asap7", "sized", marks=SLOW),
    pytest.param("multiply", "ihp130", "booth", marks=SLOW),
    pytest.param("multiply", "asap7", "timing", marks=SLOW),
    pytest.param("align", "ihp130", "sized", marks=SLOW),
    pytest.param("round", "asap7", "stock", marks=SLOW),
)


def mapped(block, library, recipe):
    """RTL as Verilog, and its netlist."""
    text = synthesis.verilog_of(BLOCKS[block](), f"opennpe_{block}")
    gates = synthesis.synthesise(text, liberty.load(library), top=f"opennpe_{block}", recipe=recipe)
    return text, gates


def equivalent(text, gates, folder):
    """Whether ABC finds that two modules of one name are one function."""
    (folder / "rtl.v").write_text(text)
    (folder / "gates.v").write_text(structural(gates) + models(gates))
    passes = {"rtl": f"synth -flatten -top {gates.top}", "gates": f"prep -flatten -top {gates.top}"}
    for name, made in passes.items():
        yosys.run(
            f"read_verilog -sv {folder / name}.v",
            made,
            "setundef -zero",
            "aigmap",
            f"write_aiger -zinit {folder / name}.aig",
        )
    said = subprocess.run(
        [str(ABC), "-c", f"cec {folder / 'rtl.aig'} {folder / 'gates.aig'}"],
        capture_output=True,
        text=True,
    ).stdout
    assert ("are equivalent" in said) != ("NOT EQUIVALENT" in said), said
    return "are equivalent" in said


@pytest.mark.parametrize(("block", "library", "recipe"), CASES)
def test_a_mapped_block_is_its_rtl(block, library, recipe, tmp_path):
    text, gates = mapped(block, library, recipe)
    assert len(gates.instances) > 100
    assert equivalent(text, gates, tmp_path)


@pytest.mark.parametrize("fault", ["kind", "pin"])
def test_a_wrong_gate_is_noticed(fault, tmp_path):
    """One nand for a nor, one input of one gate on another net."""
    text, gates = mapped("round", "ihp130", "timing")
    nand, nor = (gates.kinds.index(f"sg13g2_{name}2_1") for name in ("nand", "nor"))
    one = int(np.flatnonzero(gates.kind == nand)[len(gates.kind) // 1000])
    if fault == "kind":
        kind = gates.kind.copy()
        kind[one] = nor
        wrong = replace(gates, kind=kind)
    else:
        pins = gates.pin_net.copy()
        order = list(gates.library.cells["sg13g2_nand2_1"].pins)
        pins[gates.first_pin[one] + order.index("A")] = 1
        wrong = replace(gates, pin_net=pins)
    assert not equivalent(text, wrong, tmp_path)


@pytest.mark.parametrize("recipe", ["stock", pytest.param("timing", marks=SLOW)])
def test_a_recipe_gives_one_netlist(recipe):
    """Twice by itself, not out of the cache."""
    text = synthesis.verilog_of(Decode(), "opennpe_decode")
    library = liberty.load("ihp130")
    first, second = (
        synthesis._map(text, library, "opennpe_decode", recipes.get(recipe), [], False)
        for _ in range(2)
    )
    assert first == second


def test_recipes_differ_in_what_they_are_for():
    """Sizing makes a block faster and larger; ABC's own delay is ours."""
    _, stock = mapped("round", "ihp130", "stock")
    _, timed = mapped("round", "ihp130", "timing")
    for gates in (stock, timed):
        ours = timing.analyse(gates).worst_logic.logic_ps
        assert ours == pytest.approx(gates.abc_delay_ps, abs=0.02)
    assert timed.abc_delay_ps < 0.8 * stock.abc_delay_ps
    assert timed.area_um2 > stock.area_um2


def test_recipes_by_name():
    assert recipes.get("stock+gated").clock_gates == recipes.GATED
    assert recipes.get("stock").clock_gates == 0
    for name in ("fast", "", "stock+gated+gated"):
        with pytest.raises(SpecError, match=f"unknown recipe '{name}'".replace("+", r"\+")):
            recipes.get(name)


CLOCKED = """module top(input clk, input [1:0] a, output reg y);
  always @(posedge clk) y <= a[0] & ~a[1];
endmodule
"""


def library_of(tmp_path, *texts):
    paths = [tmp_path / f"{chr(ord('a') + at)}.lib" for at in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    return liberty.load(",".join(map(str, paths)))


def test_files_map_whatever_they_are_called(tmp_path):
    """ABC drops a first file of inverters and buffers alone; ours comes later."""
    head = SMALL[: SMALL.index("  cell (INV)")]
    poor = head + SMALL[SMALL.index("  cell (INV)") : SMALL.index("  cell (NAND2)")] + "}\n"
    gate = SMALL[SMALL.index("  cell (NAND2)") : SMALL.index("  cell (DFF)")]
    nors = gate.replace("NAND2", "NOR2").replace("!(A*B)", "!(A+B)")
    ands = gate.replace("NAND2", "AND2").replace("!(A*B)", "(A*B)")
    rich = head + nors + ands + SMALL[SMALL.index("  cell (NAND2)") :]
    library = library_of(tmp_path, poor, rich)
    assert [Path(file).name for file in library.files] == ["b.lib", "a.lib"]
    gates = synthesis.synthesise(CLOCKED, library, top="top")
    assert {"DFF"} < set(gates.counts)


def test_what_a_library_lacks_is_said(tmp_path):
    """A buffer, without which ABC ends with no word; a latch."""
    start, end = SMALL.index("  cell (BUF)"), SMALL.index("  cell (NAND2)")
    with pytest.raises(TechError, match="has no buffer"):
        library_of(tmp_path, SMALL[:start] + SMALL[end:])
    whole = library_of(tmp_path, SMALL)
    latch = "module top(input e, d, output reg q); always @* if (e) q = d; endmodule\n"
    with pytest.raises(TechError, match="library a has no cell for .*latch") as caught:
        synthesis.synthesise(latch, whole, top="top")
    assert "\n" not in str(caught.value)
    with pytest.raises(ToolError, match="Yosys failed"):
        synthesis.synthesise("module top(input a; endmodule\n", whole, top="top")
