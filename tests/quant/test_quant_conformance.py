"""The ONNX operator conformance cases through import, calibration, golden and the simulator."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from opennpe import sim
from opennpe.golden import catalog
from opennpe.quant import conformance

ROOT = Path(__file__).parents[2]


def both(network: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Golden's codes; what the simulator gives otherwise becomes a crash of the case."""
    wanted = conformance.golden_runner(network, inputs)
    got, _ = sim.run(catalog.get("EDGE_4X4"), network, inputs, threads=1)
    for name, codes in wanted.items():
        np.testing.assert_array_equal(got[name], codes, strict=True)
    return wanted


@pytest.fixture(scope="module")
def outcomes() -> list[conformance.Outcome]:
    return [conformance.run_case(case, both) for case in conformance.cases()]


def test_a_simulator_that_is_off_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    case = next(c for c in conformance.cases() if c.name == "test_relu")
    right = sim.run

    def wrong(*arguments: Any, **settings: Any) -> Any:
        codes, trace = right(*arguments, **settings)
        return {name: value ^ 1 for name, value in codes.items()}, trace

    assert conformance.run_case(case, both).status == "pass"
    monkeypatch.setattr(sim, "run", wrong)
    assert conformance.run_case(case, both).status == "crash"


def test_no_case_crashes_or_is_silently_wrong(outcomes: list[conformance.Outcome]) -> None:
    bad = [o for o in outcomes if o.status in ("crash", "wrong shape", "inaccurate")]
    assert not bad, bad[:5]


def test_most_cases_of_the_listed_operators_pass(outcomes: list[conformance.Outcome]) -> None:
    counts = Counter(o.status for o in outcomes)
    assert len(outcomes) > 1500
    assert counts["pass"] >= 450
    assert all(o.why for o in outcomes if o.status == "refused")


def test_every_operator_of_the_contract_passes_somewhere(
    outcomes: list[conformance.Outcome],
) -> None:
    passed = {o.operator for o in outcomes if o.status == "pass"}
    wanted = set(
        "Conv Gemm MatMul Add Sub Mul Div Relu Clip LeakyRelu PRelu Sigmoid Tanh HardSwish "
        "HardSigmoid Gelu Swish Elu Selu Softplus Softsign Mish Exp Log Sqrt Reciprocal Erf Abs "
        "Neg MaxPool AveragePool GlobalAveragePool GlobalMaxPool ReduceMean ReduceMax ReduceSum "
        "Concat Resize Upsample Pad Slice Split Reshape Flatten Squeeze Unsqueeze Expand "
        "Transpose DepthToSpace SpaceToDepth Softmax LogSoftmax BatchNormalization Identity "
        "Dropout Cast Sum Min Max".split()
    )
    assert not wanted - passed


def test_the_committed_table_is_current(outcomes: list[conformance.Outcome]) -> None:
    table = ROOT / "docs" / "conformance.md"
    assert table.read_text(encoding="utf-8") == conformance.report(outcomes), (
        "docs/conformance.md is stale: python -m opennpe.quant.conformance --out "
        "docs/conformance.md"
    )
