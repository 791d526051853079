"""The AXI side alone, for cocotb: registers, Load and Store on one bus, streams as ports."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from amaranth.hdl import Module, Mux, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from bench_runner import TopPortsRunner, build, run
from opennpe.golden import catalog
from opennpe.golden.registers import COUNTERS
from opennpe.golden.spec import CoprocessorSpec
from opennpe.rtl import axi, control, load, store, verilog

TOP = "axi_side"
SPECS = {
    "one beat": catalog.EDGE_2X2,
    "two beats": replace(
        catalog.EDGE_4X4, memory=replace(catalog.EDGE_4X4.memory, bus_bits=32, burst_beats=8)
    ),
    "wide": catalog.EDGE_8X8,
}
"""What is built, by the beats of a line."""
UNITS = {"load": load, "store": store, "control": control}


class AxiSide(wiring.Component):
    """Registers, Load and Store; ``start`` clears both units.

    ``finish`` ends a run; an error ends it by itself once both units are at rest. Beats are
    counted; ``count_cycles`` counts while one of the units is busy.

    Args:
        spec: the co-processor's.
        units: modules with the classes Load, Store and Control; a bench's may hold faults.
    """

    def __init__(self, spec: CoprocessorSpec, units: Mapping[str, ModuleType]) -> None:
        self.spec, self.units = spec, units
        super().__init__(
            {
                "bus": Out(axi.master_signature(spec)),
                "control": In(axi.lite_signature()),
                "interrupt": Out(1),
                "loads": In(stream.Signature(axi.command_layout("load"))),
                "writes": Out(stream.Signature(load.write_layout(spec))),
                "stores": In(stream.Signature(axi.command_layout("store"))),
                "reads": Out(stream.Signature(axi.LINE_BITS)),
                "data": In(8 * spec.line_bytes),
                "start": Out(1),
                "finish": In(1),
                "halt": In(1),
                "load_done": Out(1),
                "load_busy": Out(1),
                "store_done": Out(1),
                "store_busy": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m, spec = Module(), self.spec
        m.submodules.load = loads = self.units["load"].Load(spec)
        m.submodules.store = stores = self.units["store"].Store(spec)
        m.submodules.registers = registers = self.units["control"].Control(spec)
        for name, member in self.bus.signature.members.items():
            unit = stores if name[0] in "awb" and not name.startswith("ar") else loads
            mine, its = getattr(self.bus, name), getattr(unit.bus, name)
            m.d.comb += mine.eq(its) if member.flow is Out else its.eq(mine)
        wiring.connect(m, wiring.flipped(self.control), registers.bus)
        wiring.connect(m, wiring.flipped(self.loads), loads.commands)
        wiring.connect(m, wiring.flipped(self.stores), stores.commands)
        wiring.connect(m, loads.writes, wiring.flipped(self.writes))
        wiring.connect(m, stores.reads, wiring.flipped(self.reads))
        busy, cause = loads.busy | stores.busy, loads.cause | stores.cause
        running = Value.cast(registers.busy)
        counted = {
            "cycles": busy,
            "beats_read": loads.beat,
            "beats_written": stores.beat,
        }
        m.d.comb += [
            stores.data.eq(self.data),
            self.start.eq(registers.start),
            self.interrupt.eq(registers.interrupt),
            registers.done.eq(running & self.finish),
            registers.error.eq(running & ~busy & cause.any()),
            registers.cause.eq(Mux(loads.cause.any(), loads.cause, stores.cause)),
            registers.culprit.eq(1),
            *(getattr(registers, f"count_{n}").eq(counted.get(n, 0)) for n in COUNTERS),
        ]
        with m.If(registers.start):
            m.d.sync += registers.busy.eq(1)
        with m.Elif(registers.done | registers.error):
            m.d.sync += registers.busy.eq(0)
        for name, unit in (("load", loads), ("store", stores)):
            m.d.comb += [
                getattr(self, f"{name}_done").eq(unit.done),
                getattr(self, f"{name}_busy").eq(unit.busy),
                unit.clear.eq(registers.start),
                unit.halt.eq(self.halt | cause.any()),
            ]
        m.d.comb += [
            loads.read_base.eq(registers.read_base),
            loads.read_limit.eq(registers.read_limit),
            stores.write_base.eq(registers.write_base),
            stores.write_limit.eq(registers.write_limit),
        ]
        return m

    @property
    def port_names(self) -> list[str]:
        """Names in Verilog."""
        members = self.signature.flatten(self)
        return ["clk", "rst", *("__".join(map(str, path)) for path, *_ in members)]


class AxiBench:
    """``bench_axi_tests.py`` on one AXI side, built.

    Attributes:
        name: in SPECS.
        folder: of the build, the logs and what the bench writes.
    """

    def __init__(
        self, name: str, folder: Path, faults: Mapping[str, ModuleType] | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.name = folder, name
        side = AxiSide(SPECS[name], {**UNITS, **(faults or {})})
        source = folder / f"{TOP}.v"
        source.write_text(verilog.convert(side, TOP))
        self.runner: TopPortsRunner = build([source], TOP, side.port_names, folder / "build")

    def run(self, sizes: Mapping[str, Any], test_filter: str | None = None) -> dict[str, int]:
        """Run the bench's tests; the cases and what the monitor saw, counted.

        Args:
            sizes: seed, and cases a test.
            test_filter: a pattern of test names; None: all of them.

        Raises:
            BenchFailure: some test failed, or none ran.
        """
        plan, counts = self.folder / "plan.json", self.folder / "counts.json"
        counts.unlink(missing_ok=True)
        plan.write_text(json.dumps({"spec": self.name, "counts": str(counts), **sizes}))
        environment = {"OPENNPE_AXI_PLAN": str(plan)}
        run(self.runner, "bench_axi_tests", TOP, self.folder / "build", environment, test_filter)
        return dict(json.loads(counts.read_text()))
