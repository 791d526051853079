"""IHP's SRAM macros as a table of facts: ``python scripts/condense_sram.py FOLDER``.

FOLDER holds the typical-corner Liberty files of SG13G2's memories (RM_IHPSG13_1P_*.lib, from
IHP-Open-PDK, Apache-2.0). Of each: area, leakage, the clock pin's energy of a read and of a write,
the longest time from the clock to a word read. The result replaces ``tech/ihp130_sram.json``.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from opennpe.fpga.liberty_parser import Group, parse_file

TARGET = Path(__file__).resolve().parents[1] / "tech" / "ihp130_sram.json"
READ, WRITE = ("A_MEN", "!A_WEN", "A_REN"), ("A_MEN", "A_WEN", "!A_REN")
"""Conditions on the clock pin's energy."""


def inside(group: Group) -> Iterator[Group]:
    """All groups in a group, in the order of the file."""
    for part in group.groups:
        yield part
        yield from inside(part)


def numbers(table: Group) -> list[float]:
    """The values of a table."""
    return [float(value) for value in re.findall(r"[\d.]+", table.lists["values"])]


def energy(groups: list[Group], when: tuple[str, ...], name: str) -> float:
    """Of the clock pin's rise, under a condition."""
    for power in groups:
        if power.name == "internal_power":
            given = power.values.get("when", "").split("&")
            if tuple(part.strip() for part in given) == when:
                return numbers(next(power.named("rise_power")))[0]
    raise SystemExit(f"{name} states no energy of {' & '.join(when)}: is it one of IHP's memories?")


def macro(path: Path) -> dict[str, object]:
    """The facts of one file."""
    (cell,) = parse_file(path).named("cell")
    groups = list(inside(cell))
    words, bits = map(int, re.search(r"_(\d+)x(\d+)_", path.name).groups())
    delays = (group for group in groups if group.name in ("cell_rise", "cell_fall"))
    return {
        "words": words,
        "bits": bits,
        "area_um2": float(cell.values["area"]),
        "read_pj": energy(groups, READ, path.name),
        "write_pj": energy(groups, WRITE, path.name),
        "leakage_nw": float(cell.values["cell_leakage_power"]),
        "access_ns": max(value for table in delays for value in numbers(table)),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def main(folder: str) -> None:
    """Write the table."""
    files = sorted(Path(folder).glob("RM_IHPSG13_1P_*.lib"))
    if not files:
        raise SystemExit(f"no RM_IHPSG13_1P_*.lib in {folder}")
    held = {
        "source": "IHP-Open-PDK, ihp-sg13g2/libs.ref/sg13g2_sram/lib, typical, 1.2 V, 25 C",
        "licence": "Apache-2.0",
        "script": "scripts/condense_sram.py",
        "macros": {path.name.split("_typ")[0]: macro(path) for path in files},
    }
    TARGET.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
