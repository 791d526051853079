"""A library of ours as Liberty text, for mappers that read nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from opennpe.fpga import functions
from opennpe.tech.cells import Arc, Cell, CellLibrary, Pin, Sequential, Surface

__all__ = ["write"]

SENSES = {"positive": "positive_unate", "negative": "negative_unate", "either": "non_unate"}


def write(library: CellLibrary) -> str:
    """Liberty in ps, fF and nW: areas, capacitances, functions, delays, setups; no energies.

    Cells marked ``dont_use`` stay so; clock gates are left out, since mappers place them by name.
    """
    lines = [
        f"library ({library.name}) {{",
        "  delay_model : table_lookup;",
        '  time_unit : "1ps";',
        '  voltage_unit : "1V";',
        '  current_unit : "1uA";',
        '  leakage_power_unit : "1nW";',
        '  pulling_resistance_unit : "1kohm";',
        "  capacitive_load_unit (1, ff);",
        f"  nom_voltage : {library.voltage_v:g};",
        f"  nom_temperature : {library.temperature_c:g};",
        "  nom_process : 1;",
    ]
    templates: dict[tuple[int, int], str] = {}
    body: list[str] = []
    for cell in library.cells.values():
        if cell.sequential is None or cell.sequential.kind != "gate":
            body += _cell(cell, templates)
    for (rows, columns), name in templates.items():
        lines += [
            f"  lu_table_template ({name}) {{",
            "    variable_1 : input_net_transition;",
            "    variable_2 : total_output_net_capacitance;",
            f'    index_1 ("{", ".join(str(i + 1) for i in range(rows))}");',
            f'    index_2 ("{", ".join(str(i + 1) for i in range(columns))}");',
            "  }",
        ]
    return "\n".join([*lines, *body, "}"]) + "\n"


def _cell(cell: Cell, templates: dict[tuple[int, int], str]) -> Iterator[str]:
    yield f"  cell ({cell.name}) {{"
    yield f"    area : {cell.area_um2:.7g};"
    yield f"    cell_leakage_power : {cell.leakage_nw:.6g};"
    if cell.dont_use:
        yield "    dont_use : true;"
    if cell.sequential is not None:
        yield from _state(cell.sequential)
    for pin in cell.pins.values():
        yield from _pin(pin, cell, templates)
    yield "  }"


def _state(state: Sequential) -> Iterator[str]:
    names = f"({state.state}, {state.state_inverted})"
    flop = state.kind == "flop"
    yield f"    {'ff' if flop else 'latch'} {names} {{"
    yield f'      {"clocked_on" if flop else "enable"} : "{state.clock}";'
    yield f'      {"next_state" if flop else "data_in"} : "{state.next_state}";'
    for word, text in (("clear", state.clear), ("preset", state.preset)):
        if text:
            yield f'      {word} : "{text}";'
    yield "    }"


def _pin(pin: Pin, cell: Cell, templates: dict[tuple[int, int], str]) -> Iterator[str]:
    yield f"    pin ({pin.name}) {{"
    yield f"      direction : {pin.direction};"
    if pin.direction == "input":
        yield f"      capacitance : {pin.capacitance_ff:.6g};"
        if pin.clock:
            yield "      clock : true;"
        elif cell.sequential is not None and cell.sequential.kind == "flop":
            yield from _checks(pin, cell.sequential)
    else:
        yield f'      function : "{pin.function}";'
        if pin.max_load_ff is not None:
            yield f"      max_capacitance : {pin.max_load_ff:.6g};"
        falls = cell.sequential is not None and _falls(cell.sequential)
        for arc in cell.arcs:
            if arc.output == pin.name:
                yield from _arc(arc, falls, templates)
    yield "    }"


def _checks(pin: Pin, state: Sequential) -> Iterator[str]:
    """Setup and hold of what a flop takes at its clock, each one number."""
    if pin.name not in functions.names(functions.parse(state.next_state)):
        return
    (clock,) = functions.names(functions.parse(state.clock))
    edge = "falling" if _falls(state) else "rising"
    for check, value in (("setup", state.setup_ps), ("hold", state.hold_ps)):
        yield "      timing () {"
        yield f'        related_pin : "{clock}";'
        yield f"        timing_type : {check}_{edge};"
        for word in ("rise_constraint", "fall_constraint"):
            yield f'        {word} (scalar) {{ values ("{value:.6g}"); }}'
        yield "      }"


def _falls(state: Sequential) -> bool:
    """Whether the clock's falling edge is the one that counts."""
    names = functions.names(functions.parse(state.clock))
    return functions.truth_table(state.clock, names) == 0b01


def _arc(arc: Arc, falls: bool, templates: dict[tuple[int, int], str]) -> Iterator[str]:
    yield "      timing () {"
    yield f'        related_pin : "{arc.input}";'
    yield f"        timing_sense : {SENSES[arc.sense]};"
    kind = {
        "clock": "falling_edge" if falls else "rising_edge",
        "set": "preset",
        "clear": "clear",
    }.get(arc.kind)
    if kind:
        yield f"        timing_type : {kind};"
    for word, surfaces in (("cell_{}", arc.delay), ("{}_transition", arc.slew)):
        for edge, surface in surfaces.items():
            yield from _table(word.format(edge), surface, templates)
    yield "      }"


def _table(word: str, surface: Surface, templates: dict[tuple[int, int], str]) -> Iterator[str]:
    rows, columns = surface.values.shape
    name = templates.setdefault((rows, columns), f"points_{rows}x{columns}")
    yield f"        {word} ({name}) {{"
    yield f'          index_1 ("{_numbers(surface.slews)}");'
    yield f'          index_2 ("{_numbers(surface.loads)}");'
    rows_text = ", ".join(f'"{_numbers(row)}"' for row in surface.values)
    yield f"          values ({rows_text});"
    yield "        }"


def _numbers(values: NDArray[np.float64]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)
