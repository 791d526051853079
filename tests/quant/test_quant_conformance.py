"""The ONNX operator conformance cases through import, calibration and the exact reference."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from opennpe.quant import conformance

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def outcomes() -> list[conformance.Outcome]:
    return [conformance.run_case(case) for case in conformance.cases()]


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
