"""A run's timeline as a Chrome trace, which https://ui.perfetto.dev opens.

The co-processor is a process, each of its units a thread, each command a slice on its unit's
thread that is named after the layer it serves; above them a thread of layers. Counter tracks show
how the array is used. A cycle is a microsecond, the unit that trace viewers count in.

Source: "Trace Event Format", the JSON format of the Chromium project.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden.commands import UNITS
from opennpe.golden.errors import DataError
from opennpe.golden.whole import replacing
from opennpe.sim.coprocessor import Timing

__all__ = ["Event", "Span", "chrome", "layer_spans", "timeline", "write"]

PROCESS = 1
LAYER_THREAD = 0
"""Threads of units follow, in the order of ``UNITS``."""
POINTS = 2000
"""Points of a counter track at most."""


@dataclass(frozen=True)
class Event:
    """One command's time on its unit.

    Attributes:
        unit: "load", "fill", "exec" or "store".
        layer: name of the layer it serves.
        command: its index in the list.
        begin: first cycle.
        end: last cycle, that in which it completes.
        busy: steps of the array.
        blocked: cycles in which results kept the array waiting.
    """

    unit: str
    layer: str
    command: int
    begin: int
    end: int
    busy: int = 0
    blocked: int = 0


@dataclass(frozen=True)
class Span:
    """A layer's share of a run.

    Attributes:
        name: the layer's.
        begin: cycle in which its first exec begins; 0 for the first layer.
        cycles: up to the next layer's begin, or to the run's end: all shares together are the run.
        busy: steps of the array.
        blocked: cycles in which results kept the array waiting.
        waiting: the rest: the array had nothing to do.
        loads, fills, execs, stores: its commands.
    """

    name: str
    begin: int
    cycles: int
    busy: int
    blocked: int
    waiting: int
    loads: int
    fills: int
    execs: int
    stores: int


def timeline(timing: Timing, layers: Sequence[str]) -> list[Event]:
    """Events of a run, in the order of its list.

    Args:
        timing: of the run.
        layers: the layer of each command, as ``Program.layers``.

    Raises:
        DataError: fewer layers than commands.
    """
    if len(layers) < len(timing.units):
        raise DataError(f"{len(timing.units)} commands, names of layers for {len(layers)}")
    columns = (timing.begun, timing.ended, timing.busy, timing.blocked)
    rows = zip(timing.units, layers, *(column.tolist() for column in columns), strict=False)
    return [Event(unit, layer, i, *numbers) for i, (unit, layer, *numbers) in enumerate(rows)]


def layer_spans(events: Iterable[Event], cycles: int) -> list[Span]:
    """The share of each layer that has execs, in their order; ``cycles`` is the run's length."""
    found: dict[str, list[Event]] = {}
    for event in events:
        found.setdefault(event.layer, []).append(event)
    begins = {
        name: min(e.begin for e in own if e.unit == "exec")
        for name, own in found.items()
        if any(e.unit == "exec" for e in own)
    }
    names = sorted(begins, key=begins.__getitem__)
    edges = [0, *(begins[name] for name in names[1:]), cycles]
    spans = []
    for name, begin, end in zip(names, edges, edges[1:], strict=False):
        own = found[name]
        busy, blocked = sum(e.busy for e in own), sum(e.blocked for e in own)
        counts = {f"{unit}s": sum(e.unit == unit for e in own) for unit in UNITS}
        waiting = max(0, end - begin - busy - blocked)
        spans.append(Span(name, begin, end - begin, busy, blocked, waiting, **counts))
    return spans


def chrome(events: Sequence[Event], cycles: int, name: str = "co-processor") -> dict[str, Any]:
    """The trace of a run of so many cycles as a JSON-ready object; ``name`` is the process's."""
    threads = {LAYER_THREAD: "layers", **{i + 1: unit for i, unit in enumerate(UNITS)}}
    records: list[dict[str, Any]] = [_meta("process_name", 0, name)]
    for thread, label in threads.items():
        records.append(_meta("thread_name", thread, label))
        records.append(_meta("thread_sort_index", thread, thread, "sort_index"))
    for span in layer_spans(events, cycles):
        what: dict[str, Any] = {"busy": span.busy, "blocked": span.blocked, "waiting": span.waiting}
        end = span.begin + span.cycles
        records.append(_slice(span.name, LAYER_THREAD, span.begin, end, what))
    taken: dict[str, list[tuple[int, int, float]]] = {unit: [] for unit in UNITS}
    reached = dict.fromkeys(UNITS, 0)
    for event in events:
        what = {"command": event.command, "begin": event.begin, "end": event.end}
        if event.unit == "exec":
            what |= {"busy": event.busy, "blocked": event.blocked}
        # A unit begins while it completes what came before; slices of a thread must not cross.
        begin = max(event.begin, reached[event.unit])
        end = reached[event.unit] = max(event.end + 1, begin + 1)
        thread = UNITS.index(event.unit) + 1
        records.append(_slice(event.layer, thread, begin, end, what))
        steps = event.busy if event.unit == "exec" else end - begin
        taken[event.unit].append((begin, end, min(1.0, steps / (end - begin))))
    for unit, own in taken.items():
        records += _counter(f"{unit} in use (%)", *_use(own, max(cycles, reached[unit])))
    return {
        "traceEvents": records,
        "displayTimeUnit": "ns",
        "otherData": {"unit": "1 us is 1 cycle", "name": name},
    }


def write(
    events: Sequence[Event], cycles: int, path: str | Path, name: str = "co-processor"
) -> None:
    """Write the trace of a run of so many cycles; the file appears whole or not at all.

    Raises:
        DataError: the file cannot be written.
    """
    file = Path(path)
    text = json.dumps(chrome(events, cycles, name), allow_nan=False)
    try:
        with replacing(file) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write '{file}': {error.strerror or error}") from error


def _meta(what: str, thread: int, value: Any, key: str = "name") -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": PROCESS, "tid": thread, "args": {key: value}}


def _slice(name: str, thread: int, begin: int, end: int, what: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "ph": "X",
        "ts": begin,
        "dur": end - begin,
        "pid": PROCESS,
        "tid": thread,
        "args": what,
    }


def _counter(
    name: str, times: NDArray[np.int64], values: NDArray[np.float64]
) -> list[dict[str, Any]]:
    return [
        {"name": name, "ph": "C", "ts": t, "pid": PROCESS, "args": {"value": round(v, 2)}}
        for t, v in zip(times.tolist(), values.tolist(), strict=True)
    ]


def _use(
    slices: Sequence[tuple[int, int, float]], cycles: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Use of a unit in each stretch of time, in percent, from (begin, end, use) of its slices."""
    edges = np.unique(np.linspace(0, cycles, POINTS + 1).astype(np.int64))
    used = np.zeros(len(edges))
    for begin, end, share in slices:
        used += share * (np.clip(edges, begin, end) - begin)
    values = 100 * np.diff(used) / np.diff(edges)
    return edges, np.append(values, 0.0)
