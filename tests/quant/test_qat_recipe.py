"""Recipes say what they mean, and what is wrong with them in one line."""

from itertools import pairwise

import pytest

torch = pytest.importorskip("torch")

from opennpe.golden.errors import PolicyError  # noqa: E402
from opennpe.quant.qat import recipe as recipes  # noqa: E402
from opennpe.quant.qat import schedule  # noqa: E402
from opennpe.quant.qat.errors import RecipeError  # noqa: E402
from opennpe.quant.qat.recipe import Recipe  # noqa: E402

pytestmark = pytest.mark.fast

FLOAT = '[[stage]]\nname = "float"\nkind = "float"\nepochs = 2\nlr = 0.1\n'
FULL = '[[stage]]\nname = "fp4"\nkind = "full"\nsteps = 5\nlr = 0.01\nformat = "fp4"\n'
HEAD = 'version = 1\nworkload = "blobs"\n'


def parse(*parts, folder="."):
    return Recipe.parse("".join(parts), "r.toml", folder)


def test_a_recipe_holds_what_its_file_says():
    found = parse(HEAD, "seed = 7\n", FLOAT, FULL, "[stage.prune]\nsparsity = 0.9\nskip = 'head'\n")
    assert (found.workload, found.seed, found.batch) == ("blobs", 7, 128)
    assert [(s.name, s.kind, s.epochs, s.steps) for s in found.stages] == [
        ("float", "float", 2, 0),
        ("fp4", "full", 0, 5),
    ]
    assert found.stages[1].policy.weights == "fp4"
    assert found.stages[1].prune.skip == ("head",)
    assert found.stages[0].policy is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("version = 2\n", "r.toml has version 2: expected version = 1"),
        ("workload = 'a'\n", "r.toml has no version"),
        ("version = 1\nworkload", "r.toml is no TOML"),
        (HEAD, "no stage: write [[stage]] (double brackets)"),
        (HEAD + "[stage]\nname = 'a'\n", "write [[stage]] (double brackets)"),
        (HEAD + "sead = 1\n" + FLOAT, "unknown key 'sead', did you mean 'seed'?"),
        (HEAD + "seed = -1\n" + FLOAT, "seed = -1, expected a whole number of at least 0"),
        (HEAD + "batch = true\n" + FLOAT, "batch = True, expected a whole number of at least 1"),
        ("version = 1\n" + FLOAT, "r.toml lacks 'workload', a text"),
        (HEAD + FLOAT + "leraning = 1\n", "stage 'float': unknown key 'leraning'"),
        (HEAD + FLOAT.replace("lr = 0.1", "lr = 0"), "lr = 0, expected a number above 0"),
        (HEAD + FLOAT.replace("lr = 0.1", "lr = nan"), "lr = nan, expected a number above 0"),
        (HEAD + FLOAT.replace("lr = 0.1", ""), "stage 'float' lacks 'lr'"),
        (HEAD + FLOAT + "schedule = 'cosin'\n", "did you mean 'cosine'?"),
        (HEAD + FLOAT + "steps = 3\n", "needs epochs or steps, one of them"),
        (HEAD + FLOAT + "format = 'fp4'\n", "is float and rounds nothing: drop 'format'"),
        (HEAD + FULL.replace('format = "fp4"', ""), "needs a format or a policy file"),
        (HEAD + FULL + "policy = 'p.toml'\n", "needs a format or a policy file, one of them"),
        (HEAD + FULL.replace('"fp4"\n', '"fp5"\n', 2), "format: "),
        (HEAD + FULL + FLOAT, "'float' is float after a rounded one"),
        (HEAD + FLOAT + FLOAT, "'float' comes twice"),
        (HEAD + FLOAT.replace('"float"', '"../x"', 1), "name is that of a folder"),
        (HEAD + FLOAT.replace('"float"', '"start"', 1), "not 'start'"),
        (HEAD + FULL + "[stage.distill]\n", "distils, but no float stage or start"),
        (HEAD + FLOAT + FULL + "[stage.distill]\nteacher = 'flot'\n", "expected float"),
        (HEAD + FLOAT + FULL + "[stage.distill]\nalpha = 2\n", "at most 1"),
        (HEAD + FLOAT + FULL + "[stage.distill]\ntemperatur = 2\n", "did you mean 'temperature'?"),
        (HEAD + FLOAT + "[stage.prune]\n", "lacks 'sparsity'"),
        (HEAD + FLOAT + "[stage.prune]\nsparsity = 1.0\n", "at most 0.9999"),
        (HEAD + FLOAT + "[stage.prune]\nsparsity = 0.5\npattern = '3by1'\n", "pattern '3by1'"),
        (HEAD + FLOAT + "[stage.prune]\nsparsity = 0.9\npattern = '2:4'\n", "leaves 0.5 zero"),
        (HEAD + FLOAT + "[stage.prune]\nsparsity = 0.9\nbegin = 0.8\n", "comes after end"),
        (HEAD + FLOAT + "[stage.prune]\nsparsity = 0.9\nskip = 3\n", "a glob or a list of globs"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text, expected):
    with pytest.raises(RecipeError) as caught:
        parse(text)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value).split("TOML:")[0]


