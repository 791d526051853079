"""``opennpe sim`` from end to end on a small network, and one line for every bad input."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cli_models as models
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from opennpe.cli.main import main
from opennpe.golden import catalog, formats, reference, storage

FORMATS = formats.ENGINE_FORMATS
SAMPLES = 9


@pytest.fixture
def case(tmp_path: Path) -> dict[str, Path]:
    rng = np.random.default_rng(0)
    data = tmp_path / "data.npz"
    np.savez(data, x=rng.normal(size=(SAMPLES, 2, 8, 8)), y=rng.integers(0, 5, SAMPLES))
    model = models.save(models.classifier(), tmp_path / "model.onnx")
    return {"model": model, "data": data, "out": tmp_path / "out"}


def sim(case: dict[str, Path], *more: str) -> int:
    return main(["sim", str(case["model"]), "--data", str(case["data"]), "--out",
                 str(case["out"]), *more])  # fmt: skip


def test_every_format_with_files_and_table(
    case: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert sim(case) == 0
    captured = capsys.readouterr()
    shown = [line.split()[0] for line in captured.out.splitlines() if "%" in line]
    assert shown == ["fp32", *FORMATS]
    assert "\x1b" not in captured.out + captured.err and "posit16:" in captured.err
    assert sorted(p.name for p in case["out"].iterdir()) == [
        "cycles.png", "error.png", "layers.csv", "metric.png", "outputs.npz", "summary.json",
        "values.png",
    ]  # fmt: skip
    summary = json.loads((case["out"] / "summary.json").read_text())
    assert summary["metric"] == "top1" and summary["samples"] == SAMPLES
    rows = list(csv.DictReader((case["out"] / "layers.csv").open()))
    assert {row["run"] for row in rows} == set(FORMATS)
    for name in FORMATS:
        run = summary["runs"][name]
        mine = [row for row in rows if row["run"] == name]
        assert run["macs_per_sample"] == sum(int(row["macs_per_sample"]) for row in mine)
        assert run["macs_per_sample"] == 64 * 6 * 18 + 9 * 6 * 9 + 30
    assert summary["runs"]["posit16"]["relative_l2_to_fp32"]["scores"] < 1e-2
    cycles = [summary["runs"][name]["engine_cycles_per_sample"] for name in FORMATS]
    assert cycles[0] == cycles[1] and 0 < max(cycles[:3]) < cycles[3]


def test_outputs_are_golden_s(case: dict[str, Path], tmp_path: Path) -> None:
    assert sim(case, "--format", "fp4,posit8", "--threads", "1") == 0
    with np.load(case["out"] / "outputs.npz") as held:
        outputs = dict(held)
    x = np.load(case["data"])["x"]
    for name in ("fp4", "posit8"):
        net = tmp_path / f"{name}.npz"
        arguments = ["quantize", str(case["model"]), "--data", str(case["data"]), "--out", str(net)]
        assert main([*arguments, "--format", name]) == 0
        network = storage.load(net)
        spec = catalog.get("EDGE_4X4")
        inputs = {"image": x.astype(np.float32)}
        codes = reference.evaluate(spec, network, inputs)["scores"]
        np.testing.assert_array_equal(outputs[f"{name}/scores/codes"], codes)
        values = network.tensors["scores"].decode(codes)
        np.testing.assert_array_equal(outputs[f"{name}/scores/values"], values)
    assert {key.split("/")[0] for key in outputs} == {"fp32", "fp4", "posit8"}


def test_batches_and_seeds_change_no_bit(
    case: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from opennpe.cli import study

    seen = []
    for size, seed in ((64, 0), (2, 3), (1, 1)):
        monkeypatch.setattr(study, "BATCH_SAMPLES", size)
        assert sim(case, "-f", "posit8", "-f", "posit16", "--seed", str(seed)) == 0
        with np.load(case["out"] / "outputs.npz") as held:
            seen.append({k: v for k, v in held.items() if k.endswith("codes")})
    for other in seen[1:]:
        for key, codes in seen[0].items():
            np.testing.assert_array_equal(codes, other[key])


def test_json_and_samples_and_metric(
    case: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--samples", "3", "--metric", "cosine", "--json", "-f", "posit8", "--underflow"]
    assert sim(case, *more, "minpos", "--spec", "EDGE_8X8") == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["samples"], summary["metric"], summary["underflow"]) == (3, "cosine", "minpos")
    assert summary["spec"] == "EDGE_8X8" and list(summary["runs"]) == ["posit8"]
    assert 0.9 < summary["runs"]["posit8"]["cosine"] <= 1


def test_a_fixed_batch_and_a_single_sample(case: dict[str, Path]) -> None:
    models.save(models.classifier(batch=1), case["model"])
    np.savez(case["data"], image=np.ones((2, 8, 8)))
    assert sim(case, "-f", "posit8") == 0
    with np.load(case["out"] / "outputs.npz") as held:
        assert held["posit8/scores/codes"].shape == (1, 5)


# -- bad input ------------------------------------------------------------------------------


def hostile(path: str) -> onnx.ModelProto:
    model = models.classifier()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=path)
    return model


def absurd() -> onnx.ModelProto:
    x = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 2, 1 << 20, 1 << 20])
    y = helper.make_tensor_value_info("scores", TensorProto.FLOAT, None)
    node = helper.make_node("Relu", ["image"], ["scores"], "relu")
    graph = helper.make_graph([node], "absurd", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def unsupported() -> onnx.ModelProto:
    model = models.classifier()
    for op, name in (("Loop", "one"), ("StringNormalizer", "two")):
        model.graph.node.append(helper.make_node(op, ["scores"], [name], name))
    return model


def truncated(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def put(case: dict[str, Path], model: onnx.ModelProto) -> None:
    models.save(model, case["model"])


BAD: dict[str, tuple[Any, list[str], str]] = {
    "truncated model": (lambda c: truncated(c["model"]), [], "model.onnx"),
    "no model": (lambda c: c["model"].unlink(), [], "model.onnx"),
    "empty model": (lambda c: c["model"].write_bytes(b""), [], "model.onnx"),
    "text as model": (lambda c: c["model"].write_text("hello\n" * 99), [], "model.onnx"),
    "external data above": (lambda c: put(c, hostile("../../etc/passwd")), [], "passwd"),
    "external data elsewhere": (lambda c: put(c, hostile("/etc/passwd")), [], "passwd"),
    "external data missing": (lambda c: put(c, hostile("missing.bin")), [], "missing.bin"),
    "absurd shapes": (lambda c: put(c, absurd()), [], "1048576"),
    "NaN weights": (lambda c: put(c, models.classifier(bad=np.nan)), [], "w2|conv2"),
    "infinite weights": (lambda c: put(c, models.classifier(bad=np.inf)), [], "w2|conv2"),
    "unsupported nodes": (lambda c: put(c, unsupported()), [], "Loop.*StringNormalizer"),
    "wrong data shape": (
        lambda c: np.savez(c["data"], x=np.zeros((4, 8, 8, 2))),
        [],
        r"'x' has shape \(4, 8, 8, 2\), expected \(N, 2, 8, 8\)",
    ),
    "missing input": (lambda c: np.savez(c["data"], z=np.zeros(3)), [], "lacks the input 'image'"),
    "no data": (lambda c: c["data"].unlink(), [], "no data file"),
    "truncated data": (lambda c: truncated(c["data"]), [], "data.npz"),
    "unknown format": (None, ["-f", "posit5"], "unknown format 'posit5': expected one of"),
    "block format": (None, ["-f", "mxfp4"], "mxfp4"),
    "format twice": (None, ["-f", "fp4,fp4"], "two runs are called 'fp4'"),
    "unknown spec": (None, ["--spec", "HUGE"], "unknown spec 'HUGE': expected one of EDGE_1X1"),
    "unknown rule": (None, ["--underflow", "half"], "expected 'minpos' or 'zero'"),
    "unknown metric": (None, ["--metric", "bleu"], "unknown metric 'bleu'"),
    "unknown method": (None, ["--method", "magic"], "magic"),
    "no such policy": (None, ["-p", "nowhere.toml"], "nowhere.toml"),
    "no calibration": (None, ["--calibration", "nowhere.npz"], "no data file 'nowhere.npz'"),
    "no samples": (None, ["--samples", "0"], "samples"),
    "unwritable folder": (lambda c: c["out"].write_text(""), [], "cannot write to .*not a folder"),
    "too many terms": (
        lambda c: (
            put(c, models.wide(40_000)),
            np.savez(c["data"], image=np.ones((1, 40_000))),
        ),
        ["-f", "posit16"],
        "'too_wide'.*40000 terms.*32767|too_wide.*40000",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(
    name: str, case: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare, more, message = BAD[name]
    if prepare is not None:
        prepare(case)
    before = sorted(tmp_path.rglob("*"))
    assert sim(case, *more) == 2
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("opennpe: error: ")]
    assert len(errors) == 1 and re.search(message, errors[0]), captured.err
    assert captured.err.splitlines()[-1] == errors[0] and not captured.out
    assert sorted(tmp_path.rglob("*")) == before


def test_an_interrupt_leaves_nothing(
    case: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from opennpe.cli import results

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(results, "write", interrupted)
    before = sorted(tmp_path.rglob("*"))
    assert sim(case, "-f", "fp4") == 130
    assert sorted(tmp_path.rglob("*")) == before


def test_a_bug_keeps_its_traceback(
    case: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from opennpe.cli import results

    def buggy(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(results, "write", buggy)
    with pytest.raises(ZeroDivisionError):
        sim(case, "-f", "fp4")
    assert not case["out"].exists()


def test_the_command_as_a_process(case: dict[str, Path]) -> None:
    command = [sys.executable, "-c", "from opennpe.cli.main import app; app()", "sim"]
    more = [str(case["model"]), "--data", str(case["data"]), "--out", str(case["out"])]
    done = subprocess.run(
        [*command, *more, "-f", "posit5"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and not done.stdout
