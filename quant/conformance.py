"""The ONNX operator conformance cases, through import, calibration and the exact evaluator.

``python -m opennpe.quant.conformance --out docs/conformance.md`` writes the table. Integer and
boolean inputs, and the inputs that are parameters of a layer (weights, slopes, bounds), become
initialisers, as this importer takes them from the model. Every case runs in posit16.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import numpy_helper
from opennpe.golden import catalog, formats, reference
from opennpe.golden.errors import OpenNPEError
from opennpe.golden.whole import replacing
from opennpe.quant import calibration, float_eval, importer
from opennpe.quant.fold_constants import FOLDABLE
from opennpe.quant.graph import Array, Graph
from opennpe.quant.policy import Policy

__all__ = ["Outcome", "cases", "report", "run_case", "table"]

TOLERANCE = 5e-3
"""Largest relative L2 error of a passing output; posit16 keeps 12 bits around 1."""
FORMAT = "posit16"
PARAMETERS = {
    "Conv": range(1, 3),
    "BatchNormalization": range(1, 5),
    "PRelu": range(1, 2),
    "Clip": range(1, 3),
    "Pad": range(1, 4),
    "Resize": range(1, 4),
    "Upsample": range(1, 2),
    "Pow": range(1, 2),
    "QuantizeLinear": range(1, 3),
    "DequantizeLinear": range(1, 3),
    "Dropout": range(1, 3),
    "LayerNormalization": range(1, 3),
    "RMSNormalization": range(1, 2),
    "RotaryEmbedding": range(1, 4),
}
"""Inputs of an operator that are parameters, by position."""
HELPERS = FOLDABLE | {"Constant", "Shape", "Size"}

Status = Literal["pass", "refused", "out of scope", "inaccurate", "wrong shape", "crash"]
Runner = Callable[[Any, dict[str, Any]], dict[str, Array]]


@dataclass(frozen=True)
class Outcome:
    """What became of one case; ``why`` explains anything but a pass."""

    name: str
    operator: str
    status: Status
    why: str = ""


def cases() -> Iterator[Any]:
    """Every conformance case of the onnx package."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield from collect_testcases(None)


def golden_runner(network: Any, inputs: dict[str, Any]) -> dict[str, Array]:
    """Output codes by the slow reference."""
    tensors = reference.evaluate(catalog.get("EDGE_4X4"), network, inputs)
    return {name: tensors[name] for name in network.outputs}


def run_case(case: Any, runner: Runner = golden_runner) -> Outcome:
    """Import, calibrate on the case's own inputs, run, compare shape and values."""
    operators = {node.op_type for node in case.model.graph.node}
    main = _operator(case, operators)
    data = _data(case)
    scope = _out_of_scope(case, operators, data)
    if scope:
        return Outcome(case.name, main, "out of scope", scope)
    try:
        status, why = _compare(case, data, runner)
    except OpenNPEError as error:
        lines = str(error).splitlines()
        return Outcome(case.name, main, "refused", lines[-1].strip() if lines else "")
    except Exception as error:
        # A crash is the finding here, whatever was raised.
        return Outcome(case.name, main, "crash", f"{type(error).__name__}: {error}")
    return Outcome(case.name, main, status, why)


def _operator(case: Any, operators: set[str]) -> str:
    if len(operators) == 1:
        return next(iter(operators))
    return "expanded functions"


def _data(case: Any) -> tuple[list[Any], list[Any]]:
    """Inputs and outputs; tensors that the case keeps encoded become arrays."""
    if not case.data_sets:
        return [], []
    inputs, outputs = (
        [numpy_helper.to_array(v) if isinstance(v, onnx.TensorProto) else v for v in side]
        for side in case.data_sets[0]
    )
    return inputs, outputs


def _out_of_scope(case: Any, operators: set[str], data: tuple[list[Any], list[Any]]) -> str:
    graph = case.model.graph
    foreign = sorted(operators - set(importer.OPERATORS) - HELPERS)
    if foreign:
        return f"not an operator of the importer: {', '.join(foreign)}"
    if not operators & set(importer.OPERATORS):
        return "computed at import only"
    if any(i.type.WhichOneof("value") != "tensor_type" for i in (*graph.input, *graph.output)):
        return "sequences or optional values"
    inputs, outputs = data
    if not inputs:
        return "no inputs"
    floats = [isinstance(v, np.ndarray | np.generic) and _is_float(v) for v in inputs]
    arrays = all(isinstance(v, np.ndarray | np.generic) for v in (*inputs, *outputs))
    if not arrays or not any(floats) or not all(_is_float(v) for v in outputs):
        return "integer, boolean or text tensors"
    return ""


def _is_float(value: Any) -> bool:
    return np.asarray(value).dtype.kind == "f" or "float" in str(np.asarray(value).dtype)


def _compare(case: Any, data: tuple[list[Any], list[Any]], runner: Runner) -> tuple[Status, str]:
    given, expected = data
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    names = [item.name for item in model.graph.input]
    arrays = dict(zip(names, map(np.asarray, given), strict=False))
    dynamic = _bind(model, arrays)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.onnx"
        path.write_bytes(model.SerializeToString())
        graph = importer.load_onnx(path)
    values = {n: arrays[n].astype(np.float32) for n in graph.inputs if n in dynamic}
    finite = {n: np.where(np.isfinite(v), v, 0) for n, v in values.items()}
    network = calibration.calibrate(graph, finite, Policy.uniform(FORMAT))
    codes = runner(network, values)
    for name, wanted in zip(network.outputs, expected, strict=True):
        reference_values = np.asarray(wanted).astype(np.float64)
        result = network.tensors[name].decode(codes[name])
        if result.shape != reference_values.shape:
            return "wrong shape", f"{name}: {result.shape}, expected {reference_values.shape}"
        error = _distance(result, reference_values)
        if error <= TOLERANCE:
            continue
        least = _distance(_rounded_inputs(graph, network, values)[name], reference_values)
        if least > TOLERANCE:
            return "out of scope", f"its inputs rounded to {FORMAT} alone move it by {least:.1e}"
        wide = _too_wide(graph, values)
        if wide:
            return "out of scope", wide
        return "inaccurate", f"{name}: relative L2 error {error:.2e}"
    return "pass", ""


