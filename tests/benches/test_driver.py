"""The bench driver's own rules, tried on engines that break them: no simulator needed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any

import bench_driver
import numpy as np
import pytest
from bench_driver import GAPS, STREAMS, Field, Given, Harness, Layout, ProtocolError

pytestmark = pytest.mark.fast
LAYOUT = Layout({}, {"code": Field(0, 16)}, 16, 16, 16)
COUNT = 300


class Pin:
    """A port."""

    def __init__(self) -> None:
        self.value: Any = 0


class Toy:
    """A register as an engine: every word comes out as a result a cycle later.

    A bias and a shift are taken with each word, and kept.

    Awaiting it is awaiting a rising edge: the pins then hold what they held just before. A fault
    may change what is seen in a cycle.
    """

    def __init__(self, fault: Callable[[Toy], None] | None = None) -> None:
        for name in STREAMS:
            for part in ("valid", "payload", "ready"):
                setattr(self, f"{name}__{part}", Pin())
        self.beside: dict[str, list[int]] = {"biases": [], "shifts": []}
        self.results__valid, self.results__payload, self.results__ready = Pin(), Pin(), Pin()
        self.rst = Pin()
        self.full, self.held, self.cycle = False, 0, 0
        self.fault = fault or (lambda toy: None)

    def __await__(self) -> Generator[Any, None, None]:
        self.cycle += 1
        self.results__valid.value = int(self.full)
        self.results__payload.value = self.held
        free = not self.full or bool(self.results__ready.value)
        there = all(getattr(self, f"{name}__valid").value for name in STREAMS)
        for name in STREAMS:
            getattr(self, f"{name}__ready").value = int(free and there)
        self.fault(self)
        if self.results__valid.value and self.results__ready.value:
            self.full = False
        if self.words__valid.value and self.words__ready.value:
            self.full, self.held = True, int(self.words__payload.value, 2)
        for name, kept in self.beside.items():
            if there and getattr(self, f"{name}__ready").value:
                kept.append(int(getattr(self, f"{name}__payload").value, 2))
        return
        yield

    @property
    def waits(self) -> bool:
        """A result is there and nobody takes it."""
        return self.full and not self.results__ready.value


def exchange(toy: Toy, idle: str = "random", stall: str = "random") -> np.ndarray:
    harness = Harness(toy, LAYOUT, np.random.default_rng(4), edge=toy)
    given = Given(*(iter([f"{i // step:016b}" for i in range(COUNT)]) for step in (1, 2, 3)))
    return asyncio.run(harness.exchange(given, COUNT, idle, stall))


@pytest.mark.parametrize("idle", GAPS)
@pytest.mark.parametrize("stall", GAPS)
def test_a_sound_engine_gives_all_words_in_order(idle: str, stall: str) -> None:
    toy = Toy()
    assert exchange(toy, idle, stall).tolist() == list(range(COUNT))
    expected = {name: [i // step for i in range(COUNT)] for step, name in enumerate(toy.beside, 2)}
    assert toy.beside == expected
    # With gaps on either side it takes longer than a word a cycle, so the gaps are real.
    assert (toy.cycle > COUNT + 30) == (idle != "never" or stall != "never")


def restless(toy: Toy) -> None:
    if toy.waits:
        toy.results__payload.value ^= toy.cycle


def withdrawn(toy: Toy) -> None:
    if toy.waits and toy.cycle % 2:
        toy.results__valid.value = 0


def greedy(toy: Toy) -> None:
    """Takes words that it loses."""
    if toy.waits:
        toy.words__ready.value = 1


def talkative(toy: Toy) -> None:
    """Goes on when all is said."""
    if toy.held == COUNT - 1:
        toy.results__valid.value = 1


def silent(toy: Toy) -> None:
    if toy.cycle > 50:
        toy.words__ready.value = 0


def unbiased(toy: Toy) -> None:
    """Takes no bias, but goes on."""
    toy.biases__ready.value = 0


def early(toy: Toy) -> None:
    """Gives results before it takes words."""
    toy.results__valid.value = 1
    toy.words__ready.value = 0
    toy.results__payload.value = 0


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (restless, "a waiting result went"),
        (withdrawn, "a waiting result was withdrawn"),
        (greedy, "a waiting result went"),
        (talkative, "a result came that no sum asked for"),
        (early, "before all words were taken"),
        (unbiased, "before all biases were taken"),
    ],
)
def test_broken_rules_are_noticed(fault: Callable[[Toy], None], message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        exchange(Toy(fault))


def test_a_silent_engine_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_driver, "HANG", 100)
    with pytest.raises(TimeoutError, match="nothing moved for 100 cycles"):
        exchange(Toy(silent))
