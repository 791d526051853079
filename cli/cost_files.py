"""Files of a report: CSV tables with units in the names of columns, a page, a roofline."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from opennpe.cli import cost_page
from opennpe.cli.cost import Report
from opennpe.cli.cost_roofline import Roofline, standalone
from opennpe.cli.cost_rows import energy_rows, layer_summary
from opennpe.cli.files import output_file, output_folder
from opennpe.golden.errors import DataError
from opennpe.tech.figures import Figure, worst

__all__ = ["peak_rows", "write"]


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows({k: "" if v is None else v for k, v in row.items()} for row in rows)
    return text.getvalue()


def peak_rows(report: Report) -> list[dict[str, Any]]:
    """A row a spec and format; units in names, blanks where no energies are known."""
    rows = []
    for one in report.specs:
        for peak in one.peaks:
            row = {"spec": one.spec.name, "library": one.area.library, "node_nm": one.area.node_nm}
            row |= {"format": peak.format, "macs_per_cycle": peak.macs_per_cycle}
            names = ("gops", "gops_per_mm2", "gops_per_engine_mm2", "engine_pj_per_step",
                     "engine_tops_per_w")  # fmt: skip
            held = peak.figures()
            for name in names:
                row[name] = held[name].value if name in held else None
            labels = {name: held[name].label for name in names if name in held}
            rows.append(row | {"label": worst(*labels.values())})
    return rows


def write(
    report: Report,
    folder: str | Path | None = None,
    page: str | Path | None = None,
    picture: str | Path | None = None,
) -> None:
    """Write CSV files into a folder, a page, the roofline; each appears whole or not at all.

    Raises:
        DataError: a roofline without a run.
        OutputError: they cannot be written.
    """
    roofs = report.roofline()
    if picture is not None and roofs is None:
        raise DataError("a roofline is that of a network's run: give one by --network and --data")
    if folder is not None:
        with output_folder(folder) as there:
            for name, rows in _tables(report, roofs).items():
                if rows:
                    (there / f"{name}.csv").write_text(_csv(rows), encoding="utf-8")
    if page is not None:
        text = cost_page.page(report)
        with output_file(page) as temporary:
            temporary.write_text(text, encoding="utf-8")
    if picture is not None and roofs is not None:
        title = f"Roofline of {report.specs[0].spec.name}"
        with output_file(picture) as temporary:
            temporary.write_text(standalone(roofs, title), encoding="utf-8")


def _tables(report: Report, roofs: Roofline | None) -> dict[str, list[dict[str, Any]]]:
    """Rows of each CSV file by its name."""
    blocks = [
        {
            "spec": one.spec.name,
            "library": one.area.library,
            "recipe": one.area.recipe,
            **row,
            "label": "measured",
        }
        for one in report.specs
        for row in one.summary()["blocks"]
    ]
    found = {
        "blocks": blocks,
        "peaks": peak_rows(report),
        "comparison": [entry.summary() for entry in report.comparison()],
        "bands": _band_rows(report),
    }
    if report.run is not None and roofs is not None:
        found["layers"] = [layer_summary(row) for row in (*report.run.layers, report.run.total)]
        found["energy"] = energy_rows(report.run)
        found["roofline"] = roofs.rows()
    return found


def _band_rows(report: Report) -> list[dict[str, Any]]:
    """Every figure at 28 nm: a row a quantity and method, the unit a column of its own."""
    rows: list[dict[str, Any]] = []

    def add(spec: str, library: str, what: str, figures: Mapping[str, Figure]) -> None:
        rows.extend(
            {"spec": spec, "library": library, "quantity": what, "method": method,
             "value": f.value, "unit": f.unit, "label": f.label, "source": f.source}
            for method, f in figures.items()
        )  # fmt: skip

    for one in report.specs:
        for what, figures in one.at_28_nm.items():
            add(one.spec.name, one.area.library, what, figures)
    if report.run is not None:
        for what, held in report.run.bands.items():
            add(report.run.spec, report.run.library, f"run_{what}", held.figures)
    return rows
