"""Functional coverage of what a bench checked: (mode x operand class x rounding case) and more."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from bench_batch import FORMATS, LANE_COUNT, MODES, Batch
from bench_expected import CASES, Expected, groups, lane_codes
from numpy.typing import NDArray
from opennpe.golden import formats

CLASSES = (
    "zero",
    "minus zero",
    "one",
    "minpos",
    "maxpos",
    "subnormal",
    "negative",
    "NaR",
    "other",
)
HEADINGS = (
    "zero",
    "exact",
    "< tie",
    "tie down",
    "tie up",
    "> tie",
    "maxpos",
    "minpos",
    "to zero",
    "NaR",
)
"""Short names of CASES, for the table."""
MODE_NAMES = tuple(a if a == b else f"{a} x {b}" for a, b in MODES)


@lru_cache(maxsize=8)
def class_flags(name: str) -> NDArray[np.uint16]:
    """A bit per class for every code; a code may be of several classes."""
    fmt = formats.get(name)
    value = fmt.values
    size = np.abs(value)
    negative = np.signbit(value) & (size > 0)
    members = [
        (value == 0) & ~np.signbit(value),
        (value == 0) & np.signbit(value),
        size == 1,
        size == fmt.minpos,
        size == fmt.maxpos,
        (size > 0) & (size < 1) if fmt.kind == "float" else np.zeros(len(value), bool),
        negative,
        np.isnan(value),
    ]
    members.append(~np.any(members, axis=0))
    return np.asarray(sum(m.astype(np.uint16) << i for i, m in enumerate(members)), np.uint16)


def has_class(mode: tuple[str, str], number: int) -> bool:
    """Whether an operand of this mode can be of the class at all."""
    return any(bool((class_flags(name) >> number & 1).any()) for name in mode)


@dataclass
class Coverage:
    """Hits of every bin; ``underflows`` holds the rules that were run.

    ``operands``: (mode, class, case); ``results``: (mode, out format, case);
    ``lanes``: (mode, lane, case); ``switches``: (mode, next mode).
    """

    operands: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros((len(MODES), len(CLASSES), len(CASES)), np.int64)
    )
    results: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros((len(MODES), len(FORMATS), len(CASES)), np.int64)
    )
    lanes: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros((len(MODES), 4, len(CASES)), np.int64)
    )
    switches: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros((len(MODES), len(MODES)), np.int64)
    )
    underflows: set[str] = field(default_factory=set)
    sums: int = 0
    words: int = 0

    def add(self, batch: Batch, expected: Expected, underflow: str) -> None:
        """Count a batch that was driven and whose results were all compared."""
        self.sums += len(batch)
        self.words += batch.words
        self.underflows.add(underflow)
        mode_of = np.zeros(len(batch), np.int64)
        for a, b, index, part in groups(batch):
            mode = MODES.index((a, b))
            mode_of[index] = mode
            flags = np.bitwise_or.reduceat(
                class_flags(a)[lane_codes(part.words_a, a)]
                | class_flags(b)[lane_codes(part.words_b, b)],
                part.start[:-1],
                axis=0,
            )
            case = expected.case[index][:, : flags.shape[1]]
            good = expected.defined[index][:, : flags.shape[1]]
            for number in range(len(CLASSES)):
                hit = good & (flags >> number & 1 == 1)
                self.operands[mode, number] += np.bincount(case[hit], minlength=len(CASES))
            for lane in range(flags.shape[1]):
                chosen = case[good[:, lane], lane]
                self.lanes[mode, lane] += np.bincount(chosen, minlength=len(CASES))
            for out in range(len(FORMATS)):
                chosen = case[good & (part.out == out)[:, None]]
                self.results[mode, out] += np.bincount(chosen, minlength=len(CASES))
        np.add.at(self.switches, (mode_of[:-1], mode_of[1:]), 1)

    def merge(self, other: Coverage) -> None:
        """Add another run's hits."""
        for name in ("operands", "results", "lanes", "switches"):
            getattr(self, name).__iadd__(getattr(other, name))
        self.underflows |= other.underflows
        self.sums += other.sums
        self.words += other.words

    def holes(self) -> list[str]:
        """Reachable bins that were never hit."""
        missing = []
        for (m, mode), (c, cls), (r, case) in _bins(MODE_NAMES, CLASSES, CASES):
            if not self.operands[m, c, r] and operand_excuse(m, c, r) is None:
                missing.append(f"{mode} / {cls} / {case}")
        for (m, mode), (o, out), (r, case) in _bins(MODE_NAMES, FORMATS, CASES):
            if not self.results[m, o, r] and result_excuse(m, o, r, self.underflows) is None:
                missing.append(f"{mode} / to {out} / {case}")
        for (m, mode), (lane, _), (r, case) in _bins(MODE_NAMES, range(4), CASES):
            there = lane < LANE_COUNT[FORMATS.index(MODES[m][0])] and lane_excuse(m, r) is None
            if there and not self.lanes[m, lane, r]:
                missing.append(f"{mode} / lane {lane} / {case}")
        for (m, mode), (n, follower) in _bins(MODE_NAMES, MODE_NAMES):
            if not self.switches[m, n]:
                missing.append(f"{mode} then {follower}")
        return missing

    def table(self) -> str:
        """Hits of (mode x operand class x rounding case), and a line for each excluded group."""
        width = 9
        lines = []
        for m, mode in enumerate(MODE_NAMES):
            lines.append(f"{mode:16}" + "".join(f"{case:>{width}}" for case in HEADINGS))
            for c, cls in enumerate(CLASSES):
                if not has_class(MODES[m], c):
                    continue
                cells = [
                    "-" if operand_excuse(m, c, r) else str(self.operands[m, c, r])
                    for r in range(len(CASES))
                ]
                lines.append(f"  {cls:14}" + "".join(f"{cell:>{width}}" for cell in cells))
        reachable = self.reachable()
        holes = self.holes()
        lines.append(
            f"{reachable - len(holes)} of {reachable} reachable bins hit; {self.sums} sums, "
            f"{self.words} words; underflow rules: {', '.join(sorted(self.underflows))}"
        )
        lines += [f"unreachable: {line}" for line in excuses()]
        return "\n".join(lines)

    def reachable(self) -> int:
        """Number of bins that can be hit."""
        operands = sum(
            operand_excuse(m, c, r) is None
            for (m, _), (c, _), (r, _) in _bins(MODE_NAMES, CLASSES, CASES)
        )
        results = sum(
            result_excuse(m, o, r, self.underflows) is None
            for (m, _), (o, _), (r, _) in _bins(MODE_NAMES, FORMATS, CASES)
        )
        lanes = sum(
            lane_excuse(m, r) is None
            for (m, _), (lane, _), (r, _) in _bins(MODE_NAMES, range(4), CASES)
            if lane < LANE_COUNT[FORMATS.index(MODES[m][0])]
        )
        return operands + results + lanes + len(MODES) ** 2


