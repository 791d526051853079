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
from pathlib import Path

TARGET = Path(__file__).resolve().parents[1] / "tech" / "ihp130_sram.json"
READ, WRITE = r"A_MEN\s*& !A_WEN\s*& A_REN", r"A_MEN\s*& A_WEN\s*& !A_REN"


def number(pattern: str, text: str) -> float:
    """The first number that follows a pattern."""
    found = re.search(pattern, text)
    if found is None:
        raise SystemExit(f"no {pattern} in the file: is it one of IHP's memories?")
    return float(found.group(1))


def macro(path: Path) -> dict[str, object]:
    """The facts of one file."""
    text = path.read_text(encoding="utf-8")
    words, bits = map(int, re.search(r"_(\d+)x(\d+)_", path.name).groups())
    access = max(
        float(value)
        for table in re.findall(
            r"cell_(?:rise|fall)\s*\([^)]*\)\s*\{.*?values \((.*?)\)", text, re.S
        )
        for value in re.findall(r"[\d.]+", table)
    )

    def energy(when: str) -> float:
        return number(rf'when : "{when}";\s*rise_power\("scalar"\)\{{\s*values \(([\d.]+)\)', text)

    return {
        "words": words,
        "bits": bits,
        "area_um2": number(r"area\s*:\s*([\d.]+)", text),
        "read_pj": energy(READ),
        "write_pj": energy(WRITE),
        "leakage_nw": number(r"cell_leakage_power : ([\d.]+)", text),
        "access_ns": access,
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
