"""Drives the engine's two streams from arrays, one Python step a clock cycle.

The speed of a bench is the number of values that cross between Python and the simulator, so a
payload crosses whole, as one packed value, and only when a handshake makes it change or count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from bench_batch import FORMATS, LANES, Batch
from bench_expected import Expected
from cocotb.triggers import RisingEdge
from numpy.typing import NDArray

HANG = 5_000
"""Cycles without any handshake after which a bench gives the engine up."""

GAPS = ("never", "random", "bursts", "mostly")


class ProtocolError(AssertionError):
    """A stream broke its own rules: what changed, when."""


class Mismatch(AssertionError):
    """The engine's results are not golden's: the first one that differs, in hex."""


@dataclass(frozen=True)
class Field:
    """Where a field lies in a packed payload."""

    offset: int
    width: int

    def of(self, payloads: NDArray[np.int64]) -> NDArray[np.int64]:
        """The field of every payload."""
        return (payloads >> self.offset) & ((1 << self.width) - 1)


@dataclass(frozen=True)
class Layout:
    """Fields of the two payloads, low bits first, and their widths."""

    words: dict[str, Field]
    results: dict[str, Field]
    words_width: int


def packed(layout: Layout, batch: Batch, rng: np.random.Generator) -> Iterator[str]:
    """The batch's word payloads as strings of binary digits, highest bit first.

    What the engine has no business with is noise: the bias of words that are not a sum's first,
    shift and result format of those that are not its last, shifts of lanes the mode lacks.
    """
    step = 1 << 15
    for begin in range(0, batch.words, step):
        yield from _packed_part(layout, batch, begin, min(begin + step, batch.words), rng)


def _packed_part(
    layout: Layout, batch: Batch, begin: int, end: int, rng: np.random.Generator
) -> Iterator[str]:
    word = np.arange(begin, end)
    of = np.searchsorted(batch.start, word, side="right") - 1
    first, last = word == batch.start[of], word + 1 == batch.start[of + 1]
    width = layout.words_width
    bits = rng.integers(0, 2, (end - begin, width), dtype=np.uint8)
    fields = {
        "a": batch.words_a[word],
        "b": batch.words_b[word],
        "mode_a": batch.mode_a[of],
        "mode_b": batch.mode_b[of],
        "first": first,
        "last": last,
    }
    for name, value in fields.items():
        _put(bits, layout.words[name], value)
    _put(bits, layout.words["out"], batch.out[of], last)
    bias, half = layout.words["bias"], 64
    for part in range(bias.width // half):
        _put(bits, Field(bias.offset + part * half, half), batch.bias[of, part], first)
    shift = layout.words["shift"]
    each = shift.width // LANES
    lanes = batch.lanes[of]
    for lane in range(LANES):
        place = Field(shift.offset + lane * each, each)
        _put(bits, place, batch.shift[of, lane].astype(np.int64), last & (lane < lanes))
    text = (bits[:, ::-1] + ord("0")).tobytes().decode("ascii")
    for i in range(end - begin):
        yield text[i * width : (i + 1) * width]


def _put(
    bits: NDArray[np.uint8],
    place: Field,
    value: NDArray[Any],
    where: NDArray[np.bool_] | None = None,
) -> None:
    """Bits of ``value`` in their place, in the rows ``where``, or in all."""
    rows = slice(None) if where is None else where
    chosen = value[rows].astype(np.uint64)
    shifts = np.arange(place.width, dtype=np.uint64)
    bits[rows, place.offset : place.offset + place.width] = chosen[:, None] >> shifts & np.uint64(1)


def gaps(kind: str, rng: np.random.Generator) -> NDArray[np.bool_] | None:
    """Cycles in which a side of a stream holds back, to be repeated; None: it never does."""
    size = 4096
    if kind == "never":
        return None
    if kind == "random":
        return rng.random(size) < 0.3
    if kind == "mostly":
        return rng.random(size) < 0.9
    lengths = rng.integers(1, 40, size)
    return np.repeat(np.arange(size) % 2 == 1, lengths)[:size]


class Harness:
    """The engine's streams under a clock; ``cycles`` counts all that were driven."""

    def __init__(
        self, dut: Any, layout: Layout, rng: np.random.Generator, edge: Any = None
    ) -> None:
        self.dut = dut
        self.layout = layout
        self.rng = rng
        self.cycles = 0
        self.edge = RisingEdge(dut.clk) if edge is None else edge

    async def reset(self, cycles: int = 2) -> None:
        """Hold reset; nothing is offered or taken meanwhile."""
        self.dut.words__valid.value = 0
        self.dut.results__ready.value = 0
        self.dut.rst.value = 1
        for _ in range(cycles):
            await self.edge
        self.dut.rst.value = 0
        await self.edge

    async def feed(self, words: Iterator[str], count: int) -> None:
        """Offer ``count`` words, take no result: leaves sums unfinished on purpose."""
        self.dut.results__ready.value = 0
        self.dut.words__valid.value = 1
        for _ in range(count):
            self.dut.words__payload.value = next(words)
            await self.edge
        self.dut.words__valid.value = 0

    async def exchange(
        self, words: Iterator[str], wanted: int, idle: str = "never", stall: str = "never"
    ) -> NDArray[np.int64]:
        """Offer all words and take ``wanted`` results, each side with its gaps.

        Raises:
            ProtocolError: results changed or vanished while they waited, or more of them came.
            TimeoutError: nothing moved for HANG cycles.
        """
        dut, edge = self.dut, self.edge
        source, sink = self._pattern(idle), self._pattern(stall)
        ready_in, valid_out, payload_out = (
            dut.words__ready,
            dut.results__valid,
            dut.results__payload,
        )
        taken: list[int] = []
        held = -1
        quiet = 0
        pending = next(words, None)
        offering = taking = False
        cycle = 0
        while len(taken) < wanted:
            cycle += 1
            hold_source, hold_sink = source(cycle), sink(cycle)
            # A word once offered stays; a gap can only begin between two words.
            if not offering and pending is not None and not hold_source:
                dut.words__payload.value = pending
                dut.words__valid.value = 1
                offering = True
            if taking == hold_sink:
                taking = not hold_sink
                dut.results__ready.value = int(taking)
            await edge
            moved = False
            if offering and ready_in.value:
                moved = True
                pending = next(words, None)
                if pending is None or source(cycle + 1):
                    offering = False
                    dut.words__valid.value = 0
                else:
                    dut.words__payload.value = pending
            if valid_out.value:
                got = int(payload_out.value)
                if held >= 0 and got != held:
                    raise ProtocolError(
                        f"cycle {cycle}: a waiting result went {held:#x} to {got:#x}"
                    )
                held = got
                if taking:
                    moved = True
                    taken.append(got)
                    held = -1
            elif held >= 0:
                raise ProtocolError(f"cycle {cycle}: a waiting result was withdrawn")
            quiet = 0 if moved else quiet + 1
            if quiet > HANG:
                raise TimeoutError(
                    f"nothing moved for {HANG} cycles; {len(taken)} of {wanted} results"
                )
        self.cycles += cycle
        await self._nothing_more(pending)
        return np.array(taken, dtype=np.int64)

    async def _nothing_more(self, pending: str | None) -> None:
        if pending is not None:
            raise ProtocolError("all results came before all words were taken")
        self.dut.results__ready.value = 1
        for _ in range(20):
            await self.edge
            if self.dut.results__valid.value:
                raise ProtocolError("a result came that no sum asked for")
        self.cycles += 20

    def _pattern(self, kind: str) -> Callable[[int], bool]:
        held_back = gaps(kind, self.rng)
        if held_back is None:
            return lambda cycle: False
        flags = held_back.tolist()
        size = len(flags)
        return lambda cycle: bool(flags[cycle % size])

    async def check(
        self, name: str, batch: Batch, expected: Expected, idle: str, stall: str
    ) -> None:
        """Drive a batch and compare every result with golden's.

        Raises:
            Mismatch: a code, a lane number or a last mark differs.
        """
        wanted = int(batch.lanes.sum())
        payloads = await self.exchange(packed(self.layout, batch, self.rng), wanted, idle, stall)
        compare(name, batch, expected, self.layout, payloads)


