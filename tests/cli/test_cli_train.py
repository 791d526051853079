"""The command train: a table, JSON, one line and status 2 for what is wrong."""

import json
import sys
import types
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

sys.path.insert(0, str(Path(__file__).parents[1] / "quant"))

from blobs import RECIPE, Blobs  # noqa: E402
from opennpe.cli import main, train  # noqa: E402
from opennpe.golden import storage  # noqa: E402


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A recipe file whose workload the registry knows."""
    registry = types.ModuleType("registry")
    registry.get = lambda name, **options: Blobs(**options)
    monkeypatch.setitem(sys.modules, "opennpe.quant.workloads.registry", registry)
    monkeypatch.setattr("opennpe.quant.workloads.registry", registry, raising=False)
    file = tmp_path / "r.toml"
    file.write_text(RECIPE)
    return file


def test_a_recipe_is_run_and_shown(recipe, tmp_path, capsys):
    out = tmp_path / "run"
    assert main.main(["train", str(recipe), "--out", str(out), "--sim", "20"]) == 0
    shown = capsys.readouterr()
    for text in ("float (float)", "rounded (full)", "rounded after", "simulated", "network.npz"):
        assert text in shown.out
    assert "rounded, epoch 2: loss" in shown.err
    network = storage.load(out / "rounded" / "network.npz")
    images = Blobs().data["test"][0][:8].numpy()
    assert train.simulator(network)((images,)).shape == (8, 4)


def test_json_says_the_same(recipe, tmp_path, capsys):
    command = ["train", str(recipe), "--out", str(tmp_path / "run"), "--json"]
    assert main.main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["score"] == "top1_percent" and found["higher_is_better"]
    assert [stage["stage"] for stage in found["stages"]] == ["float", "rounded"]
    assert main.main([*command, "--resume"]) == 0
    assert json.loads(capsys.readouterr().out) == found


@pytest.mark.parametrize(
    ("change", "options", "expected"),
    [
        (("seed = 3", "sead = 3"), [], "unknown key 'sead', did you mean 'seed'?"),
        (("", ""), ["--resume"], "holds no run to resume"),
        (("", ""), ["--start", "none.pt"], "no checkpoint 'none.pt'"),
        (("", ""), ["--threads", "0"], "threads"),
    ],
)
def test_what_is_wrong_is_one_line_and_status_2(
    recipe, tmp_path, capsys, change, options, expected
):
    recipe.write_text(RECIPE.replace(*change))
    assert main.main(["train", str(recipe), "--out", str(tmp_path / "run"), *options]) == 2
    error = capsys.readouterr().err
    assert expected in error and error.startswith("opennpe: error: ") and error.count("\n") == 1


def test_a_changed_count_of_threads_is_a_changed_recipe(recipe, tmp_path, capsys):
    command = ["train", str(recipe), "--out", str(tmp_path / "run")]
    assert main.main(command) == 0
    assert main.main([*command, "--threads", "2"]) == 2
    assert "threads was 1, now 2" in capsys.readouterr().err


def test_a_loss_that_is_no_number_is_status_2(recipe, tmp_path, capsys):
    recipe.write_text(RECIPE.replace("seed = 3", "seed = 3\noptions = { poison = 9 }"))
    assert main.main(["train", str(recipe), "--out", str(tmp_path / "run")]) == 2
    assert "the loss is nan" in capsys.readouterr().err
