"""``make qat``: the small Fashion-MNIST network trained in FP4, Posit(4,1) and Posit(8,0).

From the float checkpoint that ships, every recipe on one thread, two at a time; accuracies on all
10,000 test images before and after. Runs that are there already go on or are only read.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from opennpe.cli.tables import table
from opennpe.golden.whole import replacing
from rich.console import Console

ROOT = Path(__file__).resolve().parents[1]
START = ROOT / "quant" / "zoo" / "fashion_small.pt"
ALLOWED = {"fp4": 1.0, "posit4": 2.0, "posit8": 0.3}
"""Points that a format may lose to the float network."""


def run(name: str, out: Path) -> dict[str, Any]:
    """The record of a recipe's last stage."""
    command = [sys.executable, "-m", "opennpe.cli", "train", f"fashion_{name}", "--json"]
    command += ["--start", str(START), "--out", str(out / name), "--threads", "1"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    found: dict[str, Any] = json.loads(done.stdout)["stages"][-1]
    return found


def main() -> int:
    """Train, print, write ``qat.json``; status 1 where a format loses more than is allowed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "qat")
    options = parser.parse_args()
    begun = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        stages = dict(
            zip(ALLOWED, pool.map(lambda name: run(name, options.out), ALLOWED), strict=True)
        )
    rows, figures, kept = [], {}, True
    for name, stage in stages.items():
        scores = [stage[key]["top1_percent"] for key in ("float", "before", "after")]
        holds = scores[0] - scores[2] <= ALLOWED[name] + 1e-9
        kept &= holds
        lost = f"{scores[0] - scores[2]:+.2f}"
        rows.append([name, *(f"{s:.2f}" for s in scores), lost, f"{ALLOWED[name]:g}",
                     "yes" if holds else "no", f"{stage['seconds']:.0f}"])  # fmt: skip
        figures[name] = {"float_percent": scores[0], "before_percent": scores[1],
                         "after_percent": scores[2], "seconds": stage["seconds"]}  # fmt: skip
    columns = {"format": "left"} | dict.fromkeys(
        ("float %", "before %", "after %", "points lost", "allowed", "kept", "seconds"), "right"
    )
    Console(width=100).print(table("Fashion-MNIST, 10,000 test images, top-1", columns, rows))
    print(f"{time.monotonic() - begun:.0f} s in all")
    with replacing(options.out / "qat.json") as part:
        part.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
