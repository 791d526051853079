"""Training by a recipe: the same bits after a kill, and nothing lost when something is wrong."""

import csv
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from blobs import RECIPE, Blobs  # noqa: E402
from opennpe.golden import catalog, storage  # noqa: E402
from opennpe.golden.errors import DataError, PolicyError  # noqa: E402
from opennpe.quant.qat import checkpoint, distill, trainer  # noqa: E402
from opennpe.quant.qat.errors import CheckpointError, RecipeError, TrainingError  # noqa: E402
from opennpe.quant.qat.recipe import Distill, Recipe  # noqa: E402
from opennpe.quant.qat.report import Silent  # noqa: E402

MANY = """
version = 1
workload = "blobs"
batch = 16
[[stage]]
name = "dense"
kind = "float"
epochs = 1
lr = 0.05
clip = 1.0
[[stage]]
name = "thin"
kind = "float"
steps = 8
lr = 0.05
[stage.prune]
sparsity = 0.75
every = 2
[stage.distill]
[[stage]]
name = "weights"
kind = "weights"
epochs = 1
lr = 0.02
format = "posit8"
scales = "learned"
gradient = "straight"
[[stage]]
name = "full"
kind = "full"
steps = 10
optimiser = "adamw"
lr = 0.003
format = "fp4"
activations = "learned"
stochastic = true
[stage.prune]
pattern = "2:4"
layers = "head"
end = 0.4
every = 1
[[stage]]
name = "finish"
kind = "full"
steps = 4
lr = 0.001
format = "fp4"
activations = "learned"
"""


class Killed(BaseException):
    """Not an error that anything would catch."""


class Killer(Silent):
    """Stops after a count of steps, in the middle of whatever runs."""

    def __init__(self, steps):
        self.left = steps

    def advance(self, steps=1):
        self.left -= steps
        if self.left == 0:
            raise Killed


class Counter(Silent):
    def __init__(self):
        self.steps = self.stages = 0

    def stage(self, text, total):
        self.stages += 1

    def advance(self, steps=1):
        self.steps += steps


def tensors(folder):
    """Every tensor of a run's stages by file and name."""
    found = {}

    def walk(lead, value):
        if isinstance(value, torch.Tensor):
            found[lead] = value
        elif isinstance(value, dict):
            for key, held in value.items():
                walk(f"{lead}/{key}", held)

    for file in sorted(Path(folder).glob("*/stage.pt")):
        walk(file.parent.name, torch.load(file, weights_only=True))
    assert found
    return found


def same(one, other):
    first, second = tensors(one), tensors(other)
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])]


def rows(folder):
    found = list(csv.DictReader((Path(folder) / "metrics.csv").open()))
    return [{k: v for k, v in row.items() if k != "seconds"} for row in found]


def contents(folder):
    files = (f for f in Path(folder).rglob("*") if f.is_file() and f.name != ".lock")
    return {str(file): file.read_bytes() for file in files}


def networks_equal(one, other):
    files = [Path(folder) / "finish" / "network.npz" for folder in (one, other)]
    held = [np.load(file) for file in files]
    assert held[0].files == held[1].files
    return all(np.array_equal(held[0][name], held[1][name]) for name in held[0].files)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of all kinds of stages that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    report = trainer.train(Recipe.parse(MANY), folder, Blobs())
    return folder, report


def test_a_run_leaves_what_it_says(whole):
    folder, report = whole
    names = ["dense", "thin", "weights", "full", "finish"]
    assert [result["stage"] for result in report.results] == names
    assert [result["steps"] for result in report.results] == [6, 8, 6, 10, 4]
    found = rows(folder)
    assert [row["stage"] for row in found] == [
        n for n in names for _ in range(1 + (n in "thin full"))
    ]
    assert all(float(row["train_loss"]) > 0 for row in found)
    last = report.results[-1]
    assert {"float", "before", "after"} <= set(last)
    assert last["after"]["top1_percent"] > 60
    network = storage.load(folder / last["files"]["network"])
    assert network.outputs
    for file in [*folder.glob("*/stage.pt"), folder / "checkpoint.pt", folder / "start.pt"]:
        torch.load(file, weights_only=True)


