"""What surrounds a master of AXI4 with AXI4-Lite registers in cocotb benches, and judges it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import cocotb
import numpy as np
from bench_axi_monitor import LiteRules, Rules, watch
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiResp, AxiSlave
from opennpe.golden.registers import REGISTERS
from opennpe.golden.spec import CoprocessorSpec


class Outside:
    """The memory outside: bytes, and addresses that answer with an error."""

    def __init__(self, content: bytes) -> None:
        self.bytes = bytearray(content)
        self.faults: set[int] = set()

    async def read(self, address: int, length: int) -> bytes:
        self.refuse(address, length)
        return bytes(self.bytes[address : address + length])

    async def write(self, address: int, data: bytes) -> None:
        self.refuse(address, len(data))
        self.bytes[address : address + len(data)] = data

    def refuse(self, address: int, length: int) -> None:
        if self.faults.intersection(range(address, address + length)):
            raise OSError("planted")

    @property
    def array(self) -> np.ndarray[Any, Any]:
        return np.frombuffer(bytes(self.bytes), dtype=np.uint8)


def pauses(rng: np.random.Generator, share: float) -> Iterator[bool]:
    """Whether to pause in each cycle: mostly in stretches."""
    while True:
        paused = rng.random() < share
        yield from [paused] * int(rng.integers(1, 6))


class Surroundings:
    """Memory, host and judge of a design with ports ``bus``, ``control`` and ``interrupt``.

    Attributes:
        outside: the memory; random bytes at first.
        rules: the judge of ``bus``; it holds it to ``windows`` too.
        lite_rules: the judge of ``control``.
        windows: (base, limit) of reads, "ar", and writes, "aw".
        slowness: share of the cycles in which a channel idles.
    """

    def __init__(
        self, dut: Any, spec: CoprocessorSpec, size: int, rng: np.random.Generator
    ) -> None:
        self.dut, self.edge, self.rng = dut, RisingEdge(dut.clk), rng
        self.outside = Outside(rng.bytes(size))
        self.windows: Mapping[str, tuple[int, int]] = {}
        self.rules = Rules(
            spec.memory.bus_bits // 8,
            spec.memory.burst_beats,
            spec.memory.bursts_in_flight,
            lambda: self.windows,
        )
        self.lite_rules = LiteRules()
        self.slowness = 0.0

    async def attach(self, slowness: float) -> None:
        """Clock, memory, host, a reset, and the judge."""
        dut = self.dut
        dut.rst.value = 1
        Clock(dut.clk, 2, unit="ns").start()
        self.slave = AxiSlave(
            AxiBus.from_prefix(dut, "bus_"), dut.clk, dut.rst, target=self.outside
        )
        self.host = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "control_"), dut.clk, dut.rst)
        sides = (self.slave, self.host)
        for side in (x for pair in sides for x in (pair.write_if, pair.read_if)):
            side.log.setLevel("WARNING")
        self.pause(slowness)
        await self.reset()
        cocotb.start_soon(watch(dut, self.edge, self.rules, "bus__"))
        cocotb.start_soon(watch(dut, self.edge, self.lite_rules, "control__"))

    def pause(self, share: float) -> None:
        """Random idles on every channel of the bus."""
        self.slowness = share
        read, write = self.slave.read_if, self.slave.write_if
        channels = (read.ar_channel, read.r_channel, write.aw_channel, write.w_channel,
                    write.b_channel)  # fmt: skip
        for channel in channels:
            channel.set_pause_generator(pauses(self.rng, share))

    async def reset(self) -> None:
        self.dut.rst.value = 1
        for _ in range(3):
            await self.edge
        self.dut.rst.value = 0
        await self.edge

    async def set_windows(self) -> None:
        """The registers say what ``windows`` says."""
        for way, channel in (("read", "ar"), ("write", "aw")):
            for end, value in zip(("base", "limit"), self.windows[channel], strict=True):
                await self.put(f"{way}_{end}", value)

    async def put(self, name: str, value: int) -> None:
        answer = await self.host.write(REGISTERS[name], value.to_bytes(4, "little"))
        assert answer.resp == AxiResp.OKAY, name

    async def get(self, name: str) -> int:
        answer = await self.host.read(REGISTERS[name], 4)
        assert answer.resp == AxiResp.OKAY, name
        return int.from_bytes(answer.data, "little")
