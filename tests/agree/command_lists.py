"""Random command lists: whole runs of the co-processor that no compiler would write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from command_kinds import add_kind
from opennpe.golden.commands import KINDS, PARAMETER_LINES, TARGETS, WIDEN, Command, encode
from opennpe.golden.formats import ENGINE_FORMATS, get
from opennpe.golden.spec import UNIT_BYTES, CoprocessorSpec

NARROW, PAGE = 2, 4096


@dataclass(frozen=True, eq=False)
class Case:
    """A command list in its memory.

    Attributes:
        memory: uint8, the memory before the run.
        commands: the list; ``address`` and ``lines`` as the registers take them.
        outputs: bytes from here on are written.
    """

    memory: np.ndarray
    commands: list[Command]
    address: int
    lines: int
    outputs: int


def case(
    spec: CoprocessorSpec, rng: np.random.Generator, rounds: int = 3, illegal: bool = False
) -> Case:
    """``rounds`` execs with their loads, fills and stores, overlapping where memories allow it.

    ``illegal``: there may be execs of kinds that the spec lacks.
    """
    return _Builder(spec, rng, illegal).build(rounds)


class _Builder:
    def __init__(self, spec: CoprocessorSpec, rng: np.random.Generator, illegal: bool) -> None:
        self.spec, self.rng, self.illegal = spec, rng, illegal
        self.commands: list[Command] = []
        self.counts = dict.fromkeys(("load", "fill", "exec", "store"), 0)
        self.data: list[np.ndarray] = []
        self.base = 0

    def pick(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def add(self, op: str, waits: dict[str, int], **values: int) -> int:
        """Append a command; how many of its unit there are now."""
        named = {f"wait_{unit}": count for unit, count in waits.items()}
        self.commands.append(Command(op, {**named, **values}))
        if op in self.counts:
            self.counts[op] += 1
        return self.counts.get(op, 0)

    def place(self, words: np.ndarray) -> int:
        """Put words into the image, at times not where the last ones end; their address."""
        line = self.spec.line_bytes
        data = np.ascontiguousarray(words, dtype="<u2").view(np.uint8).reshape(-1)
        address = self.base
        self.data.append(data)
        gap = line * self.pick(0, 3)
        self.data.append(np.zeros(gap, dtype=np.uint8))
        self.base += len(data) + gap
        return address

    def codes(self, name: str, lines: int, nan: bool) -> np.ndarray:
        """Lines of random codes of a format, as words."""
        words = self.rng.integers(0, 1 << 16, (lines, self.spec.line_words), dtype=np.uint16)
        fmt = get(name)
        if fmt.nan_code is None:
            return words
        bits, keep = int(fmt.bits), nan and self.pick(0, 3) == 0
        for lane in range(16 // bits):
            own = words >> (bits * lane) & ((1 << bits) - 1)
            bad = (own == fmt.nan_code) & (not keep or self.rng.random(own.shape) < 0.98)
            words = np.where(bad, words ^ np.uint16(fmt.nan_code << (bits * lane)), words)
        return words.astype(np.uint16)

    def build(self, rounds: int) -> Case:
        for turn in range(rounds):
            if self.pick(0, 1):
                add_kind(self, turn % 2)
            else:
                self.round(turn % 2)
        self.add("end", dict(self.counts))
        listed = np.frombuffer(b"".join(map(encode, self.commands)), dtype=np.uint8)
        line = self.spec.line_bytes
        half = self.spec.memory.command_units * UNIT_BYTES // 2
        assert len(listed) <= half, "the list must fit the first half of the command memory"
        address = -(-self.base // line) * line
        image = np.concatenate([*self.data, np.zeros(address - self.base, np.uint8), listed])
        outputs = -(-len(image) // PAGE) * PAGE - line * self.pick(0, 2)
        outputs = max(outputs, -(-len(image) // line) * line)
        size = outputs + self.out_bytes
        memory = np.zeros(size, dtype=np.uint8)
        memory[: len(image)] = image
        fixed = [
            Command(c.op, {**c.values, "address": c["address"] + outputs}) if c.op == "store" else c
            for c in self.commands
        ]
        listed = np.frombuffer(b"".join(map(encode, fixed)), dtype=np.uint8)
        memory[address : address + len(listed)] = listed
        return Case(memory, fixed, address, len(listed) // line, outputs)

    out_bytes = 0

    def round(self, side: int) -> None:
        spec, rng = self.spec, self.rng
        memory = spec.memory
        mode_a = self.pick(0, 3)
        mode_b = self.pick(0, 1) if mode_a < NARROW else mode_a
        names = [ENGINE_FORMATS[mode_a], ENGINE_FORMATS[mode_b]]
        lanes = 16 // get(names[0]).bits
        out = mode_a if self.pick(0, 1) else self.pick(0, 3)
        if spec.line_words * lanes * get(ENGINE_FORMATS[out]).bits < 16:
            out = mode_a
        out_lanes = 16 // get(ENGINE_FORMATS[out]).bits
        nan = ENGINE_FORMATS[out] != "fp4"
        kind = self.pick(0, KINDS.index("max"))
        dense = KINDS[kind] == "dense"
        folds = [f for f in (0, 1, 2) if 1 << f <= min(4, spec.array.columns, lanes)]
        fold = int(rng.choice(folds)) if lanes == out_lanes else 0
        ky, kx = self.pick(1, 3), self.pick(1, 3)
        blocks = self.pick(1, 2)
        words = self.pick(1, 3) if dense else 1
        last_words = self.pick(1, words)
        last_elements = self.pick(1, lanes) if dense else 1
        steps = words * lanes if dense else 1
        sums = (
            ky
            * kx
            * ((blocks - 1) * steps + ((last_words - 1) * lanes + last_elements if dense else 1))
        )
        if KINDS[kind] == "max":
            sums = 1
        tiles = self.pick(1, 3)
        height, width = self.pick(1, 6), self.pick(1, 6)
        outputs = self.pick(1, 5 * spec.array.rows)
        half = memory.buffer_lines // 2
        source = self.pick(0, half // 4) + side * half
        line_base = self.pick(0, half // 8) + side * half + half // 2
        x_lines = min(memory.operand_lines // 2, self.pick(4, 40))
        widen = int(rng.choice([0, *(i for i, w in enumerate(WIDEN) if w and w[1] == names[0])]))
        source_name = WIDEN[widen][0] if WIDEN[widen] else names[0]
        factor = get(names[0]).bits // get(source_name).bits
        runs, inner = self.pick(1, 3), self.pick(1, 2)
        run = max(1, x_lines // factor // (runs * inner))
        before = dict(self.counts)
        # Data into the buffer: over lines that the round before last has done with.
        at = self.place(self.codes(source_name, run * runs * inner + 4, nan))
        lines = run * runs * inner + 4
        loaded = self.add(
            "load",
            {"fill": max(0, before["fill"] - 1), "store": max(0, before["store"] - 1)},
            target=TARGETS.index("buffer"),
            line=source,
            lines=lines,
            address=at,
        )
        filled = self.add(
            "fill",
            {"load": loaded, "exec": before["exec"]},
            widen=widen,
            source=source,
            line=self.pick(0, memory.operand_lines - 1),
            run=run,
            inner=inner,
            inner_stride=run,
            outer=runs,
            outer_stride=run * inner,
        )
        w_widen = int(rng.choice([0, *(i for i, w in enumerate(WIDEN) if w and w[1] == names[1])]))
        w_name = WIDEN[w_widen][0] if WIDEN[w_widen] else names[1]
        w_factor = get(names[1]).bits // get(w_name).bits
        w_lines = -(-sums * tiles // w_factor)
        w_at = self.place(self.codes(w_name, w_lines, False))
        weight_line = self.pick(0, memory.weight_lines - 1)
        self.add(
            "load",
            {"exec": before["exec"]},
            target=TARGETS.index("weights"),
            widen=w_widen,
            line=weight_line,
            lines=w_lines,
            address=w_at,
        )
        parameter = self.pick(0, memory.parameter_tiles - tiles)
        p_at = self.place(self.parameters(tiles, lanes))
        ready = self.add(
            "load",
            {"exec": before["exec"]},
            target=TARGETS.index("parameters"),
            line=parameter,
            lines=PARAMETER_LINES * tiles,
            address=p_at,
        )
        table = int(out_lanes > 1 and self.pick(0, 4) == 0)
        if table:
            t_at = self.place(self.table(out))
            ready = self.add(
                "load",
                {"exec": before["exec"]},
                target=TARGETS.index("table"),
                lines=256,
                address=t_at,
            )
        low, high = sorted(
            (int(c) for c in rng.integers(0, 1 << get(ENGINE_FORMATS[out]).bits, 2)),
            key=lambda c: int(get(ENGINE_FORMATS[out]).order_key(np.array(c))),
        )
        ratio = lanes / out_lanes
        line_count = -(-tiles // round(1 / ratio)) if ratio < 1 else tiles * max(1, round(ratio))
        out_tile = outputs * max(1, round(ratio))
        stride_x, stride_y = self.pick(1, 2), self.pick(1, 2)
        across = self.pick(1, 6)
        pixels = spec.array.rows << fold
        part = spec.line_words >> fold
        base = self.pick(0, 30) if dense else part * self.pick(0, 8)

        def step(most: int) -> int:
            return self.pick(0, most) if dense else part * self.pick(0, max(1, most // 4))

        pixel_step = step(6)
        left = self.pick(0, 2)
        done = self.add(
            "exec", {"fill": filled, "load": ready, "store": max(0, before["store"] - 1)},
            kind=kind, mode_a=mode_a, mode_b=mode_b, out=out, fold=fold, begin=1, finish=1,
            blocks=blocks, kernel_y=ky, kernel_x=kx, words=words, last_words=last_words,
            last_elements=last_elements, block_step=step(20), tap_y=step(20), tap_x=step(4),
            dilation_y=self.pick(1, 2), dilation_x=self.pick(1, 2), height=height, width=width,
            base=base, iy=-self.pick(0, 2), ix=-left, stride_y=stride_y, stride_x=stride_x,
            pixel_step=pixel_step, limit=across * stride_x - left, span=across * stride_x,
            wrap_step=step(16), tile_y=pixels // across * stride_y,
            tile_x=pixels % across * stride_x, tile_step=step(30), tiles=tiles,
            channel_step=step(16), weight_line=weight_line, parameter=parameter, lines=outputs,
            out_line=line_base, out_tile=out_tile, out_block=outputs, clamp=self.pick(0, 1),
            low=low, high=high, table=table,
        )  # fmt: skip
        total = outputs * line_count
        assert line_base + total <= memory.buffer_lines
        if ratio < 1:
            # Parts of lines that no tile writes hold what was there: write them all.
            pass
        self.add("store", {"exec": done}, line=line_base, lines=total, address=self.out_bytes)
        self.out_bytes += (total + self.pick(0, 2)) * spec.line_bytes

    def parameters(self, tiles: int, lanes: int) -> np.ndarray:
        """Biases and shifts of channel tiles, (tiles * lines, columns)."""
        columns = self.spec.line_words
        words = np.zeros((tiles, PARAMETER_LINES, columns), dtype=np.uint16)
        share = 8 // lanes
        for tile in range(tiles):
            for column in range(columns):
                for lane in range(lanes):
                    bias = self.pick(-(1 << 12), 1 << 12)
                    for i in range(share):
                        words[tile, lane * share + i, column] = bias >> (16 * i) & 0xFFFF
                    words[tile, 8 + lane, column] = self.pick(-8, 4) & 0xFFFF
        return words.reshape(-1, columns)

    def table(self, out: int) -> np.ndarray:
        """A random table."""
        entries = self.rng.integers(0, 1 << get(ENGINE_FORMATS[out]).bits, (256, 1))
        return np.repeat(entries, self.spec.line_words, axis=1).astype(np.uint16)


def windows(found: Case) -> dict[str, Any]:
    """What the registers are told of a case."""
    return {
        "read_base": 0,
        "read_limit": found.outputs,
        "write_base": found.outputs,
        "write_limit": len(found.memory),
    }
