"""Policy files: what they mean and how they are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from opennpe.golden import layers as L
from opennpe.golden.errors import FormatError, PolicyError
from opennpe.quant import Policy, calibrate, load_onnx
from quant_models import save, small_cnn

HEAD = 'version = 1\n[default]\nformat = "posit8"\n'
X = np.random.default_rng(0).normal(size=(4, 3, 12, 12))


def test_uniform_is_one_format_everywhere(tmp_path: Path) -> None:
    graph = load_onnx(save(small_cnn(), tmp_path))
    network = calibrate(graph, X, Policy.uniform("fp4"))
    assert {t.format for t in network.tensors.values()} == {"fp4"}
    assert {layer.weight_format for layer in network.layers if hasattr(layer, "weights")} == {"fp4"}


@pytest.mark.fast
def test_rules_decide_in_order_and_neighbours_are_heard(tmp_path: Path) -> None:
    text = HEAD + (
        '[[layer]]\nmatch = "conv1"\nweights = "fp4"\n'
        '[[layer]]\nmatch = ["depth*", "conv1"]\nformat = "posit4"\noutput = "posit16"\n'
    )
    policy = Policy.parse(text)
    assert policy.choice("conv1").weights == "fp4"
    assert policy.choice("conv1").inputs == "posit4"
    assert policy.choice("depthwise").weights == "posit4"
    graph = load_onnx(save(small_cnn(), tmp_path))
    network = calibrate(graph, X, policy)
    by_name = {layer.name: layer for layer in network.layers}
    # conv1 reads posit4: the input is made in it; its output is posit16 by its own rule and the
    # depthwise layer, which asks for posit4, gets it converted.
    assert network.tensors["x"].format == "posit4"
    assert network.tensors[by_name["conv1"].output].format == "posit16"
    assert network.tensors[by_name["depthwise"].inputs[0]].format == "posit4"
    assert any(isinstance(layer, L.Convert) for layer in network.layers)


def test_a_reader_decides_the_format_where_no_output_is_stated(tmp_path: Path) -> None:
    text = HEAD + '[[layer]]\nmatch = "fc"\nformat = "posit16"\n'
    network = calibrate(load_onnx(save(small_cnn(), tmp_path)), X, Policy.parse(text))
    assert not any(isinstance(layer, L.Convert) for layer in network.layers)
    fc = next(layer for layer in network.layers if layer.name == "fc")
    assert network.tensors[fc.inputs[0]].format == "posit16"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version = 1", r"lacks the table \[default\]"),
        ('[default]\nformat = "posit8"', "no version"),
        ('version = 9\n[default]\nformat = "posit8"', "version 9"),
        ("version = ", "no TOML"),
        (HEAD.replace("posit8", "posit88"), "unknown format 'posit88'"),
        (HEAD.replace("posit8", "mxfp4"), "default"),
        (HEAD.replace("format", "fromat"), "did you mean 'format'"),
        (HEAD + "[[layer]]\nmatch = 3", "needs match"),
        (HEAD + '[[layer]]\nmatch = "a"', "states no format"),
        (HEAD + '[[layer]]\nmatch = "a"\nweigths = "fp4"', "did you mean 'weights'"),
        (HEAD + '[layer]\nmatch = "a"', "double brackets"),
        (HEAD + '[[layer]]\nmatch = "a"\nweights = 4', "got 4"),
        ('calibration = "best"\n' + HEAD, "expected mse, maxabs, percentile"),
        ("percentile = 3\n" + HEAD, "50 to 100"),
        ('percentile = "x"\n' + HEAD, "expected a number"),
    ],
)
def test_bad_policies_are_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(PolicyError, match=message) as caught:
        Policy.parse(text)
    assert len(str(caught.value).splitlines()) == 1


def test_a_glob_that_matches_nothing_names_what_is_near(tmp_path: Path) -> None:
    graph = load_onnx(save(small_cnn(), tmp_path))
    policy = Policy.parse(HEAD + '[[layer]]\nmatch = "depthwize"\nweights = "fp4"')
    with pytest.raises(PolicyError, match="'depthwize' matches no layer; near it: 'depthwise'"):
        calibrate(graph, X, policy)


def test_unknown_formats_methods_and_files(tmp_path: Path) -> None:
    graph = load_onnx(save(small_cnn(), tmp_path))
    with pytest.raises(FormatError, match="posit99"):
        Policy.uniform("posit99")
    with pytest.raises(PolicyError, match="calibration method 'magic'"):
        calibrate(graph, X, Policy.uniform("fp4"), method="magic")
    with pytest.raises(PolicyError, match="no policy file"):
        Policy.load(tmp_path / "nowhere.toml")
    binary = tmp_path / "p.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PolicyError, match="no text file"):
        Policy.load(binary)