def compare(
    name: str, batch: Batch, expected: Expected, layout: Layout, payloads: NDArray[np.int64]
) -> None:
    """Results in the order they came, against the expectation: lanes from 0 up, sum after sum."""
    of, lane = np.nonzero(expected.used)
    if len(of) == 0 or len(of) != len(payloads):
        raise Mismatch(f"{name}: {len(payloads)} results for {len(of)} lanes")
    got = {key: place.of(payloads) for key, place in layout.results.items()}
    wrong_code = expected.defined[of, lane] & (got["code"] != expected.codes[of, lane])
    last = lane + 1 == batch.lanes[of]
    wrong = wrong_code | (got["lane"] != lane) | (got["last"] != last)
    if wrong.any():
        i = int(np.argmax(wrong))
        raise Mismatch(
            f"{name}: {wrong.sum()} of {len(of)} results differ; first, {describe(batch, of[i])}, "
            f"lane {lane[i]}: expected {expected.codes[of[i], lane[i]]:#06x} "
            f"({'last' if last[i] else 'not last'}), got {got['code'][i]:#06x} for lane "
            f"{got['lane'][i]} ({'last' if got['last'][i] else 'not last'})"
        )


def describe(batch: Batch, s: int) -> str:
    """A sum with its operands, for messages."""
    begin, end = int(batch.start[s]), int(batch.start[s + 1])
    shown = [
        f"{a:04x}x{b:04x}"
        for a, b in zip(batch.words_a[begin:end], batch.words_b[begin:end], strict=True)
    ]
    more = f" and {len(shown) - 6} more" if len(shown) > 6 else ""
    bias = int(batch.bias[s, 0]) | int(batch.bias[s, 1]) << 64
    return (
        f"sum {s} ({FORMATS[batch.mode_a[s]]} x {FORMATS[batch.mode_b[s]]} to "
        f"{FORMATS[batch.out[s]]}; words {' '.join(shown[:6])}{more}; bias {bias:#x}; "
        f"shift {batch.shift[s].tolist()})"
    )
