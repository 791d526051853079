"""Areas by block: nothing counted twice or lost, memories left to macros, one line on a fault."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter

import pytest
from opennpe.cli.main import main
from opennpe.fpga import area, area_blocks, area_paths, boxes, liberty, synthesis, timing
from opennpe.fpga.area_blocks import check_whole, cut
from opennpe.golden import catalog
from opennpe.golden.errors import OpenNPEError, ToolError
from opennpe.golden.spec import ArraySpec, CoprocessorSpec, MemorySpec
from opennpe.sim.accesses import memory_shapes
from opennpe.tech.memories import Shape, memory
from small_liberty import SMALL

LIBRARY = "ihp130"

ROW = r"""module \opennpe.execute.{name} (clk, a, b, \inside$3 );
  input clk;
  wire clk;
  input [7:0] a;
  wire [7:0] a;
  input [7:0] b;
  wire [7:0] b;
  output [7:0] \inside$3 ;
  reg [7:0] \inside$3  = 8'h00;
  wire [7:0] sum;
  helper adder (
    .a(a),
    .b(b),
    .sum(sum)
  );
  always @(posedge clk) \inside$3  <= sum;
endmodule
"""
"""A row of the array, which Amaranth writes once for each: the name alone differs."""
TOP = r"""
module opennpe(clk, a, b, q);
  input clk;
  wire clk;
  input [7:0] a;
  wire [7:0] a;
  input [7:0] b;
  wire [7:0] b;
  output [7:0] q;
  wire [7:0] q;
  wire [7:0] left;
  wire [7:0] right;
  \opennpe.execute.row0  row0 (
    .clk(clk),
    .a(a),
    .b(right),
    .\inside$3 (left)
  );
  \opennpe.execute.row1  row1 (
    .clk(clk),
    .a(left),
    .b(b),
    .\inside$3 (right)
  );
  \opennpe.store  store (
    .clk(clk),
    .address(right),
    .q(q)
  );
