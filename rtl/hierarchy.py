"""Blocks as Verilog modules with their own port names, each written once.

Amaranth names the ports of a submodule after whatever nets cross its border. Converted on its own
a block keeps the names of its signature, so a design becomes Verilog block by block: to the
``Blocks`` platform a placed block is an instance of a module that is converted beside it.
"""

from __future__ import annotations

import re
from typing import Any

from amaranth.back import rtlil
from amaranth.hdl import ClockSignal, Instance, Module, ResetSignal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In

__all__ = ["Blocks", "place"]

CLOCKED = re.compile(r"^\s*wire width 1 input \d+\s+\\clk$", re.MULTILINE)
"""In the RTLIL of a block that has registers, and so a clock and a reset."""


class Blocks:
    """The platform under which a design is converted to modules.

    Attributes:
        prefix: what module names begin with.
        texts: RTLIL of every block placed so far, by module name.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.texts: dict[str, str] = {}

    def instance(self, block: Any, label: str) -> Instance:
        """The block as an instance; blocks of one name are one module.

        Wires outside that it drives are called by ``label`` and the port.
        """
        name = f"{self.prefix}_{block.module_name}"
        if name in self.texts:
            # Amaranth warns of a block that is never elaborated; once a module is enough.
            block._MustUse__used = True
        else:
            self.texts[name] = ""
            self.texts[name] = rtlil.convert(block, name=name, platform=self, emit_src=False)
        ports: dict[str, Value] = {}
        if CLOCKED.search(self.texts[name]):
            ports = {"i_clk": ClockSignal(), "i_rst": ResetSignal()}
        for path, member, value in block.signature.flatten(block):
            port = "__".join(map(str, path))
            wire = Value.cast(value)
            entering = member.flow is In
            # A wire without a name takes that of what drives it: the register's.
            wire.name = "" if entering else f"{label}_{port}"
            ports[f"{'i' if entering else 'o'}_{port}"] = wire
        return Instance(name, **ports)


def place(m: Module, platform: Any, name: str, block: wiring.Component) -> None:
    """Make a block a submodule: its gates, or an instance of its module.

    Its registers, if it has any, belong to the domain "sync".
    """
    m.submodules[name] = platform.instance(block, name) if isinstance(platform, Blocks) else block