def test_pruned_weights_stay_zero_through_the_stages_that_follow(whole):
    folder, _ = whole
    thin = checkpoint.load(folder / "thin" / "stage.pt", "opennpe.training-stage/1")
    assert set(thin["masks"]) == {"mix", "head"}
    assert float((thin["model"]["mix.weight"] == 0).double().mean()) == 0.75
    network = storage.load(folder / "finish" / "network.npz")
    layers = {layer.name: layer for layer in network.layers if hasattr(layer, "weights")}
    gone = (thin["model"]["mix.weight"] == 0).numpy()
    assert (layers["mix"].weights[gone] == 0).all()
    head = layers["head"].weights != 0
    assert (head.reshape(len(head), -1, 4).sum(axis=2) <= 2).all()


@pytest.mark.parametrize("steps", [3, 6, 7, 11, 14, 17, 20, 25, 30, 33, 34])
def test_a_run_stopped_at_any_step_goes_on_to_the_same_bits(whole, tmp_path, steps):
    often = steps % 2  # every step a checkpoint, or only at the ends of epochs
    recipe = replace(Recipe.parse(MANY), checkpoint_s=0.0 if often else 1e9)
    with pytest.raises(Killed):
        trainer.train(recipe, tmp_path, Blobs(), watcher=Killer(steps))
    counter = Counter()
    report = trainer.train(recipe, tmp_path, Blobs(), resume=True, watcher=counter)
    assert counter.steps >= 34 - steps
    assert not same(whole[0], tmp_path)
    assert rows(whole[0]) == rows(tmp_path)
    assert networks_equal(whole[0], tmp_path)
    assert [r["stage"] for r in report.results] == [r["stage"] for r in whole[1].results]


def test_the_comparison_would_see_one_bit(whole, tmp_path):
    changed = MANY.replace("lr = 0.001\n", "lr = 0.00100001\n")
    trainer.train(Recipe.parse(changed), tmp_path, Blobs())
    assert any(name.startswith("finish/model") for name in same(whole[0], tmp_path))


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from blobs import Blobs
from opennpe.quant.qat import trainer
from opennpe.quant.qat.recipe import Recipe
from opennpe.quant.qat.report import Silent
class Talker(Silent):
    def stage(self, text, total):
        self.name, self.done = text, 0
    def advance(self, steps=1):
        self.done += steps
        print(self.name, self.done, flush=True)
