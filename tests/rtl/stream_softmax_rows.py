"""Rows for the softmax unit: random stimuli, golden's expectation, and the Verilated unit."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import formats, softmax
from opennpe.golden.softmax import SoftmaxSpec
from opennpe.rtl import verilated
from opennpe.rtl.row_streams import element_layout, result_layout
from opennpe.rtl.softmax import Softmax
from opennpe.rtl.verilog import convert

TOP = "opennpe_softmax"
HARNESS = Path(__file__).with_name("stream_softmax_replay.cpp")
FAILURES = {
    1: "fell silent before all results and sums were out",
    2: "marked the wrong beat as a row's last",
    3: "gave more results than beats",
    4: "updated its sum more often than beats came",
    5: "changed a result that waited",
}
FORMATS = formats.ENGINE_FORMATS
FIXED = {"u0.8": "posit8", "u0.16": "posit16"}
Rng = np.random.Generator


@dataclass(frozen=True)
class Settings:
    """What is static while rows are under way."""

    format: str
    out: str
    out_shift: int
    underflow: formats.Underflow
    multiplier: tuple[int, int]
    deferred: bool = False

    @property
    def ports(self) -> list[int]:
        """As the harness takes them."""
        out = FORMATS.index(FIXED.get(self.out, self.out))
        return [
            FORMATS.index(self.format),
            out,
            self.out_shift,
            int(self.underflow == "zero"),
            *self.multiplier,
            int(self.deferred),
            int(self.out in FIXED),
        ]


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of different lengths under one setting, filled up to whole beats.

    Attributes:
        codes: uint16 (beats, lanes). keep: bool likewise. start: int64 (rows + 1,), in beats.
    """

    settings: Settings
    codes: NDArray[np.uint16]
    keep: NDArray[np.bool_]
    start: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What the unit, or golden, says; arrays a beat or a row each.

    Attributes:
        codes: (beats, lanes). totals: object (beats,). exponents: (beats,).
        divisors, places: (rows,).
        accepted: (beats, 2), cycles of either pass. offered: (beats,); empty for golden.
    """

    codes: NDArray[np.uint16]
    totals: NDArray[np.object_]
    exponents: NDArray[np.int64]
    divisors: NDArray[np.int64]
    places: NDArray[np.int64]
    accepted: NDArray[np.int64]
    offered: NDArray[np.int64]


class Unit:
    """The Verilated unit of a spec."""

    def __init__(self, spec: SoftmaxSpec, verilog: str | None = None) -> None:
        self.spec = spec
        if verilog is None:
            verilog = verilated.remembered(lambda: convert(Softmax(spec), TOP), TOP, repr(spec))
        sources = {
            f"{TOP}.v": verilog,
            "layout.h": _layout(spec),
            HARNESS.name: HARNESS.read_text(),
        }
        self._replay = ctypes.CDLL(str(verilated.library(TOP, sources))).replay
        self._replay.restype = ctypes.c_int
        self.words = -(-spec.total_bits // 64)

    def run(self, batches: list[Rows], pauses: int | None = None) -> Outcome:
        """Rows of all batches, one after the other; ``pauses``: seed of random pauses."""
        spec = self.spec
        counts = [len(batch.start) - 1 for batch in batches]
        settings = np.repeat([batch.settings.ports for batch in batches], counts, axis=0)
        lengths = np.concatenate([np.diff(batch.start) for batch in batches])
        start = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        rows, beats = len(lengths), int(start[-1])
        given: list[NDArray[Any]] = [
            np.ascontiguousarray(settings, dtype=np.int64),
            start,
            np.concatenate([batch.codes for batch in batches]).astype(np.uint16),
            np.concatenate([batch.keep for batch in batches]).astype(np.uint8),
        ]
        codes = np.zeros((beats, spec.lanes), dtype=np.uint16)
        totals = np.zeros((beats, self.words), dtype=np.uint64)
        found = [np.zeros(n, dtype=np.int64) for n in (beats, rows, rows, 2 * beats, beats)]
        status = self._replay(
            ctypes.c_int64(rows),
            *(array.ctypes.data_as(ctypes.c_void_p) for array in given),
            ctypes.c_int(pauses is not None),
            ctypes.c_uint64(pauses or 0),
            *(array.ctypes.data_as(ctypes.c_void_p) for array in (codes, totals, *found)),
        )
        assert not status, f"the unit {FAILURES[status]}"
        exponents, divisors, places, accepted, offered = found
        whole = sum(totals[:, word].astype(object) << 64 * word for word in range(self.words))
        return Outcome(codes, whole, exponents, divisors, places, accepted.reshape(-1, 2), offered)


def expect(spec: SoftmaxSpec, batch: Rows) -> Outcome:
    """Golden's outcome; rows are filled up to one length with elements that are not kept."""
    lanes, beats = spec.lanes, np.diff(batch.start)
    shape = (len(beats), int(beats.max()), lanes)
    used = np.arange(shape[1]) < beats[:, None]
    codes, keep = np.zeros(shape, dtype=np.uint16), np.zeros(shape, dtype=bool)
    codes[used], keep[used] = batch.codes, batch.keep
    s = batch.settings
    flat = codes.reshape(shape[0], -1), keep.reshape(shape[0], -1)
    source = formats.get(s.format)
    given = flat[0] & ((1 << source.bits) - 1), s.format, s.multiplier, flat[1]
    undivided = softmax.deferred(spec, *given, s.out, s.out_shift, s.underflow)
    result = undivided.codes
    if not s.deferred:
        result = softmax.softmax(spec, *given, s.out, s.out_shift, s.underflow)
    running = softmax.trace(spec, *given)
    return Outcome(
        result.reshape(shape)[used].astype(np.uint16),
        running.total[used],
        running.exponent[used],
        undivided.mantissa,
        undivided.exponent + spec.reciprocal_bits,
        np.zeros((0, 2), dtype=np.int64),
        np.zeros(0, dtype=np.int64),
    )