endmodule
"""
REST = r"""
module \opennpe.store (clk, address, q);
  input clk;
  wire clk;
  input [7:0] address;
  wire [7:0] address;
  output [7:0] q;
  wire [7:0] q;
  reg [7:0] read;
  reg [7:0] last;
  (* no_rw_check = 32'd1 *)
  reg [7:0] lines [255:0];
  always @(posedge clk) begin
    read <= lines[address];
    if (address[0]) lines[address] <= address;
    last <= read + address;
  end
  assign q = last ^ address;
endmodule

module helper(a, b, sum);
  input [7:0] a;
  wire [7:0] a;
  input [7:0] b;
  wire [7:0] b;
  output [7:0] sum;
  wire [7:0] sum;
  assign sum = a + b;
endmodule
"""
DESIGN = (
    TOP.removesuffix("\n")
    + "\n\n"
    + "\n".join(ROW.replace("{name}", f"row{i}") for i in range(2))
    + REST
)
"""Two rows of 8 flops, each with an adder that is a module; a store with a memory and 8 flops."""


@pytest.fixture(scope="module")
def library():
    return liberty.load(LIBRARY)


@pytest.fixture(scope="module")
def netlists(library):
    return {unit.name: area.netlist_of(unit, library, "stock") for unit in cut(DESIGN)}


@pytest.mark.fast
def test_every_module_is_in_one_block():
    units = {unit.name: unit for unit in cut(DESIGN)}
    assert {name: unit.copies for name, unit in units.items()} == {"rows": 2, "store": 1, "top": 1}
    assert units["rows"].inside["helper"] == 1
    assert units["top"].placed == {"row0": "rows", "row1": "rows", "store": "store"}
    assert "assign sum" in units["rows"].text and "assign sum" not in units["top"].text
    assert units["top"].text.count("(* blackbox *)") == 3


@pytest.mark.fast
@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda units: [u for u in units if u.name != "rows"],
            "helper is 2 times in the design, 0",
        ),
        (lambda units: [u for u in units if u.name != "store"], "block 'store' is 1 times in the"),
        (lambda units: [*units, units[0]], "block 'rows' is listed 2 times"),
        (lambda units: [dataclasses.replace(u, copies=2) for u in units], "is 1 times in the"),
        (
            lambda units: [dataclasses.replace(u, inside={"helper": 2}) for u in units],
            "helper is 2 times in the design, 8",
        ),
    ],
)
def test_a_block_lost_or_counted_twice_is_caught(change, text):
    units = cut(DESIGN)
    check_whole(DESIGN, units)
    with pytest.raises(ToolError, match=text):
        check_whole(DESIGN, change(list(units)))


@pytest.mark.fast
def test_copies_that_differ_are_caught():
    odd = DESIGN.replace(
        "sum;\nendmodule\n\nmodule \\opennpe.store", "~sum;\nendmodule\n\nmodule \\opennpe.store"
    )
    assert odd != DESIGN
    with pytest.raises(ToolError, match=r"copies of block 'rows' differ: opennpe\.execute\.row1"):
        cut(odd)


@pytest.mark.fast
def test_a_module_that_is_not_there_is_caught():
    with pytest.raises(ToolError, match="opennpe places opennpe.fill, which is no module"):
        cut(DESIGN.replace("\\opennpe.store  store", "\\opennpe.fill  store"))


@pytest.mark.fast
def test_blocks_by_hand(netlists, library):
    """Flops and memories of each block as the Verilog has them."""
    assert {name: len(one.registers) for name, one in netlists.items()} == {
        "rows": 8, "store": 8, "top": 0,
    }  # fmt: skip
    assert boxes.memories(netlists["store"].ports) == Counter({(256, 8): 1})
    assert not boxes.memories(netlists["rows"].ports)
    rows = [(unit, area._measured(netlists[unit.name])) for unit in cut(DESIGN)]
    found = area.combined(catalog.EDGE_2X2, library, "stock", rows)
    assert found.macros == {"256x8": 1}
    assert found.registers == 24
    by_hand = 2 * netlists["rows"].area_um2 + netlists["store"].area_um2
    assert found.area_um2 == pytest.approx(by_hand, rel=1e-12) and by_hand > 0
    # What was read arrives when the macro gives it: no later stage has that long to go.
    read = memory(Shape("lines", 256, 8), 130.0).access_ps
    assert found.slowest.name == "store" and found.slowest.stage == "last from memory lines"
    assert found.slowest.stage_ps > read > 1000


@pytest.mark.fast
def test_blocks_together_are_the_flat_design(netlists, library):
    """Area is the sum; a path through two rows is longer than one row's, as in the flat design."""
    units = cut(DESIGN)
    whole = area_paths.assembled("top", netlists, {unit.name: unit.placed for unit in units})
    summed = sum(unit.copies * netlists[unit.name].area_um2 for unit in units)
    assert whole.area_um2 == pytest.approx(summed, rel=1e-12)
    flat = synthesis.synthesise(DESIGN, library, top="opennpe", outside=True)
    assert len(whole.registers) == len(flat.registers) == 24
    paths = [area.stage(one) for one in (whole, flat)]
    assert all(path is not None for path in paths)
    assert paths[0].total_ps == pytest.approx(paths[1].total_ps, rel=0.05)
    found = area.joined(units, netlists)
    assert sum(one["area_um2"] for one in found["blocks"].values()) == pytest.approx(summed)
    assert found["blocks"]["rows"]["registers"] == 16
    across = timing.analyse(whole).stages
    assert {area_paths.place_of(path.end) for path in across.values()} >= {
        "top/row0", "top/row1", "top/store",
    }  # fmt: skip
    wrong = {**netlists, "rows": netlists["store"]}
    with pytest.raises(ToolError, match="block_store has no port"):
        area_paths.assembled("top", wrong, {unit.name: unit.placed for unit in units})


@pytest.mark.fast
def test_what_nobody_takes_is_not_counted(netlists, library):
    """A design that drops the first row's result has neither that row nor its adder, flat."""
    odd = DESIGN.replace("    .b(right),", "    .b(b),").replace("    .a(left),", "    .a(a),")
    units = cut(odd)
    nets = {unit.name: area.netlist_of(unit, library, "stock") for unit in units}
    assert sum(unit.copies * len(nets[unit.name].registers) for unit in units) == 24
    found = area.joined(units, nets)
    flat = synthesis.synthesise(odd, library, top="opennpe", outside=True)
    assert sum(one["registers"] for one in found["blocks"].values()) == len(flat.registers) == 16
    assert found["blocks"]["rows"]["area_um2"] == pytest.approx(nets["rows"].area_um2)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("cell", "missing"),
    [("DFF", "flip-flop"), ("NAND2", "two-input nand or nor"), ("INV", "inverter")],
)
def test_a_missing_class_of_cells_is_one_line(cell, missing, tmp_path, capsys):
    path = tmp_path / "small.lib"
    parts = re.split(r"(?m)^(?=  cell \()", SMALL)
    assert sum(part.startswith(f"  cell ({cell})") for part in parts) == 1
    kept = [part for part in parts if not part.startswith(f"  cell ({cell})")]
    path.write_text("".join(kept) + ("}\n" if parts[-1] not in kept else ""))
    for recipe in ("stock", "timing"):
        arguments = ["cost", "--spec", "EDGE_1X1", "--liberty", str(path), "--recipe", recipe]
        assert main(arguments) == 2
        out, err = capsys.readouterr()
        assert f"has no {missing}" in err and err.count("\n") == 1 and not out


