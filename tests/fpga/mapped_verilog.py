"""A mapped netlist as Verilog for other tools, its cells as modules of their functions."""

from __future__ import annotations

import re

from opennpe.fpga.netlist import Netlist
from opennpe.tech.cells import Cell

__all__ = ["models", "structural"]


def structural(netlist: Netlist) -> str:
    """One instance a line, plain names for nets, the ports of the top as they are."""
    head = [f"module {netlist.top} ({', '.join(netlist.ports)});"]
    tail = []
    for name, port in netlist.ports.items():
        width = len(port.nets)
        head.append(f"  {port.direction} {f'[{width - 1}:0] ' if width > 1 else ''}{name};")
        for bit, net in enumerate(port.nets):
            own = f"{name}[{bit}]" if width > 1 else name
            left, right = (own, f"w{net}") if port.direction == "output" else (f"w{net}", own)
            tail.append(f"  assign {left} = {right};")
    head += [f"  wire w{net};" for net in range(len(netlist.nets))]
    head += ["  assign w0 = 1'b0;", "  assign w1 = 1'b1;"]
    body = []
    for instance, kind in enumerate(netlist.kind):
        cell = netlist.library.cells[netlist.kinds[kind]]
        first = netlist.first_pin[instance]
        nets = netlist.pin_net[first : first + len(cell.pins)]
        pins = [f".{pin}(w{net})" for pin, net in zip(cell.pins, nets, strict=True) if net >= 0]
        body.append(f"  {cell.name} u{instance} ({', '.join(pins)});")
    return "\n".join([*head, *body, *tail, "endmodule", ""])


def models(netlist: Netlist) -> str:
    """The combinational cells that a netlist uses as Verilog modules."""
    return "\n".join(_model(netlist.library.cells[name]) for name in netlist.kinds)


def _model(cell: Cell) -> str:
    assert cell.sequential is None, f"{cell.name} keeps a state"
    lines = [f"module {cell.name} ({', '.join(cell.pins)});"]
    for pin in cell.pins.values():
        lines.append(f"  {pin.direction} {pin.name};")
        if pin.direction == "output":
            lines.append(f"  assign {pin.name} = {_expression(pin.function or '')};")
    return "\n".join([*lines, "endmodule", ""])


def _expression(function: str) -> str:
    """Liberty's operators as Verilog's: no quote behind a name, no product without a sign."""
    text = re.sub(r"(\w+)\s*'", r"!\1", function.strip().strip('"'))
    text = re.sub(r"([\w)])\s+(?=[\w(!])", r"\1 * ", text)
    found = text.replace("*", "&").replace("+", "|").replace("!", "~")
    return re.sub(r"\b([01])\b", r"1'b\1", found)