def compare(spec: SoftmaxSpec, batches: list[Rows], got: Outcome) -> None:
    """Every code, running sum and exponent; AssertionError names the first difference."""
    assert batches, "no row was compared"
    row_at = beat_at = 0
    for batch in batches:
        want = expect(spec, batch)
        rows, beats = len(batch.start) - 1, int(batch.start[-1])
        for name, at, count in (
            ("exponents", beat_at, beats),
            ("totals", beat_at, beats),
            ("divisors", row_at, rows),
            ("places", row_at, rows),
            ("codes", beat_at, beats),
        ):
            expected, found = getattr(want, name), getattr(got, name)[at : at + count]
            wrong = np.argwhere(expected != found)
            if len(wrong):
                place = tuple(int(i) for i in wrong[0])
                raise AssertionError(
                    f"{name}{list(place)}: expected {int(expected[place]):#x}, got "
                    f"{int(found[place]):#x} of {batch.settings}, {len(wrong)} wrong in all"
                )
        row_at, beat_at = row_at + rows, beat_at + beats
    assert row_at == len(got.divisors) and beat_at == len(got.codes)


# -- stimuli -------------------------------------------------------------------------------------
def random_settings(spec: SoftmaxSpec, rng: Rng, outs: tuple[str, ...]) -> Settings:
    """Formats, shifts and multipliers from usual to absurd."""
    bits = spec.multiplier_bits
    usual = softmax.multiplier(float(2.0 ** rng.uniform(-6, 3)), bits)
    mantissa = int(
        rng.choice([1 << bits - 1, (1 << bits) - 1, rng.integers(1 << bits - 1, 1 << bits)])
    )
    odd = mantissa, int(rng.choice([-512, 511, rng.integers(-60, 30), rng.integers(-30, 0)]))
    shift = int(rng.choice([0, rng.integers(-4, 13), rng.integers(-512, 512)], p=[0.3, 0.6, 0.1]))
    return Settings(
        str(rng.choice(FORMATS)),
        str(rng.choice(outs)),
        shift,
        "zero" if rng.random() < 0.5 else "minpos",
        usual if rng.random() < 0.6 else odd,
        bool(rng.random() < 0.3),
    )


