"""What the verbs print: tables on stdout, as wide as the terminal or 120 columns elsewhere."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from typing import Any

from opennpe.cli.results import Result, Run
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

__all__ = ["check_lines", "console", "count", "run_table", "show", "svg", "table"]

TITLES = {"top1": "top-1", "top5": "top-5", "l2": "rel. L2", "cosine": "cosine"}


def console(**options: Any) -> Console:
    """A console on stdout; 120 columns where there is no terminal."""
    width = None if sys.stdout.isatty() else 120
    return Console(**{"width": width, "highlight": False, **options})


def show(*parts: Any) -> None:
    """Print tables and lists of lines."""
    out = console()
    for part in parts:
        if isinstance(part, list):
            for line in part:
                out.print(line, markup=False, soft_wrap=True)
        else:
            out.print(part)


def table(title: str, columns: dict[str, str], rows: list[list[str]]) -> Table:
    """A table; ``columns`` maps headings to justification."""
    grid = Table(title=title, box=SIMPLE_HEAD, title_justify="left", title_style="bold")
    for heading, justify in columns.items():
        grid.add_column(heading, justify=justify, no_wrap=justify == "right")  # type: ignore[arg-type]
    for row in rows:
        grid.add_row(*row)
    return grid


def count(value: float) -> str:
    """Three digits and a unit: 1234567 is 1.23 M."""
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= unit:
            return f"{value / unit:.{max(0, 2 - int(math.log10(abs(value) / unit)))}f}{name}"
    return f"{value:.0f}"


def run_table(result: Result) -> Table:
    """The table of ``opennpe sim``; counts are per sample."""
    percent = result.metric.startswith("top")
    columns = {
        "format": "left",
        TITLES[result.metric]: "right",
        "vs FP32": "right",
        "rel. L2": "right",
        "MACs": "right",
        "words moved": "right",
        "engine cycles": "right",
        "images/s": "right",
        "RTL tiles": "right",
    }
    if result.metric == "l2":
        del columns["vs FP32"], columns["rel. L2"]
        columns = {"format": "left", "rel. L2": "right", "cosine": "right", **columns}
    samples = f"{result.samples} sample{'s' if result.samples > 1 else ''}"
    title = f"{result.model} on {result.spec}, {samples}, underflow to {result.underflow}"
    runs = [result.reference, *result.runs]
    rows = [_run_row(run, result, columns, percent) for run in runs]
    return table(title, columns, rows)


def _run_row(run: Run, result: Result, columns: dict[str, str], percent: bool) -> list[str]:
    ours = run is not result.reference
    cells = {
        "format": run.name,
        TITLES[result.metric]: _metric(run.metric, percent),
        "rel. L2": f"{max(run.relative_l2.values(), default=0):.2e}" if ours else "",
        "cosine": f"{min(run.cosine.values(), default=1):.6f}" if ours else "",
        "vs FP32": f"{100 * run.difference:+.2f}" if percent else f"{run.difference:+.2e}",
        "MACs": count(run.macs) if ours else "",
        "words moved": count(run.words) if ours else "",
        "engine cycles": count(run.cycles) if ours else "",
        "images/s": count(run.samples_per_second),
        "RTL tiles": str(sum(run.checked.tiles.values())) if run.checked else "",
    }
    if not ours:
        cells["vs FP32"] = ""
    return [cells[name] for name in columns]


def _metric(value: float, percent: bool) -> str:
    if math.isnan(value):
        return "NaR"
    return f"{100 * value:.2f} %" if percent else f"{value:.2e}"


def check_lines(result: Result) -> list[str]:
    """What was replayed on the RTL, and what was not."""
    lines = []
    for run in result.runs:
        if run.checked is None:
            continue
        done = run.checked
        skipped = ", ".join(f"{n} {kind}" for kind, n in sorted(done.skipped.items()))
        lines.append(
            f"RTL {run.name}: {sum(done.tiles.values())} tiles of {len(done.tiles)} layers, "
            f"{done.outputs} outputs in {done.cycles} cycles of the Verilated engine, identical"
            + (f"; not replayed: {skipped}" if skipped else "")
        )
    return lines


def format_table(rows: list[dict[str, Any]]) -> Table:
    """The table of ``opennpe formats``."""
    columns = {
        "format": "left",
        "kind": "left",
        "bits": "right",
        "values": "right",
        "smallest": "right",
        "largest": "right",
        "unit": "right",
        "significand": "right",
        "engine": "left",
    }
    cells = [
        [
            row["name"],
            f"{row['block']} x {row['element']}" if "block" in row else row["kind"],
            str(row["bits"]),
            str(row["values"]),
            f"{row['minpos']:.6g}",
            f"{row['maxpos']:.6g}",
            f"2^{row['lsb_log2']}",
            str(row["significand_bits"]),
            "yes" if row["engine"] else "",
        ]
        for row in rows
    ]
    return table("Number formats; also posit(n,es) for n up to 16, es up to 2", columns, cells)


def code_table(about: dict[str, Any], rows: list[dict[str, Any]]) -> Table:
    """The codes of one format in four columns of hex, bits and value."""
    digits = -(-about["bits"] // 4)
    width = 4 if about["bits"] > 4 else 2
    height = -(-len(rows) // width)
    title = f"{about['name']}: {about['values']} values, {about['minpos']:g} to {about['maxpos']:g}"
    grid = Table(title=title, box=SIMPLE_HEAD, title_justify="left", title_style="bold")
    for _ in range(width):
        grid.add_column("code", no_wrap=True)
        grid.add_column("value", justify="right", no_wrap=True)
    for line in range(height):
        cells: list[str] = []
        for row in rows[line::height]:
            cells += [f"{row['code']:0{digits}x} {row['bits']}", f"{row['value']}"]
        grid.add_row(*cells)
    return grid


SVG = """<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: "DejaVu Sans Mono", Menlo, Consolas, monospace;
  font-size: {char_height}px; line-height: {line_height}px; }}