@pytest.mark.fast
def test_a_cell_that_a_block_needs_is_one_line(tmp_path):
    path = tmp_path / "small.lib"
    path.write_text(SMALL)
    latch = DESIGN.replace("always @(posedge clk) \\inside", "always @* if (clk) \\inside")
    latch = latch.replace("<= sum", "= sum").replace(" = 8'h00", "")
    unit = next(unit for unit in cut(latch) if unit.name == "rows")
    with pytest.raises(OpenNPEError, match="latches are not supported|no cell for") as caught:
        area.netlist_of(unit, liberty.load(path), "stock")
    assert "\n" not in str(caught.value)


@pytest.mark.fast
def test_the_key_knows_design_library_and_recipe(library):
    spec = catalog.EDGE_2X2
    own = area.design_key(spec, library, "timing")
    assert own == area.design_key(spec, library, "timing")
    others = {
        area.design_key(spec, library, "stock"),
        area.design_key(catalog.EDGE_4X4, library, "timing"),
        area.design_key(spec, liberty.load("asap7"), "timing"),
    }
    assert len(others | {own}) == 4
    names = [text.split("\n")[0] for text in area._statements(area.COPROCESSOR)]
    assert {"rtl/mac.py", "rtl/softmax_sum.py", "golden/spec.py"} <= set(names)


@pytest.mark.fast
def test_the_key_skips_what_changes_no_gate(tmp_path):
    folder = tmp_path / "rtl"
    folder.mkdir()
    held = []
    for text in ("x = 1\n", '"""Says.\n\nMore."""\n# Why\nx = 1\n', "x = 2\n"):
        (folder / "coprocessor.py").write_text(text)
        area._statements.cache_clear()
        held.append(area._statements(folder / "coprocessor.py"))
    area._statements.cache_clear()
    assert held[0] == held[1] != held[2]


SMALLEST = CoprocessorSpec(
    "SMALLEST",
    ArraySpec(rows=2, columns=2),
    MemorySpec(bus_bits=32, buffer_lines=32768, operand_lines=2048),
    kinds=(),
)
MOST_APART = 0.04
"""Of the area of all blocks and of the flat design, as a share: what crosses borders is not
shared, and is not simplified either."""


@pytest.mark.regress
def test_blocks_add_up_to_a_flat_synthesis(library):
    """A co-processor without optional kinds: its blocks, and all of it in one synthesis."""
    from opennpe.rtl import verilog
    from opennpe.rtl.coprocessor import Coprocessor

    text = verilog.convert(Coprocessor(SMALLEST), area_blocks.TOP)
    units = cut(text)
    nets = {unit.name: area.netlist_of(unit, library, "stock") for unit in units}
    flat = synthesis.synthesise(text, library, top=area_blocks.TOP, outside=True)
    rows = [(unit, area._measured(nets[unit.name])) for unit in units]
    alone = area.combined(SMALLEST, library, "stock", rows)
    found = area.combined(SMALLEST, library, "stock", rows, area.joined(units, nets))
    for title, one in (("together", found), ("each on its own", alone)):
        apart = 100 * (one.area_um2 / flat.area_um2 - 1)
        print(f"{title} {one.area_um2:.0f} um2, {one.registers} registers: {apart:+.2f} %")
    print(f"flat {flat.area_um2:.0f} um2, {len(flat.registers)} registers")
    print(f"clock {found.limit}: {found.period_ps:.0f} ps, flat {area.stage(flat).total_ps:.0f} ps")
    assert found.area_um2 == pytest.approx(flat.area_um2, rel=MOST_APART)
    assert found.registers == pytest.approx(len(flat.registers), rel=MOST_APART)
    assert alone.area_um2 > found.area_um2
    macros = Counter(f"{w}x{b}" for w, b in boxes.memories(flat.ports).elements())
    expected = area.macros_of(memory_shapes(SMALLEST).values())
    assert dict(sorted(macros.items())) == expected == found.macros
    # A block that is lost, or counted twice, is more than the two may be apart.
    for block in found.blocks[:3]:
        for times in (-1, 1):
            wrong = found.area_um2 + times * block.area_um2
            assert wrong != pytest.approx(flat.area_um2, rel=MOST_APART), block.name
