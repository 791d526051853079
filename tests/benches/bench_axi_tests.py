"""cocotb tests of the AXI side against cocotbext-axi: bursts, boundaries, idles, errors, resets.

Run by ``test_axi.py``, which passes a plan in the file that OPENNPE_AXI_PLAN names. In every test
the monitor judges every cycle of the bus.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from bench_axi_around import Surroundings, pauses
from bench_axi_cycles import expected_lines
from bench_axi_top import SPECS
from cocotbext.axi import AxiResp
from opennpe.golden.commands import PARAMETER_LINES, TARGETS, WIDEN, Command, encode
from opennpe.golden.registers import CAUSES, COUNTERS, REGISTERS, WINDOW_BYTES, capabilities
from opennpe.rtl import axi
from opennpe.rtl.load import write_layout

PLAN: dict[str, Any] = json.loads(Path(os.environ["OPENNPE_AXI_PLAN"]).read_text())
SPEC = SPECS[PLAN["spec"]]
SIZE = SPEC.line_bytes
BYTES = 1 << 15
BUFFER_LINES = 256
"""Of the buffer that stores read from."""
PATIENCE = 20_000
"""Cycles in which a bench's job has to come to its end."""
COUNTS: dict[str, int] = {}
LINES = {"buffer": SPEC.memory.buffer_lines, "weights": SPEC.memory.weight_lines,
         "parameters": SPEC.memory.parameter_tiles, "table": 256}  # fmt: skip


