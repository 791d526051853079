"""``opennpe bench``: what it times is right, what it claims follows from what it measured."""

import importlib.util
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from opennpe import quant
from opennpe.cli import bench, bench_softposit, networks, tables
from opennpe.cli.bench import Claim, Timing
from opennpe.cli.errors import CheckFailed
from opennpe.cli.main import main
from opennpe.golden.errors import DataError, ToolError
from opennpe.quant import float_eval

TORCH = importlib.util.find_spec("torch") is not None


@pytest.mark.fast
def test_claims_know_their_direction() -> None:
    assert Claim("speed", 1.2, 1.2).met and not Claim("speed", 1.1, 1.2).met
    assert Claim("time", 0.6, 0.6, at_least=False).met
    assert not Claim("time", 0.7, 0.6, at_least=False).met
    assert str(Claim("x", 0.5, 0.6)) == "x: 0.5, target at least 0.6: MISSED"
    assert str(Claim("x", 0.5, 0.6, False)) == "x: 0.5, target at most 0.6: met"


@pytest.mark.fast
@pytest.mark.parametrize(("isa", "target"), [("avx512vnni", 2.5), ("avx2", 0.9)])
def test_targets_follow_the_processor(
    monkeypatch: pytest.MonkeyPatch, isa: str, target: float
) -> None:
    class Host:
        name = isa

    monkeypatch.setattr(bench.cpu, "host", lambda: Host)
    rows = [
        Timing("float32", "network", 20.0, 100.0, 1.0),
        Timing("fp4", "any", 10.0, 200.0, 2.0),
        Timing("posit16", "network", 100.0, 20.0, 0.2),
        Timing("posit16", "any", 1000.0, 2.0, 0.02),
        Timing("SoftPosit posit16", "any", 40000.0, 0.05, 0.0005),
    ]
    claims = {claim.what: claim for claim in bench._claims(rows)}
    fp4 = next(claim for what, claim in claims.items() if what.startswith("fp4"))
    assert (fp4.target, fp4.met) == (target, target < 2)
    assert not claims["posit16, network data, x float32"].met
    assert claims["posit16, any data, x SoftPosit's quire"].ratio == pytest.approx(40)
    assert len(claims) == 3  # posit16 on any data is only compared with SoftPosit


def test_every_kernel_is_timed_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--size", "64", "--repeat", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    kernels = {(row["kernel"], row["data"]) for row in found["rows"]}
    ours = itertools.product(("fp4", "posit4", "posit8", "posit16"), ("network", "any"))
    theirs = {("float32", "network"), ("SoftPosit posit8", "any"), ("SoftPosit posit16", "any")}
    assert kernels == theirs | set(ours)
    assert all(row["milliseconds"] > 0 and row["ratio"] > 0 for row in found["rows"])
    assert not found["claims"] and any("1024^3" in note for note in found["notes"])


def test_a_wrong_kernel_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = bench.matmul

    def wrong(*arguments: Any, **settings: Any) -> Any:
        return np.asarray(right(*arguments, **settings)) ^ 1

    monkeypatch.setattr(bench, "matmul", wrong)
    with pytest.raises(CheckFailed, match="the posit8 kernel gives"):
        bench.bench(("posit8",), 32, 1)


@pytest.mark.fast
def test_bad_requests_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--format", "posit5", "--size", "32"]) == 2
    assert "unknown format 'posit5'" in capsys.readouterr().err
    with pytest.raises(DataError, match="size and repetitions"):
        bench.bench(size=0)


@pytest.mark.parametrize("name", bench_softposit.QUIRES)
def test_softposit_is_called_as_it_should_be(name: str) -> None:
    rival = bench_softposit.Quire(name, 100)  # compares itself with golden
    assert rival.macs == 64 * 64 * 100 and np.unique(rival()).size > 10
    rival._out ^= 1
    rival._loop = lambda *_: None
    with pytest.raises(CheckFailed, match="SoftPosit gives"):
        rival._check(name)


