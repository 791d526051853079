"""``opennpe disasm``: a program as text, a line a command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from opennpe.golden import commands as C
from opennpe.golden import formats, program

__all__ = ["describe", "lines"]

SHOWN = {
    "target": C.TARGETS,
    "kind": C.KINDS,
    "mode_a": formats.ENGINE_FORMATS,
    "mode_b": formats.ENGINE_FORMATS,
    "out": formats.ENGINE_FORMATS,
    "widen": [None if pair is None else f"{pair[0]}>{pair[1]}" for pair in C.WIDEN],
}
"""Fields that are indices, and what they stand for."""


def _fields(command: C.Command) -> dict[str, Any]:
    """Values that are not 0 and names that are; waits left out."""
    found: dict[str, Any] = {}
    for name, _ in C.FIELDS[command.op]:
        value = command[name]
        if name == "op" or name in C.WAITS:
            continue
        if name in SHOWN:
            names = SHOWN[name]
            shown = names[value] if value < len(names) else value
            if shown is not None:
                found[name] = shown
        elif value:
            found[name] = value
    return found


def describe(path: str | Path) -> dict[str, Any]:
    """Header, tensors and commands of a program file, ready for JSON.

    Raises:
        ProgramError: no program file.
    """
    held = program.load(path)
    window = held.window
    return {
        "name": held.name,
        "spec": held.spec,
        "facts": dict(held.facts),
        "bytes": held.size,
        "list": {"address": held.address, "bytes": held.list_bytes, "first_lines": held.lines},
        "reads": [window.read_base, window.read_limit],
        "writes": [window.write_base, window.write_limit],
        "tensors": [
            {
                "name": s.name,
                "role": s.role,
                "address": s.address,
                "lines": s.layout.lines,
                "shape": list(s.shape),
                "format": s.layout.format,
                "scale": s.scale,
                "fold": s.layout.fold,
            }
            for s in held.symbols
        ],
        "outputs": [
            {
                "name": o.tensor.name,
                "from": o.symbol,
                "host": None if o.host is None else o.host.name,
            }
            for o in held.outputs
        ],
        "commands": [
            {
                "offset": offset,
                "op": command.op,
                "waits": {u: command[w] for u, w in zip(C.UNITS, C.WAITS, strict=True)},
                "fields": _fields(command),
                "layer": layer,
            }
            for (offset, command), layer in zip(held.commands, held.layers, strict=True)
        ],
    }


def lines(about: dict[str, Any]) -> Iterator[str]:
    """The text of what :func:`describe` gives."""
    rows = " x ".join(str(about["facts"][n]) for n in ("rows", "columns"))
    yield f"program {about['name']} for {about['spec']} ({rows}), {about['bytes']} bytes"
    held = about["list"]
    yield (
        f"list at 0x{held['address']:x}, {held['bytes']} bytes, {held['first_lines']} lines loaded "
        f"at the start; reads 0x{about['reads'][0]:x}..0x{about['reads'][1]:x}, "
        f"writes 0x{about['writes'][0]:x}..0x{about['writes'][1]:x}"
    )
    for t in about["tensors"]:
        shape = "x".join(map(str, t["shape"]))
        yield (
            f"  {t['role']:8} 0x{t['address']:08x} {t['lines']:6} lines  {shape} {t['format']} "
            f"2^{t['scale']}, {t['fold']} a line  {t['name']}"
        )
    for o in about["outputs"]:
        host = "" if o["host"] is None else f" through {o['host']} on the host"
        yield f"  result   {o['name']} from {o['from']}{host}"
    layer = None
    for c in about["commands"]:
        if c["layer"] != layer:
            layer = c["layer"]
            yield f"{layer or 'end'}:"
        waits = " ".join(f"{unit}>={count}" for unit, count in c["waits"].items() if count)
        fields = " ".join(f"{name}={value}" for name, value in c["fields"].items())
        yield f"  {c['offset']:06x}  {c['op']:5} {fields}" + (f"  after {waits}" if waits else "")
