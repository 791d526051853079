"""Energies of events from gates: windows of a stream simulated, their events fitted.

A window's energy beyond what an idle engine takes is a sum over classes of events; coefficients
are the non-negative ones with the least squared error, each window weighed by its own energy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from opennpe.fpga import engine_gates
from opennpe.fpga.engine_gates import WordStream
from opennpe.fpga.gate_events import simulate
from opennpe.fpga.gate_model import GateModel
from opennpe.golden.errors import DataError
from opennpe.golden.spec import EngineSpec

__all__ = ["LAG", "Window", "fit", "idle_fj", "measure", "non_negative"]

Floats = NDArray[np.float64]
LAG = 2
"""Cycles from a word's acceptance to the middle of what it causes; windows are cut so much later.
"""


@dataclass(frozen=True, eq=False)
class Window:
    """A piece of a stream on gates.

    Attributes:
        first, last: words of it. cycles: it took. energy_fj: in them, without leakage.
    """

    first: int
    last: int
    cycles: int
    energy_fj: float


def measure(spec: EngineSpec, gate_model: GateModel, stream: WordStream, size: int) -> list[Window]:
    """The stream in windows of about ``size`` words; the first one, which finds the engine empty,
    is left out.

    Raises:
        DataError: a stream of less than two windows.
    """
    count = stream.words // size
    if count < 2:
        raise DataError(f"{stream.words} words are no two windows of {size}")
    _, made = engine_gates.run(spec, gate_model, stream)
    cuts = np.linspace(0, stream.words - 1, count + 1).astype(np.int64)
    total = np.concatenate([[0.0], np.cumsum(made.energy_fj)])
    when = made.accepted[cuts] + LAG
    return [
        Window(
            int(cuts[i]),
            int(cuts[i + 1]),
            int(when[i + 1] - when[i]),
            float(total[when[i + 1]] - total[when[i]]),
        )
        for i in range(1, count)
    ]


def idle_fj(spec: EngineSpec, gate_model: GateModel, cycles: int = 64) -> float:
    """fJ a cycle of an engine that is given nothing."""
    empty = engine_gates.uniform(spec, "posit8", "posit8", [[0]], [[0]])
    made = simulate(
        gate_model,
        engine_gates.puts_of(spec, empty),
        spec.lanes("posit8"),
        constants={"underflow_zero": 1},
        tail_cycles=cycles + 4 * spec.latency,
    )
    return float(made.energy_fj[-cycles:].mean())


def fit(events: Floats, energy: Floats) -> Floats:
    """fJ of an event (classes,) from windows' events (windows, classes) and energies (windows,)."""
    scale = 1.0 / np.maximum(energy, energy.mean() * 0.05)
    return non_negative(events * scale[:, None], energy * scale)


def non_negative(a: Floats, b: Floats, rounds: int = 20_000) -> Floats:
    """The x of least ``|a x - b|`` with no negative part, by coordinates.

    Columns are scaled alike first; a column of zeros gets 0.
    """
    norm = np.sqrt((a**2).sum(axis=0))
    used = np.where(norm > 0, norm, 1.0)
    gram = (a / used).T @ (a / used)
    right = (a / used).T @ b
    x = np.zeros(a.shape[1])
    for _ in range(rounds):
        before = x.copy()
        for j in range(len(x)):
            if norm[j] > 0:
                x[j] = max(0.0, x[j] + (right[j] - gram[j] @ x) / gram[j, j])
        if np.abs(x - before).max(initial=0.0) <= 1e-12 * max(np.abs(x).max(initial=0.0), 1e-300):
            break
    return np.asarray(x / used)
