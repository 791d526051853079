"""Black boxes and memories of lines in a netlist: left out, their pins made ports of it.

A memory of lines (:mod:`opennpe.rtl.memories`) is a macro on a chip: neither flops nor a choice
among them. The register that its read port has is the macro's. Queues of a few entries stay flops.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from opennpe.golden.errors import ToolError

__all__ = ["MEMORY", "OUTSIDE", "READ", "cut", "memories", "memory_name", "memory_size"]

MEMORY = "opennpe_memory"
"""The cell that a memory becomes."""
OUTSIDE = (
    f"chtype -set {MEMORY} t:$mem_v2 a:no_rw_check=1 %i",
    f"setattr -set keep 1 t:{MEMORY}",
)
"""Passes that put memories out of synthesis's reach, before it makes flops of them."""
READ = "RD_DATA"
"""Pin of a memory that drives; "CLOCKS" and what it writes do not."""
PORT = "memory {instance} {words}x{bits} {pin}"


def cut(modules: Mapping[str, Any], top: str) -> None:
    """Boxes out of a mapped module of Yosys's JSON, in place; each pin a port.

    A memory's ports are called by its size: ``memory NAME 2048x32 RD_DATA``.

    Raises:
        ToolError: a memory of more than a read and a write port.
    """
    module = modules[top]
    boxed = {name for name, m in modules.items() if int(m["attributes"].get("blackbox", "0"), 2)}
    for instance, cell in list(module["cells"].items()):
        kind = cell["type"]
        if kind == MEMORY:
            pins = _memory_pins(instance, cell)
        elif kind in boxed:
            ports = modules[kind]["ports"]
            pins = {
                f"{instance} {name}": (ports[name]["direction"], bits)
                for name, bits in cell["connections"].items()
            }
        else:
            continue
        del module["cells"][instance]
        for name, (direction, bits) in pins.items():
            turned = "input" if direction == "output" else "output"
            module["ports"][name] = {"direction": turned, "bits": bits}


def _memory_pins(instance: str, cell: Mapping[str, Any]) -> dict[str, tuple[str, list[Any]]]:
    held = {name: int(cell["parameters"][name], 2) for name in ("SIZE", "WIDTH", "RD_PORTS",
                                                                "WR_PORTS")}  # fmt: skip
    if (held["RD_PORTS"], held["WR_PORTS"]) != (1, 1):
        raise ToolError(
            f"memory {instance} has {held['RD_PORTS']} read and {held['WR_PORTS']} write ports: "
            "expected one of each"
        )
    if not int(cell["parameters"]["RD_CLK_ENABLE"], 2):
        raise ToolError(f"memory {instance} is read without a clock: no macro does that")
    return {
        PORT.format(instance=instance, words=held["SIZE"], bits=held["WIDTH"], pin=pin): (
            "output" if pin == READ else "input",
            bits,
        )
        for pin, bits in cell["connections"].items()
        if not pin.endswith("_CLK")
    }


def memories(ports: Mapping[str, Any]) -> Counter[tuple[int, int]]:
    """Words and bits of the memories that were cut from a netlist of these ports."""
    found: Counter[tuple[int, int]] = Counter()
    for name in ports:
        if memory_name(name) and name.endswith(f" {READ}"):
            found[memory_size(name)] += 1
    return found


def memory_size(port: str) -> tuple[int, int]:
    """Words and bits of the memory that a port was cut from."""
    words, bits = port.split()[-2].split("x")
    return int(words), int(bits)


def memory_name(port: str) -> str:
    """The memory that a port was cut from: "memory buffer"; "" where it is none."""
    return " ".join(port.split()[:2]) if port.startswith("memory ") else ""