def _bins(*axes: object) -> list[tuple[tuple[int, object], ...]]:
    return list(itertools.product(*(list(enumerate(axis)) for axis in axes)))  # type: ignore[call-overload]


NAN_CASE, NAN_CLASS = CASES.index("NaR"), CLASSES.index("NaR")


def operand_excuse(mode: int, cls: int, case: int) -> str | None:
    """Why a bin cannot be hit, or None."""
    names = MODES[mode]
    if not has_class(names, cls):
        return f"{' x '.join(names)} has no operand of class {CLASSES[cls]}"
    if cls == NAN_CLASS and case != NAN_CASE:
        return "a sum with a NaR operand is NaR"
    return lane_excuse(mode, case)


def lane_excuse(mode: int, case: int) -> str | None:
    """Why no lane of a mode can round so, or None."""
    if case == NAN_CASE and not has_class(MODES[mode], NAN_CLASS):
        return "fp4 x fp4 has no NaR operand, so no NaR sum"
    return None


def result_excuse(mode: int, out: int, case: int, underflows: set[str]) -> str | None:
    """Why a result format cannot be rounded to so, or None."""
    if case == NAN_CASE and formats.get(FORMATS[out]).nan_code is None:
        return "fp4 has no code for NaR: the result is not defined"
    if CASES[case] == "to zero" and underflows == {"minpos"} and FORMATS[out] != "fp4":
        return "with underflow=minpos a posit never rounds a nonzero sum to zero"
    return lane_excuse(mode, case)


def excuses() -> list[str]:
    """Every reason for an unreachable bin, once."""
    found = {
        operand_excuse(m, c, r) for (m, _), (c, _), (r, _) in _bins(MODE_NAMES, CLASSES, CASES)
    }
    found |= {
        result_excuse(m, o, r, set())
        for (m, _), (o, _), (r, _) in _bins(MODE_NAMES, FORMATS, CASES)
    }
    return sorted(reason for reason in found if reason)