def test_policies_are_read_beside_the_recipe_and_belong_to_it(tmp_path):
    policy = 'version = 1\n[default]\nformat = "posit8"\n'
    (tmp_path / "p.toml").write_text(policy)
    text = HEAD + FULL.replace('format = "fp4"', 'policy = "p.toml"')
    (tmp_path / "r.toml").write_text(text)
    first = Recipe.load(tmp_path / "r.toml")
    assert first.stages[0].policy.weights == "posit8"
    (tmp_path / "p.toml").write_text(policy.replace("posit8", "posit4"))
    changed = recipes.differences(first.summary(), Recipe.load(tmp_path / "r.toml").summary())
    assert [line.split(" was ")[0] for line in changed] == ["stage 'fp4': policy_text"]
    (tmp_path / "p.toml").unlink()
    with pytest.raises(PolicyError, match="no policy file"):
        Recipe.load(tmp_path / "r.toml")


def test_differences_name_the_keys_with_both_values():
    first = parse(HEAD, FLOAT, FULL)
    assert not recipes.differences(first.summary(), parse(HEAD, FLOAT, FULL).summary())
    second = parse(HEAD, "seed = 4\n", FLOAT.replace("0.1", "0.2"), FULL, "[stage.distill]\n")
    changed = recipes.differences(first.summary(), second.summary())
    assert "seed was 0, now 4" in changed
    assert "stage 'float': lr was 0.1, now 0.2" in changed
    assert any(line.startswith("stage 'fp4': distill") for line in changed)


def test_a_trained_network_takes_the_place_of_dense_float_stages():
    pruned = FLOAT.replace('"float"', '"thin"', 1) + "[stage.prune]\nsparsity = 0.5\n"
    taught = FULL + '[stage.distill]\nteacher = "float"\n'
    found = parse(HEAD, FLOAT, pruned, taught).from_checkpoint("fp32.pt")
    assert [stage.name for stage in found.stages] == ["thin", "fp4"]
    assert found.stages[1].distill.teacher == "start"
    assert found.start.name == "fp32.pt"
    with pytest.raises(RecipeError, match="only float stages"):
        parse(HEAD, FLOAT).from_checkpoint("fp32.pt")


def test_every_shipped_recipe_is_valid():
    names = recipes.shipped()
    assert {"fashion_fp4", "fashion_posit4", "fashion_posit8", "mobilenet_fp4_90"} <= set(names)
    for name in names:
        assert Recipe.load(name).stages


def test_a_recipe_that_is_not_there_is_compared_with_those_that_ship():
    with pytest.raises(RecipeError, match="did you mean 'fashion_fp4'"):
        Recipe.load("fashion_fp44")


def test_files_that_are_no_recipes(tmp_path):
    (tmp_path / "r.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="no text file"):
        Recipe.load(tmp_path / "r.toml")
    (tmp_path / "big.toml").write_bytes(b"#" * (1 << 20) + b"##")
    with pytest.raises(RecipeError, match="larger than 1 MiB"):
        Recipe.load(tmp_path / "big.toml")


@pytest.mark.parametrize("kind", ["cosine", "constant", "onecycle"])
@pytest.mark.parametrize("warmup", [0.0, 0.25])
def test_rates_rise_in_the_warmup_and_never_again(kind, warmup):
    rates = [schedule.rate(kind, 0.1, step, 100, warmup) for step in range(100)]
    rise = int(100 * warmup)
    assert all(a < b for a, b in pairwise(rates[:rise]))
    assert all(a >= b for a, b in pairwise(rates[rise:]))
    assert max(rates) == pytest.approx(0.1, rel=1e-6)
    assert min(rates) > 0
    if kind != "constant":
        assert rates[-1] < 0.1 * 1e-2