def _rounded_inputs(graph: Graph, network: Any, values: dict[str, Array]) -> dict[str, Array]:
    """The float graph on inputs that the format can hold."""
    held = {n: network.tensors[n].decode(network.tensors[n].encode(v)) for n, v in values.items()}
    return float_eval.evaluate(graph, held, np.float64)


def _bind(model: Any, arrays: dict[str, Array]) -> set[str]:
    """Turn parameters into initialisers; the names of the inputs that stay."""
    parameters = {n for n, a in arrays.items() if not _is_float(a)}
    for node in model.graph.node:
        for index in PARAMETERS.get(node.op_type, ()):
            if index < len(node.input):
                parameters.add(node.input[index])
    for name in parameters & set(arrays):
        model.graph.initializer.append(numpy_helper.from_array(arrays[name], name))
    return set(arrays) - parameters


def _distance(result: Array, wanted: Array) -> float:
    finite = np.isfinite(wanted)
    if not finite.all():
        # Posits have no infinity: those elements saturate or become NaR.
        result, wanted = result[finite], wanted[finite]
    if not wanted.size:
        return 0.0
    norm = float(np.linalg.norm(wanted))
    return float(np.linalg.norm(result - wanted)) / (norm or 1.0)


def _too_wide(graph: Graph, values: dict[str, Array]) -> str:
    """The first tensor whose magnitudes span more than the format has, in words."""
    fmt = formats.get(FORMAT)
    room = np.log2(fmt.maxpos) - np.log2(fmt.minpos)
    for name, tensor in float_eval.evaluate(graph, values, np.float64).items():
        sizes = np.abs(tensor[np.isfinite(tensor) & (tensor != 0)])
        if sizes.size and np.log2(sizes.max()) - np.log2(sizes.min()) > room:
            return f"tensor '{name}' spans more than the 2**{room:.0f} that {FORMAT} holds"
    return ""


# -- the table ---------------------------------------------------------------------------------


def report(outcomes: Iterable[Outcome]) -> str:
    """The table as Markdown."""
    listed = list(outcomes)
    totals = Counter(o.status for o in listed)
    by_operator: dict[str, Counter[str]] = defaultdict(Counter)
    for outcome in listed:
        if outcome.status != "out of scope":
            by_operator[outcome.operator][outcome.status] += 1
    lines = [
        "# ONNX operator conformance",
        "",
        f"The {len(listed)} cases of `onnx.backend.test.case.node` (onnx {onnx.__version__}), "
        f"imported, calibrated on their own inputs and run bit-exactly in {FORMAT}. A case passes "
        f"when every output has the expected shape and lies within {TOLERANCE:g} relative L2 of "
        "the expected values. Made by `python -m opennpe.quant.conformance --out "
        "docs/conformance.md`.",
        "",
        "| outcome | cases |",
        "|---|---|",
        *(f"| {s} | {totals[s]} |" for s in _STATUSES),
        "",
        "Out of scope are operators that the importer does not have, and integer, boolean and "
        "text tensors. Refused means one clear message that names the node.",
        "",
        "| operator | pass | refused | inaccurate | wrong shape | crash |",
        "|---|---|---|---|---|---|",
    ]
    for name in sorted(by_operator):
        counts = by_operator[name]
        cells = " | ".join(str(counts[s]) for s in _STATUSES if s != "out of scope")
        lines.append(f"| {name} | {cells} |")
    lines += ["", "## Refused, and why", "", "| case | why |", "|---|---|"]
    lines += [f"| {o.name} | {_cell(o.why)} |" for o in listed if o.status == "refused"]
    bad = [o for o in listed if o.status in ("inaccurate", "wrong shape", "crash")]
    if bad:
        lines += ["", "## Failures", "", "| case | outcome | why |", "|---|---|---|"]
        lines += [f"| {o.name} | {o.status} | {_cell(o.why)} |" for o in bad]
    return "\n".join(lines) + "\n"


_STATUSES: tuple[Status, ...] = (
    "pass",
    "refused",
    "inaccurate",
    "wrong shape",
    "crash",
    "out of scope",
)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def table(out: Path, runner: Runner = golden_runner) -> list[Outcome]:
    """Run every case and write the table, whole or not at all."""
    outcomes = [run_case(case, runner) for case in cases()]
    with replacing(out) as temporary:
        temporary.write_text(report(outcomes), encoding="utf-8")
    return outcomes


def main() -> int:
    """The command: status 1 when a case crashed or had a wrong shape."""
    parser = argparse.ArgumentParser(prog="opennpe.quant.conformance", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/conformance.md"))
    outcomes = table(parser.parse_args().out)
    counts = Counter(o.status for o in outcomes)
    print(", ".join(f"{counts[s]} {s}" for s in _STATUSES))
    return 1 if counts["crash"] or counts["wrong shape"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