.{unique_id}-title {{ font: bold 18px sans-serif; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" /></clipPath>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}<g class="{unique_id}-matrix">{matrix}</g></g>
</svg>
"""


def svg(title: str, *parts: Any) -> str:
    """Tables and lists of lines as a picture of a terminal, for the documentation."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        out = Console(record=True, width=110, file=nowhere, highlight=False)
        for part in parts:
            for item in part if isinstance(part, list) else [part]:
                out.print(item, markup=False)
        return out.export_svg(title=title, code_format=SVG, unique_id="opennpe")


def network_table(about: dict[str, Any]) -> Table:
    """The table of ``opennpe quantize``."""
    rows = [
        ["layers", ", ".join(f"{n} {kind}" for kind, n in about["layers"].items())],
        ["weights", ", ".join(f"{count(n)} {f}" for f, n in about["weights_by_format"].items())],
        ["weight bytes", str(about["weight_bytes"])],
        ["MACs per sample", count(about["macs_per_sample"])],
    ]
    for side in ("inputs", "outputs"):
        for name, tensor in about[side].items():
            shape = "x".join(map(str, tensor["shape"]))
            scale = f"{tensor['format']} x 2^{tensor['scale_log2']}"
            rows.append([f"{side[:-1]} {name}", f"{shape} {scale}"])
    grid = table(about["name"], {"what": "left", "value": "left"}, rows)
    grid.show_header = False
    return grid


def port_table(manifest: dict[str, Any]) -> Table:
    """The table of ``opennpe rtl``: ports, and the fields of those that have some."""
    rows = []
    for port in manifest["ports"]:
        rows.append([port["name"], port["direction"], str(port["width"]), ""])
        for field in port.get("fields", ()):
            bits = f"{field['offset'] + field['width'] - 1}:{field['offset']}"
            rows.append([f"  .{field['name']}", "", str(field["width"]), bits])
    title = (
        f"{manifest['top']}, {manifest['latency_cycles']} cycles: {', '.join(manifest['stages'])}"
    )
    columns = {"port": "left", "direction": "left", "width": "right", "bits": "right"}
    return table(title, columns, rows)


def bench_table(rows: Sequence[Any], size: int, threads: int) -> Table:
    """The table of ``opennpe bench``."""
    columns = {
        "kernel": "left",
        "data": "left",
        "ms": "right",
        "GOP/s": "right",
        "x float32": "right",
    }
    title = f"matmul {size}x{size}x{size}, {_threads(threads)}, medians"
    cells = [
        [r.kernel, r.data, f"{r.milliseconds:.2f}", f"{r.gops:.3g}", f"{r.ratio:.3g}"] for r in rows
    ]
    return table(title, columns, cells)


def network_bench_table(rows: Sequence[Any], size: int, threads: int) -> Table:
    """The table of ``opennpe bench --networks``."""
    columns = {"network": "left", "kernel": "left", "ms": "right", "x torch's time": "right"}
    title = f"one {size}x{size} image, {_threads(threads)}, medians"
    cells = [[r.network, r.kernel, f"{r.milliseconds:.2f}", f"{r.ratio:.2f}"] for r in rows]
    return table(title, columns, cells)


def run_bench_table(rows: Sequence[Any], size: int, threads: int) -> Table:
    """The table of ``opennpe bench --coprocessor``."""
    columns = {
        "network": "left",
        "kernel": "left",
        "ms": "right",
        "cycles": "right",
        "x gates": "right",
    }
    cells = [
        [r.network, r.kernel, f"{r.milliseconds:.2f}", str(r.cycles), _times(r.ratio)] for r in rows
    ]
    return table(f"co-processor, ResNet-18 on {size}x{size}", columns, cells)


def _times(ratio: float) -> str:
    return "" if ratio != ratio else f"{ratio:.0f}"


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def doctor_table(findings: list[Any]) -> Table:
    """The table of ``opennpe doctor``."""
    columns = {"what": "left", "for": "left", "needed by": "left", "found": "left"}
    needs = {"needed": "make sim", "tests": "make test", "optional": ""}
    rows = [[f.name, f.use, needs[f.level], f.found or "missing"] for f in findings]
    return table("What is installed", columns, rows)


def doctor_lines(findings: list[Any]) -> list[str]:
    """A line a cure, those of missing necessities first."""
    missing = [item for item in findings if item.cure]
    order = ("needed", "tests", "optional")
    lines = [
        f"{item.name} ({_urgency(item.level)}): {item.cure}"
        for item in sorted(missing, key=lambda item: order.index(item.level))
    ]
    needed = [item.name for item in missing if item.level == "needed"]
    verdict = f"make sim lacks {', '.join(needed)}" if needed else "make sim has all it needs"
    return [*lines, verdict]


def _urgency(level: str) -> str:
    """How a level reads in a cure."""
    return {"needed": "missing", "tests": "missing for the tests", "optional": "optional"}[level]