@pytest.mark.fast
def test_a_missing_rival_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_softposit.shutil, "which", lambda name: None)
    with pytest.raises(ToolError, match="apt-get install gcc"):
        bench_softposit.Quire("posit8", 10)


def test_settings_that_slow_float32_are_dropped() -> None:
    script = (
        "import os; from opennpe.cli.bench_command import fair_environment; "
        "print(fair_environment(3)); "
        "print(os.environ.get('OPENBLAS_CORETYPE'), os.environ['OMP_NUM_THREADS'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"OPENBLAS_CORETYPE": "Prescott", "OPENBLAS_L2_SIZE": "1", "PATH": ""},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    notes, rest = done.stdout.splitlines()
    assert "OPENBLAS_CORETYPE=Prescott" in notes and "OPENBLAS_L2_SIZE=1" in notes
    assert rest == "None 3"


# -- networks -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "parameters"),
    [(networks.resnet18(32), 11_684_712), (networks.mobilenet_v2(32), 3_487_816)],
    ids=["resnet18", "mobilenet_v2"],
)
def test_plans_are_the_published_networks(
    plan: networks.Plan, parameters: int, tmp_path: Path
) -> None:
    """The parameters are torchvision's less one of each normalisation's two, folded into a bias."""
    weights = networks.random_weights(plan)
    assert sum(w.size for w in weights.values()) == parameters
    path = tmp_path / "m.onnx"
    path.write_bytes(networks.to_onnx(plan, weights).SerializeToString())
    x = np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)
    (wanted,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(
        None, {"x": x}
    )
    scores = float_eval.evaluate(quant.load_onnx(path), {"x": x})["scores"]
    np.testing.assert_allclose(scores, wanted, atol=1e-4 * np.abs(wanted).max())
    assert 0.1 < wanted.std() < 100
    if TORCH:
        from opennpe.cli import torch_networks

        for call in torch_networks.ways(plan, weights, x, 1).values():
            np.testing.assert_allclose(call(), wanted, atol=1e-4 * np.abs(wanted).max())


def test_without_torch_one_line_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["bench", "--networks"]) == 2
    error = capsys.readouterr().err
    assert "opennpe[qat]" in error and error.count("\n") == 1


@pytest.mark.skipif(not TORCH, reason="needs PyTorch: pip install 'opennpe[qat]'")
def test_networks_are_timed_against_torch(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "--networks", "--size", "32", "--repeat", "1", "-f", "fp4"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert out.count("fp4") == 2 and out.count("torch fused") == 2
    assert "targets are stated for 224x224 images" in out


def test_a_wrong_network_is_caught() -> None:
    from opennpe.cli import bench_networks

    with pytest.raises(CheckFailed, match="away from the same network"):
        bench_networks._agree("x", np.ones(5), np.ones(5) + 0.01)
    with pytest.raises(CheckFailed, match="away"):
        bench_networks._agree("x", np.full(5, np.nan), np.ones(5))


@pytest.mark.fast
def test_tables_show_every_row() -> None:
    rows = [Timing("fp4", "any", 10.0, 200.0, 2.0)]
    assert tables.bench_table(rows, 64, 1).row_count == 1


def test_one_thing_at_a_time_and_pictures_where_there_are_some(capsys, tmp_path):
    assert main(["bench", "--sparse", "--softmax"]) == 2
    assert "one thing at a time" in capsys.readouterr().err
    assert main(["bench", "--size", "32", "--repeat", "1", "--pictures", str(tmp_path / "p")]) == 2
    assert "no pictures" in capsys.readouterr().err
    assert not (tmp_path / "p").exists()


def test_sparse_execs_reach_what_their_zeros_allow(capsys, tmp_path):
    folder = tmp_path / "pictures"
    assert main(["bench", "--sparse-engine", "--json", "--pictures", str(folder)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["claims"]) >= 7 and all(claim["met"] for claim in found["claims"])
    assert [p.name for p in folder.iterdir()] == ["sparse_engine.png"]
    assert main(["bench", "--sparse-engine", "-f", "bf16"]) == 2
