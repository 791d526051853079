"""Drives the engine's streams from arrays, one Python step a clock cycle.

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
    """Fields of words and results, low bits first, and the widths of what goes in."""

    words: dict[str, Field]
    results: dict[str, Field]
    words_width: int
    bias_width: int
    shift_width: int


@dataclass(frozen=True)
class Given:
    """Payloads of the streams that go in, as strings of binary digits, highest bit first."""

    words: Iterator[str]
    biases: Iterator[str]
    shifts: Iterator[str]


def packed(layout: Layout, batch: Batch, rng: np.random.Generator) -> Given:
    """The batch's payloads: a word pair a step, a bias a sum, a shift a lane.

    What the engine has no business with is noise: the result format of words that are not a
    sum's last.
    """
    return Given(
        _words(layout, batch, rng), _biases(batch, layout), _shifts(batch, layout.shift_width)
    )


STEP = 1 << 15
"""Payloads that are made at a time."""


def _words(layout: Layout, batch: Batch, rng: np.random.Generator) -> Iterator[str]:
    for begin in range(0, batch.words, STEP):
        yield from _packed_part(layout, batch, begin, min(begin + STEP, batch.words), rng)


def _biases(batch: Batch, layout: Layout) -> Iterator[str]:
    width = layout.bias_width
    for begin in range(0, len(batch), STEP):
        halves = batch.bias[begin : begin + STEP]
        bits = np.zeros((len(halves), width), dtype=np.uint8)
        for part, half in enumerate(halves.T):
            _put(bits, Field(part * 64, 64), half)
        yield from _digits(bits)


def _shifts(batch: Batch, width: int) -> Iterator[str]:
    used = np.arange(LANES) < batch.lanes[:, None]
    flat = batch.shift[used].astype(np.int64)
    for begin in range(0, len(flat), STEP):
        some = flat[begin : begin + STEP]
        bits = np.zeros((len(some), width), dtype=np.uint8)
        _put(bits, Field(0, width), some)
        yield from _digits(bits)


def _digits(bits: NDArray[np.uint8]) -> Iterator[str]:
    """Rows of bits, lowest first, as strings."""
    count, width = bits.shape
    text = (bits[:, ::-1] + ord("0")).tobytes().decode("ascii")
    for i in range(count):
        yield text[i * width : (i + 1) * width]


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
    yield from _digits(bits)


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


class Source:
    """A stream that goes in, with its gaps: what is once offered stays until it is taken."""

    def __init__(
        self, dut: Any, name: str, items: Iterator[str], hold: Callable[[int], bool]
    ) -> None:
        self.valid, self.payload, self.ready = (
            getattr(dut, f"{name}__{part}") for part in ("valid", "payload", "ready")
        )
        self.name, self.items, self.hold = name, items, hold
        self.pending = next(items, None)
        self.shown: str | None = None
        self.offering = False

    def _show(self) -> None:
        if self.pending != self.shown:
            self.payload.value = self.shown = self.pending

    def offer(self, cycle: int) -> None:
        """Before the edge: what waits is offered, unless it is held back."""
        if not self.offering and self.pending is not None and not self.hold(cycle):
            self._show()
            self.valid.value = 1
            self.offering = True

    def taken(self, cycle: int) -> bool:
        """After the edge: whether it was taken; what comes next follows at once or after a gap."""
        if not (self.offering and self.ready.value):
            return False
        self.pending = next(self.items, None)
        if self.pending is None or self.hold(cycle + 1):
            self.offering = False
            self.valid.value = 0
        else:
            self._show()
        return True


STREAMS = ("words", "biases", "shifts")


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
        for name in STREAMS:
            getattr(self.dut, f"{name}__valid").value = 0
        self.dut.results__ready.value = 0
        self.dut.rst.value = 1
        for _ in range(cycles):
            await self.edge
        self.dut.rst.value = 0
        await self.edge

    def _sources(self, given: Given, idle: str) -> list[Source]:
        return [
            Source(self.dut, name, getattr(given, name), self._pattern(idle)) for name in STREAMS
        ]

    async def feed(self, given: Given, count: int) -> None:
        """Offer all for ``count`` cycles, take no result: leaves sums unfinished on purpose."""
        self.dut.results__ready.value = 0
        sources = self._sources(given, "never")
        for cycle in range(count):
            for source in sources:
                source.offer(cycle)
            await self.edge
            for source in sources:
                source.taken(cycle)
        for source in sources:
            source.valid.value = 0

    async def exchange(
        self, given: Given, wanted: int, idle: str = "never", stall: str = "never"
    ) -> NDArray[np.int64]:
        """Offer all that goes in and take ``wanted`` results, every stream with its gaps.

        Raises:
            ProtocolError: results changed or vanished while they waited, or more of them came.
            TimeoutError: nothing moved for HANG cycles.
        """
        dut, edge = self.dut, self.edge
        sources, sink = self._sources(given, idle), self._pattern(stall)
        valid_out, payload_out = dut.results__valid, dut.results__payload
        taken: list[int] = []
        held = -1
        quiet = 0
        taking = False
        cycle = 0
        while len(taken) < wanted:
            cycle += 1
            hold_sink = sink(cycle)
            for source in sources:
                source.offer(cycle)
            if taking == hold_sink:
                taking = not hold_sink
                dut.results__ready.value = int(taking)
            await edge
            moved = False
            for source in sources:
                moved |= source.taken(cycle)
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
        await self._nothing_more(sources)
        return np.array(taken, dtype=np.int64)

    async def _nothing_more(self, sources: list[Source]) -> None:
        for source in sources:
            if source.pending is not None:
                raise ProtocolError(f"all results came before all {source.name} were taken")
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