recipe = Recipe.parse(open({recipe!r}).read())
trainer.train(recipe, {folder!r}, Blobs(), watcher=Talker())
"""


def test_a_run_killed_by_the_system_goes_on_to_the_same_bits(whole, tmp_path):
    recipe, folder = tmp_path / "r.toml", tmp_path / "run"
    recipe.write_text(MANY.replace("batch = 16", "batch = 16\ncheckpoint_s = 0.0"))
    given = {"tests": str(Path(__file__).parent), "recipe": str(recipe), "folder": str(folder)}
    code = SCRIPT.format(**given)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line == "full 5\n":
            process.send_signal(signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL
    assert not (folder / "full" / "stage.pt").exists()
    assert not list(folder.rglob("*.npz.*.part"))
    trainer.train(Recipe.load(recipe), folder, Blobs(), resume=True)
    assert not same(whole[0], folder)
    assert rows(whole[0]) == rows(folder)
    assert networks_equal(whole[0], folder)


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(tmp_path, monkeypatch):
    recipe = replace(Recipe.parse(RECIPE), checkpoint_s=0.0)
    with pytest.raises(Killed):
        trainer.train(recipe, tmp_path, Blobs(), watcher=Killer(4))
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def half(state, stream):
        stream.write(before[: len(before) // 2])
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(torch, "save", half)
        trainer.train(recipe, tmp_path, Blobs())
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    trainer.train(recipe, tmp_path, Blobs())


def test_a_finished_run_is_not_run_again(whole):
    folder, report = whole
    before, counter = contents(folder), Counter()
    again = trainer.train(Recipe.parse(MANY), folder, Blobs(), watcher=counter)
    assert counter.steps == counter.stages == 0
    assert again.results == report.results
    assert contents(folder) == before


def test_a_changed_recipe_is_refused_with_the_key_or_begun_anew(whole, tmp_path):
    folder, _ = whole
    before = contents(folder)
    changed = Recipe.parse(MANY.replace("batch = 16", "batch = 16\nseed = 5"))
    with pytest.raises(RecipeError, match="another recipe: seed was 0, now 5; begin anew"):
        trainer.train(changed, folder, Blobs())
    with pytest.raises(RecipeError, match="stage 'full': lr was 0.003, now 0.004"):
        trainer.train(Recipe.parse(MANY.replace("0.003", "0.004")), folder, Blobs(), resume=True)
    assert contents(folder) == before
    place = tmp_path / "run"
    trainer.train(Recipe.parse(MANY), place, Blobs())
    (place / "notes.txt").write_text("mine")
    trainer.train(Recipe.parse(RECIPE), place, Blobs(), resume=False)
    kept = {file.name for file in place.iterdir()}
    assert {"float", "rounded", "notes.txt"} <= kept and not {"dense", "full"} & kept


class Poisoned(Silent):
    """Sees the folder before every step."""

    def __init__(self, folder):
        self.folder, self.seen = Path(folder), None

    def advance(self, steps=1):
        self.seen = contents(self.folder)


@pytest.mark.parametrize("poison", [8, 27])
def test_a_loss_that_is_no_number_stops_with_the_checkpoint_untouched(tmp_path, poison):
    watcher, blobs = Poisoned(tmp_path), Blobs(poison=6 + poison)  # a pass of 6 counts batches
    with pytest.raises(TrainingError) as caught:
        trainer.train(Recipe.parse(RECIPE), tmp_path, blobs, watcher=watcher)
    text = str(caught.value)
    stage, step = ("float", 8) if poison == 8 else ("rounded", 9)
    assert text.startswith(f"stage '{stage}', epoch 2, step {step}: the loss is nan; ")
    assert "begin anew" in text and "\n" not in text
    assert contents(tmp_path) == watcher.seen
    trainer.train(Recipe.parse(RECIPE), tmp_path, Blobs())


def test_weights_that_overflow_are_not_saved(tmp_path):
    wild = RECIPE.replace("lr = 0.05", "lr = 1e38")
    with pytest.raises(TrainingError, match="the loss is|no number"):
        trainer.train(Recipe.parse(wild), tmp_path, Blobs())
    state = checkpoint.load(tmp_path / "checkpoint.pt", "opennpe.training/1")
    model = state["network"]["model"]
    assert all(torch.isfinite(v).all() for v in model.values() if v.is_floating_point())


def test_without_data_nothing_is_begun(tmp_path):
    with pytest.raises(DataError, match="'blobs' has no training data"):
        trainer.train(Recipe.parse(RECIPE), tmp_path / "run", Blobs({"train": 0}))
    assert not contents(tmp_path)


def test_a_policy_that_names_no_layer_is_refused_before_training(tmp_path):
    (tmp_path / "p.toml").write_text(
        'version = 1\n[default]\nformat = "fp4"\n[[layer]]\nmatch = "haed"\nformat = "posit8"\n'
    )
    text = RECIPE.replace('format = "fp4"', 'policy = "p.toml"')
    counter = Counter()
    with pytest.raises(PolicyError, match="'haed' matches no layer; near it: 'head'"):
        recipe = Recipe.parse(text, folder=tmp_path)
        trainer.train(recipe, tmp_path / "run", Blobs(), watcher=counter)
    assert counter.steps == 0 and not contents(tmp_path / "run")


def test_a_plan_that_prunes_no_layer_is_refused_before_training(tmp_path):
    text = RECIPE + "[stage.prune]\nsparsity = 0.5\nskip = ['body']\n"
    with pytest.raises(RecipeError, match="'body' matches no layer"):
        trainer.train(Recipe.parse(text), tmp_path / "run", Blobs())
    assert not contents(tmp_path / "run")


def flipped(data):
    place = len(data) // 2
    return data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :]


class Evil:
    def __reduce__(self):
        return os.system, ("echo this must never run",)


DAMAGES = {
    "a flipped byte": flipped,
    "cut short": lambda data: data[: len(data) // 3],
    "empty": lambda data: b"",
    "text": lambda data: b"not a checkpoint",
    "pickled code": lambda data: pickle.dumps(Evil()),
}


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", ["checkpoint.pt", "float/stage.pt"])
def test_damaged_files_are_refused_and_nothing_is_overwritten(tmp_path, how, name):
    recipe = replace(Recipe.parse(RECIPE), checkpoint_s=0.0)
    with pytest.raises(Killed):
        trainer.train(recipe, tmp_path, Blobs(), watcher=Killer(22))
    file = tmp_path / name
    file.write_bytes(DAMAGES[how](file.read_bytes()))
    before = contents(tmp_path)
    with pytest.raises(CheckpointError, match=rf"{name}' is damaged or no checkpoint"):
        trainer.train(recipe, tmp_path, Blobs())
    assert contents(tmp_path) == before
    if name == "checkpoint.pt":
        trainer.train(recipe, tmp_path, Blobs(), resume=False)


def test_pickled_code_in_a_checkpoint_is_not_run(tmp_path):
    file = tmp_path / "evil.pt"
    torch.save({"schema": "opennpe.training/1", "evil": Evil()}, file)
    with pytest.raises(CheckpointError, match="damaged or no checkpoint"):
        checkpoint.load(file, "opennpe.training/1")


def test_files_that_unpack_to_too_much_are_refused(tmp_path, monkeypatch):
    file = tmp_path / "big.pt"
    torch.save({"x": torch.zeros(1000)}, file)
    monkeypatch.setattr(checkpoint, "MAX_BYTES", 2000)
    with pytest.raises(CheckpointError, match="unpacks to more"):
        checkpoint.load_weights(file)


def test_results_without_their_checkpoint_are_not_overwritten(tmp_path):
    (tmp_path / "metrics.csv").write_text("a\n")
    with pytest.raises(CheckpointError, match="metrics.csv but no checkpoint.pt"):
        trainer.train(Recipe.parse(RECIPE), tmp_path, Blobs())
    assert (tmp_path / "metrics.csv").read_text() == "a\n"
    with pytest.raises(CheckpointError, match="holds no run to resume"):
        trainer.train(Recipe.parse(RECIPE), tmp_path / "other", Blobs(), resume=True)


def test_two_runs_do_not_share_a_folder(tmp_path):
    class Second(Silent):
        def advance(self, steps=1):
            with pytest.raises(CheckpointError, match="another run trains into"):
                trainer.train(Recipe.parse(RECIPE), tmp_path, Blobs())
            raise Killed

    with pytest.raises(Killed):
        trainer.train(Recipe.parse(RECIPE), tmp_path, Blobs(), watcher=Second())


def test_a_run_starts_from_a_trained_network(whole, tmp_path):
    folder, _ = whole
    for name in ("state.pt", "stage.pt"):
        start = tmp_path / name
        if name == "state.pt":
            model = checkpoint.load_weights(folder / "dense" / "stage.pt")
            torch.save(model, start)
        else:
            start.write_bytes((folder / "dense" / "stage.pt").read_bytes())
        recipe = Recipe.parse(RECIPE).from_checkpoint(start)
        report = trainer.train(recipe, tmp_path / f"run-{name}", Blobs())
        assert [result["stage"] for result in report.results] == ["rounded"]
        assert report.results[0]["float"] == whole[1].results[0]["float"]
    assert not same(tmp_path / "run-state.pt", tmp_path / "run-stage.pt")
    torch.save({key: value + 1 for key, value in model.items()}, start)
    with pytest.raises(RecipeError, match="holds other weights"):
        trainer.train(recipe, tmp_path / "run-stage.pt", Blobs())


def test_weights_of_another_network_are_refused(whole, tmp_path):
    model = checkpoint.load_weights(whole[0] / "dense" / "stage.pt")
    start = tmp_path / "start.pt"
    recipe = Recipe.parse(RECIPE).from_checkpoint(start)
    for change, expected in (
        ({"head.weight": torch.zeros(4, 3)}, r"'head.weight' has shape \(4, 3\), expected"),
        ({"tail": torch.zeros(1)}, "the network lacks 'tail'"),
    ):
        torch.save({**model, **change}, start)
        with pytest.raises(CheckpointError, match=expected):
            trainer.train(recipe, tmp_path / "run", Blobs())
    with pytest.raises(CheckpointError, match="holds no float network"):
        checkpoint.load_weights(whole[0] / "full" / "stage.pt")
    assert not contents(tmp_path / "run")


def test_threads_and_torch_s_generator_are_put_back(tmp_path):
    torch.manual_seed(11)
    expected = torch.rand(1)
    torch.manual_seed(11)
    before = torch.get_num_threads()
    trainer.train(replace(Recipe.parse(RECIPE), threads=before + 1), tmp_path, Blobs())
    assert torch.get_num_threads() == before
    assert torch.equal(torch.rand(1), expected)


def test_seeds_decide_the_bits(whole, tmp_path):
    short = RECIPE.replace("epochs = 3", "epochs = 1").replace("steps = 9", "steps = 2")
    runs = {"a": 0, "b": 0, "c": 1}
    for name, seed in runs.items():
        trainer.train(replace(Recipe.parse(short), seed=seed), tmp_path / name, Blobs())
    assert not same(tmp_path / "a", tmp_path / "b")
    assert same(tmp_path / "a", tmp_path / "c")


def test_the_simulator_runs_what_was_trained(tmp_path):
    from opennpe import sim

    def simulate(network):
        output = network.tensors[network.outputs[0]]

        def predict(inputs):
            codes, _ = sim.run(
                catalog.EDGE_4X4, network, dict(zip(network.inputs, inputs, strict=True))
            )
            return output.decode(codes[output.name]).astype(np.float32)

        return predict

    recipe = Recipe.parse(RECIPE.replace("fp4", "posit8"))
    report = trainer.train(recipe, tmp_path, Blobs(), simulate=simulate, simulated_samples=40)
    last = report.results[-1]
    assert last["simulated"]["samples"] == 40
    assert abs(last["simulated"]["top1_percent"] - last["after"]["top1_percent"]) < 10
    assert last["after"]["top1_percent"] > 90


def test_distillation_blends_the_losses():
    torch.manual_seed(0)
    task, pupil = torch.tensor(2.0), torch.randn(6, 4, requires_grad=True)
    classes, numbers = torch.zeros(6, dtype=torch.int64), torch.zeros(6, 4)
    plan = Distill(alpha=0.25, temperature=3.0)
    equal = distill.blend(task, pupil, pupil.detach(), classes, plan)
    assert float(equal.detach()) == pytest.approx(1.5, abs=1e-6)
    teacher = torch.randn(6, 4)
    p, q = ((x / 3).softmax(-1) for x in (teacher, pupil.detach()))
    wanted = 1.5 + 0.25 * 9 * (p * (p.log() - q.log())).sum(-1).mean()
    found = distill.blend(task, pupil, teacher, classes, plan)
    assert float(found.detach()) == pytest.approx(float(wanted), rel=1e-5)
    found.backward()
    assert pupil.grad.abs().sum() > 0
    squares = 1.5 + 0.25 * ((teacher - pupil.detach()) ** 2).mean()
    for targets, how in ((numbers, plan), (classes, replace(plan, loss="mse"))):
        found = distill.blend(task, pupil, teacher, targets, how)
        assert float(found.detach()) == pytest.approx(float(squares), rel=1e-6)