def random_codes(name: str, shape: tuple[int, ...], rng: Rng, nan: bool) -> NDArray[np.uint16]:
    """Codes of rows of many kinds: anything, near one value, ramps, constants, one high."""
    fmt = formats.get(name)
    size = 1 << fmt.bits
    order = np.argsort(fmt.order_key(np.arange(size)), kind="stable")
    kind = rng.integers(0, 6)
    count = int(np.prod(shape))
    at = rng.integers(0, size)
    if kind == 0:
        ranks = rng.integers(0, size, count)
    elif kind == 1:
        ranks = np.clip(at + np.rint(rng.normal(0, size / 64 + 1, count)).astype(int), 0, size - 1)
    elif kind == 2:
        ranks = (at + np.arange(count) * rng.integers(1, 5)) % size
    elif kind == 3:
        ranks = np.full(count, at)
    elif kind == 4:
        ranks = np.full(count, rng.integers(0, size // 2 + 1))
        ranks[rng.integers(count)] = size - 1
    else:  # the largest exponent grows again and again
        ranks = np.sort(rng.integers(0, size, count))
    codes = order[ranks]
    if fmt.nan_code is not None and not nan:
        codes = np.where(codes == fmt.nan_code, 0, codes)
    return codes.reshape(shape).astype(np.uint16)


def random_rows(spec: SoftmaxSpec, settings: Settings, count: int, longest: int, rng: Rng) -> Rows:
    """``count`` rows of 1 to ``longest`` elements; masks, NaR, partial tiles, noise in them."""
    fmt = formats.get(settings.format)
    holds_nan = fmt.nan_code is not None and settings.out not in ("fp4", *FIXED)
    codes, keep, lengths = [], [], []
    for _ in range(count):
        length = int(rng.integers(1, rng.choice([4, longest]) + 1))
        beats = -(-length // spec.lanes)
        row = rng.integers(0, 1 << fmt.bits, (beats * spec.lanes)).astype(np.uint16)
        row[:length] = random_codes(
            settings.format, (length,), rng, bool(holds_nan and rng.random() < 0.05)
        )
        kept = np.arange(beats * spec.lanes) < length
        mask = rng.integers(0, 8)
        if mask == 0:
            kept &= rng.random(len(kept)) < rng.random()
        elif mask == 1:
            kept &= np.arange(len(kept)) <= rng.integers(0, length)
        elif mask == 2 and rng.random() < 0.3:
            kept[:] = False
        codes.append(row)
        keep.append(kept)
        lengths.append(beats)
    start = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    lanes = (-1, spec.lanes)
    return Rows(
        settings, np.concatenate(codes).reshape(lanes), np.concatenate(keep).reshape(lanes), start
    )


def _layout(spec: SoftmaxSpec) -> str:
    element, result = element_layout(spec.lanes), result_layout(spec.lanes)
    lines = [
        "#pragma once",
        f"constexpr int LANES = {spec.lanes}, TOTAL_BITS = {spec.total_bits};",
        f"constexpr int TOTAL_WORDS = {-(-spec.total_bits // 64)};",
        f"constexpr int EXPONENT_BITS = {spec.integer_bits};",
        *(f"constexpr int {name.upper()}_OFFSET = {element[name].offset};"
          for name in ("codes", "keep", "second", "last")),
        f"constexpr int RESULT_LAST_OFFSET = {result['last'].offset};",
        f"#define SET_FIXED(top, value) {'top.fixed = value' if spec.fixed else '(void)(value)'}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