class Side(Surroundings):
    """The design under test with everything around it."""

    def __init__(self, dut: Any, seed: int) -> None:
        super().__init__(dut, SPEC, BYTES, np.random.default_rng([PLAN["seed"], seed]))
        self.buffer = self.rng.integers(0, 256, (BUFFER_LINES, SIZE), dtype=np.uint8)
        self.windows = {"ar": (0, BYTES), "aw": (0, BYTES)}
        self.lines: list[tuple[int, ...]] = []
        self.done = {"load": 0, "store": 0}

    async def begin(self, slowness: float) -> None:
        """Clock, reset, surroundings; windows open."""
        dut = self.dut
        for name in ("loads__valid", "loads__payload", "stores__valid", "stores__payload",
                     "writes__ready", "reads__ready", "data", "finish", "halt"):  # fmt: skip
            getattr(dut, name).value = 0
        await self.attach(slowness)
        cocotb.start_soon(self._inside())
        await self.open()

    async def open(self) -> None:
        """Set the windows and start."""
        await self.set_windows()
        await self.put("control", 1)

    async def _inside(self) -> None:
        """The memories inside: take lines, answer reads in the cycle after."""
        dut, ready = self.dut, {"writes": 0, "reads": 0}
        layout = write_layout(SPEC)
        fields = [(layout[n].offset, layout[n].width) for n in ("target", "line", "lane", "data")]
        while True:
            await self.edge
            if ready["writes"] and dut.writes__valid.value:
                word = int(dut.writes__payload.value)
                self.lines.append(tuple(word >> at & (1 << bits) - 1 for at, bits in fields))
            line = self.rng.bytes(SIZE)
            if ready["reads"] and dut.reads__valid.value:
                line = self.buffer[int(dut.reads__payload.value) % BUFFER_LINES].tobytes()
            for unit in self.done:
                self.done[unit] += int(getattr(dut, f"{unit}_done").value)
            for name in ready:
                ready[name] = int(self.rng.random() >= self.slowness)
                getattr(dut, f"{name}__ready").value = ready[name]
            dut.data.value = int.from_bytes(line, "little")

    async def send(self, op: str, commands: list[dict[str, int]]) -> None:
        """Hand commands to a unit."""
        stream, mask = f"{op}s", (1 << axi.command_layout(op).size) - 1
        valid, ready, payload = (
            getattr(self.dut, f"{stream}__{x}") for x in ("valid", "ready", "payload")
        )
        for values in commands:
            payload.value = int.from_bytes(encode(Command(op, values)), "little") & mask
            valid.value = 1
            await self.edge
            while not ready.value:
                await self.edge
            valid.value = 0
            for _ in range(int(self.rng.integers(4)) if self.slowness else 0):
                await self.edge

    async def rest(self, load: int = 0, store: int = 0) -> None:
        """Until so many commands are done, and nothing is under way.

        Raises:
            AssertionError: it takes too long.
        """
        for _ in range(PATIENCE):
            await self.edge
            busy = self.dut.load_busy.value or self.dut.store_busy.value
            if self.done["load"] >= load and self.done["store"] >= store and not busy:
                break
        else:
            raise AssertionError(f"no end: {self.done} done of {load} loads, {store} stores")
        assert self.rules.quiet

    # -- what is asked ---------------------------------------------------------------------------
    def load(self) -> dict[str, int]:
        """A legal load, often next to or across 4 KiB."""
        rng = self.rng
        target = str(rng.choice(list(LINES)))
        pair = int(rng.integers(len(WIDEN))) if target in ("buffer", "weights") else 0
        lines = int(rng.integers(1, 40))
        if target == "parameters":
            lines = PARAMETER_LINES * int(rng.integers(1, 4))
        line = int(rng.integers(LINES[target] - 4 * lines)) if target != "parameters" else 5
        if target == "weights":
            line = LINES[target] - int(rng.integers(1, 8))  # around the ring's end
        return {"target": TARGETS.index(target), "widen": pair, "line": line, "lines": lines,
                "address": self.address(lines)}  # fmt: skip

    def address(self, lines: int) -> int:
        if self.rng.random() < 0.5:
            page = 4096 * int(self.rng.integers(1, BYTES // 4096 - 1))
            return page - SIZE * int(self.rng.integers(0, lines + 1))
        return int(self.rng.integers(BYTES // SIZE - lines)) * SIZE

    def store(self, at: int) -> dict[str, int]:
        """A legal store; ``at`` keeps those of one test apart: 4 KiB each."""
        lines = int(self.rng.integers(1, min(64, BUFFER_LINES)))
        line = int(self.rng.integers(BUFFER_LINES - lines))
        room = 4096 // SIZE - lines
        return {"line": line, "lines": lines,
                "address": 4096 * at + 2048 + SIZE * int(self.rng.integers(room))}  # fmt: skip

    async def loads(self, count: int) -> None:
        """Random loads, judged."""
        commands = [self.load() for _ in range(count)]
        expected = [x for c in commands for x in expected_lines(SPEC, c, self.outside.array)]
        self.lines.clear()
        before = self.done["load"]
        await self.send("load", commands)
        await self.rest(load=before + count)
        assert self.lines == expected, f"{len(self.lines)} lines of {len(expected)}"
        case("loads", count)

    async def stores(self, count: int) -> None:
        """Random stores, judged, one after the other over each other's bytes."""
        commands = [self.store(i % (BYTES // 4096 - 2)) for i in range(count)]
        expected = self.outside.array.copy()
        for c in commands:
            end = c["address"] + c["lines"] * SIZE
            expected[c["address"] : end] = self.buffer[c["line"] :][: c["lines"]].reshape(-1)
        before = self.done["store"]
        await self.send("store", commands)
        await self.rest(store=before + count)
        assert np.array_equal(self.outside.array, expected), "other bytes"
        case("stores", count)

    def finish(self) -> None:
        """Add what the monitor saw."""
        assert self.lite_rules.quiet
        for what, count in self.rules.seen.items():
            case(what, count)
        for what, count in self.lite_rules.seen.items():
            case(f"lite {what}", count)


def case(what: str, count: int = 1) -> None:
    COUNTS[what] = COUNTS.get(what, 0) + count
    Path(PLAN["counts"]).write_text(json.dumps(COUNTS))


@cocotb.test()
@cocotb.parametrize(slowness=[0.0, 0.3, 0.7])
async def loads_bring_every_line(dut: Any, slowness: float) -> None:
    side = Side(dut, 1)
    await side.begin(slowness)
    for _ in range(3):
        await side.loads(PLAN["cases"])
    assert await side.get("beats_read") == side.rules.seen["r beats"]
    side.finish()


@cocotb.test()
@cocotb.parametrize(slowness=[0.0, 0.3, 0.7])
async def stores_bring_every_line(dut: Any, slowness: float) -> None:
    side = Side(dut, 2)
    await side.begin(slowness)
    for _ in range(3):
        await side.stores(PLAN["cases"])
    assert await side.get("beats_written") == side.rules.seen["w beats"]
    side.finish()


@cocotb.test()
async def both_at_once(dut: Any) -> None:
    """Stores write what no load reads."""
    side = Side(dut, 3)
    await side.begin(0.4)
    loads = [{**side.load(), "address": 16384} for _ in range(PLAN["cases"])]
    stores = [side.store(i % 2) for i in range(PLAN["cases"])]
    expected = [x for c in loads for x in expected_lines(SPEC, c, side.outside.array)]
    one = cocotb.start_soon(side.send("load", loads))
    await side.send("store", stores)
    await one
    await side.rest(load=len(loads), store=len(stores))
    assert side.lines == expected
    last = stores[-1]
    end = last["address"] + last["lines"] * SIZE
    written = side.buffer[last["line"] :][: last["lines"]].tobytes()
    assert side.outside.bytes[last["address"] : end] == written
    case("both", 2 * len(loads))
    side.finish()


@cocotb.test()
async def every_place_around_4_kib(dut: Any) -> None:
    """Transfers that end before, at and behind the boundary."""
    side = Side(dut, 4)
    await side.begin(0.1)
    longest = SPEC.burst_beats // SPEC.beats_per_line
    offsets = [*range(longest + 2), 2 * longest]
    for before in offsets:
        address = 8192 - SIZE * before
        load = {"target": 0, "line": 3, "lines": longest + 1, "address": address}
        expected = expected_lines(SPEC, load, side.outside.array)
        side.lines.clear()
        counts = dict(side.done)
        await side.send("load", [load])
        await side.rest(load=counts["load"] + 1)
        assert side.lines == expected
        store = {"line": before, "lines": longest + 1, "address": address}
        await side.send("store", [store])
        await side.rest(store=counts["store"] + 1)
        end = address + SIZE * (longest + 1)
        written = side.buffer[before : before + longest + 1].tobytes()
        assert side.outside.bytes[address:end] == written
        case("boundaries")
    assert side.rules.seen["ar at 4 KiB"] > len(offsets) / 2
    assert side.rules.seen["aw at 4 KiB"] > len(offsets) / 2
    side.finish()


@cocotb.test()
@cocotb.parametrize(op=["load", "store"])
async def an_error_response_stops_the_unit(dut: Any, op: str) -> None:
    side = Side(dut, 5)
    await side.begin(0.3)
    cause = CAUSES.index(f"an error response to a {'read' if op == 'load' else 'write'}")
    await side.put("interrupt", 1)
    for _ in range(PLAN["cases"]):
        lines = int(side.rng.integers(8, 60))
        address = side.address(lines) % (BYTES - 64 * SIZE)
        fault = int(side.rng.integers(lines)) * SIZE
        side.outside.faults = {address + fault}
        done, before = dict(side.done), side.outside.array.copy()
        side.lines.clear()
        command = {"line": 1, "lines": lines, "address": address}
        await side.send(op, [command])
        for _ in range(PATIENCE):
            await side.edge
            if dut.interrupt.value:
                break
        assert dut.interrupt.value, "no interrupt"
        assert await side.get("status") == 0b1100 and await side.get("cause") == cause
        assert await side.get("culprit") == 1
        assert side.done == done and side.rules.quiet
        if op == "load":
            whole = expected_lines(SPEC, {**command, "target": 0}, before)
            assert side.lines == whole[: fault // SIZE]
        else:
            # Nothing behind the bursts under way when the error came.
            end = address + lines * SIZE
            changed = np.flatnonzero(side.outside.array != before)
            assert not len(changed) or address <= changed[0] <= changed[-1] < end
        side.outside.faults = set()
        await side.put("control", 1)
        assert await side.get("status") == 1 and await side.get("cause") == 0
        assert not dut.interrupt.value
        await (side.loads(2) if op == "load" else side.stores(2))
        case(f"{op} errors")
    assert side.rules.seen["r errors" if op == "load" else "b errors"] >= PLAN["cases"]
    side.finish()


@cocotb.test()
async def what_leaves_the_window_is_refused(dut: Any) -> None:
    side = Side(dut, 6)
    await side.begin(0.2)
    base, limit = 4096, 4096 + 128 * SIZE
    side.windows = {"ar": (base, limit), "aw": (base, limit)}
    await side.open()
    await side.put("control", 1)
    places = [(base - SIZE, 2), (base - 3 * SIZE, 2), (limit - SIZE, 2), (limit, 1), (0, 1)]
    for op, text in (("load", "a read outside the read"), ("store", "a write outside the write")):
        for address, lines in places:
            await side.put("control", 3)
            seen = dict(side.rules.seen)
            await side.send(op, [{"line": 1, "lines": lines, "address": address}])
            for _ in range(20):
                await side.edge
            assert await side.get("status") == 0b100
            assert await side.get("cause") == CAUSES.index(f"{text} window")
            bursts = ("ar bursts", "aw bursts", "r beats", "w beats")
            assert all(side.rules.seen.get(x) == seen.get(x) for x in bursts)
            case("refusals")
    await side.put("control", 1)
    done = dict(side.done)
    await side.send("load", [{"line": 1, "lines": 128, "address": base}])
    await side.send("store", [{"line": 1, "lines": 128, "address": base}])
    await side.rest(load=done["load"] + 1, store=done["store"] + 1)
    side.finish()


@cocotb.test()
@cocotb.parametrize(op=["load", "store"])
async def after_a_reset_in_mid_burst_a_job_is_clean(dut: Any, op: str) -> None:
    side = Side(dut, 7)
    await side.begin(0.2)
    for _ in range(PLAN["cases"]):
        beats = "r beats" if op == "load" else "w beats"
        command = {"line": 0, "lines": 100, "address": 4096}
        task = cocotb.start_soon(side.send(op, [command] * 3))
        until = side.rules.seen.get(beats, 0) + int(side.rng.integers(2, 60))
        while side.rules.seen.get(beats, 0) < until or (
            not side.rules.reads and not side.rules.writes
        ):
            await side.edge
        task.cancel()
        dut.loads__valid.value = dut.stores__valid.value = 0
        await side.reset()
        assert await side.get("status") == 0 and await side.get("read_limit") == 0
        await side.open()
        await (side.loads(3) if op == "load" else side.stores(3))
        case(f"{op} resets")
    side.finish()


@cocotb.test()
@cocotb.parametrize(share=[0.0, 0.6])
async def registers_are_as_golden_lists_them(dut: Any, share: float) -> None:
    side = Side(dut, 8)
    await side.begin(0.0)
    read, write = side.host.read_if, side.host.write_if
    for channel in (read.ar_channel, read.r_channel, write.aw_channel, write.w_channel,
                    write.b_channel):  # fmt: skip
        channel.set_pause_generator(pauses(side.rng, share))
    fixed = capabilities(SPEC)
    for name, value in fixed.items():
        assert await side.get(name) == value, name
    settings = ("program", "program_lines", "read_base", "read_limit", "write_base", "write_limit")
    for name in settings:
        word = bytes(side.rng.bytes(4))
        await side.put(name, 0)
        for byte in range(4):
            await side.host.write(REGISTERS[name] + byte, word[byte : byte + 1])
            held = int.from_bytes(word[: byte + 1], "little")
            assert await side.get(name) == held, "byte strobes"
        case("settings")
    counters = {REGISTERS[name] + 4 * i for name in COUNTERS for i in range(2)}
    readable = {*REGISTERS.values(), *counters}
    writable = {REGISTERS[name] for name in (*settings, "control", "interrupt")}
    for address in range(0, WINDOW_BYTES, 4):
        answer = await side.host.read(address, 4)
        assert answer.resp == (AxiResp.OKAY if address in readable else AxiResp.SLVERR)
        assert address in readable or not any(answer.data)
        before = answer.data
        if address not in writable:
            answer = await side.host.write(address, b"\xff\xff\xff\xff")
            assert answer.resp == AxiResp.SLVERR
            if address not in counters:
                assert (await side.host.read(address, 4)).data == before
        case("places")
    # Started by begin(): a start while busy does nothing, finish ends it.
    assert await side.get("status") == 1
    await side.put("interrupt", 1)
    await side.put("control", 1)
    assert await side.get("status") == 1
    dut.finish.value = 1
    await side.edge
    dut.finish.value = 0
    assert await side.get("status") == 0b1010 and dut.interrupt.value
    await side.put("control", 2)
    assert await side.get("status") == 0 and not dut.interrupt.value
    case("registers")
    side.finish()
