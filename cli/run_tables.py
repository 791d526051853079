"""What ``opennpe run`` prints: layers with their cycles, counters, what was compared."""

from __future__ import annotations

from opennpe.cli import cost_quick
from opennpe.cli.run import LayerCycles, Report
from opennpe.cli.tables import count, table
from rich.table import Table

__all__ = ["layer_table", "report_lines"]

COLUMNS = {
    "layer": "left",
    "MACs": "right",
    "cycles": "right",
    "share": "right",
    "of peak": "right",
    "busy": "right",
    "blocked": "right",
    "waiting": "right",
    "loads": "right",
    "fills": "right",
    "execs": "right",
    "stores": "right",
}


def layer_table(report: Report) -> Table:
    """A line a layer, from the cycle model."""
    title = f"{report.model} on {report.spec}: cycles by layer (cycle model)"
    return table(title, COLUMNS, [_row(row, report.cycles) for row in report.layers])


def _row(row: LayerCycles, cycles: int) -> list[str]:
    span = row.span
    return [
        span.name,
        "" if not row.macs else count(row.macs),
        str(span.cycles),
        f"{100 * span.cycles / cycles:.1f} %",
        "" if row.utilisation is None else f"{100 * row.utilisation:.1f} %",
        *(f"{100 * part / max(1, span.cycles):.1f} %" for part in (span.busy, span.blocked)),
        f"{100 * span.waiting / max(1, span.cycles):.1f} %",
        *(str(n) for n in (span.loads, span.fills, span.execs, span.stores)),
    ]


def report_lines(report: Report) -> list[str]:
    """Counters, speed, what was compared and what came out."""
    memory = report.settings
    lines = [
        f"memory: {memory.read_latency} cycles of latency, a beat every {memory.read_interval}",
    ]
    if report.counters is None:
        lines.append(f"{report.backend}: counts no cycles; the cycle model says {report.cycles}")
    else:
        c = report.counters
        lines.append(
            f"{report.backend}: {c.cycles} cycles a sample, {100 * c.busy / c.cycles:.1f} % busy, "
            f"{c.read_stalls} stalled on reads, {c.write_stalls} on writes, {c.beats_read} beats "
            f"read, {c.beats_written} written"
        )
    macs = sum(row.macs or 0 for row in report.layers)
    if macs:
        lines.append(f"{count(macs)} MACs a sample, {macs / report.cycles:.2f} a cycle")
    if report.cost is not None:
        lines.append(cost_quick.line(report.spec, report.cost))
    if report.backend == "rtl":
        speed = report.samples * report.cycles / report.seconds
        lines.append(
            f"{report.samples} sample{'s' * (report.samples > 1)} in {report.seconds:.2f} s, "
            f"{count(speed)} cycles/s"
        )
    if report.checked is not None:
        tensors, codes = report.checked
        counted = "" if report.counters is None else ", counters equal to the cycle model's"
        lines.append(f"checked: {tensors} tensors, {codes} codes identical{counted}")
    for name, values in report.values.items():
        if values.size <= 16 * report.samples:
            for sample in values:
                numbers = " ".join(f"{value:.4g}" for value in sample.ravel())
                lines.append(f"{name}: {numbers}")
    return lines
