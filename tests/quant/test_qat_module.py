"""A prepared module's forward values are the engine's; gradients reach all that is trained."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from opennpe import sim
from opennpe.golden import catalog, reference
from opennpe.golden import layers as L
from opennpe.golden.errors import DataError, ModelError, NetworkError, PolicyError
from opennpe.golden.network import Network
from opennpe.quant import Policy, calibrate, load_onnx

torch = pytest.importorskip("torch", reason="needs the extra 'qat': pip install 'opennpe[qat]'")
from opennpe.quant.qat import Options, QuantModule, convert, export_onnx, prepare  # noqa: E402
from qat_models import MODELS, made  # noqa: E402
from torch import nn  # noqa: E402

FORMATS = ("fp4", "posit4", "posit8", "posit16")
SPEC = catalog.get("EDGE_4X4")
MIXED = Policy.parse(
    """
    version = 1
    [default]
    format = "posit8"
    [[layer]]
    kind = ["Conv", "Linear"]
    weights = "fp4"
    [[layer]]
    match = "fc"
    inputs = "posit16"
    output = "posit16"
    """
)


def prepared(
    name: str, policy: Policy | str, **options: object
) -> tuple[QuantModule, torch.Tensor]:
    model, x = made(name)
    return prepare(model, x[:1], policy, x, Options(**options)), x


def codes(network: Network, x: torch.Tensor) -> np.ndarray:
    """Real values of the first output's codes, by the simulator."""
    found, _ = sim.run(SPEC, network, {network.inputs[0]: x.numpy()})
    out = network.outputs[0]
    return network.tensors[out].decode(found[out])


@pytest.mark.parametrize("policy", [*FORMATS, MIXED], ids=[*FORMATS, "mixed"])
@pytest.mark.parametrize("name", MODELS)
def test_parity_mode_has_the_simulator_s_codes(name: str, policy: Policy | str) -> None:
    qm, x = prepared(name, policy)
    qm.train()
    optimiser = torch.optim.SGD(qm.parameters(), 0.01)
    for _ in range(3):  # weights, biases and scales that calibration did not leave
        optimiser.zero_grad()
        qm(x).square().sum().backward()
        optimiser.step()
    qm.eval()
    with torch.no_grad(), qm.exact():
        got = qm(x).numpy()
    want = codes(convert(qm), x)
    assert got.dtype == np.float64 and np.abs(want).max() > 0
    np.testing.assert_array_equal(got, want)


@pytest.mark.fast
@pytest.mark.parametrize("name", MODELS)
def test_parity_mode_has_golden_s_codes(name: str) -> None:
    qm, x = prepared(name, "posit8")
    qm.eval()
    network = convert(qm)
    with torch.no_grad(), qm.exact():
        got = qm(x[:2]).numpy()
    found = reference.evaluate(SPEC, network, {network.inputs[0]: x[:2].numpy()})
    out = network.outputs[0]
    np.testing.assert_array_equal(got, network.tensors[out].decode(found[out]))


def test_a_planted_code_is_noticed() -> None:
    qm, x = prepared("Convolutions", "fp4")
    qm.eval()
    network = convert(qm)
    layer = next(layer for layer in network.layers if isinstance(layer, L.Linear))
    wrong = layer.weights.copy()
    wrong[0, 0] ^= 0x7
    layers = tuple(
        dataclasses.replace(item, weights=wrong) if item is layer else item
        for item in network.layers
    )
    with torch.no_grad(), qm.exact():
        got = qm(x).numpy()
    assert (got != codes(dataclasses.replace(network, layers=layers), x)).any()


@pytest.mark.parametrize("name", MODELS)
def test_the_ordinary_mode_differs_seldom_and_little(name: str) -> None:
    qm, x = prepared(name, "posit8")
    qm.eval()
    with torch.no_grad():
        fast = qm(x).numpy()
        with qm.exact():
            exact = qm(x).numpy()
    assert np.abs(fast - exact).max() <= np.abs(exact).max() / 8
    four, x = prepared(name, "fp4")
    four.eval()
    if name != "Vit":  # float32 holds every sum of four-bit products
        with torch.no_grad(), four.exact():
            exact = four(x).numpy()
        np.testing.assert_array_equal(four(x).detach().numpy(), exact)


@pytest.mark.fast
@pytest.mark.parametrize("name", MODELS)
def test_without_rounding_it_is_the_module_it_was_made_from(name: str) -> None:
    model, x = made(name)
    qm = prepare(model, x[:1], "fp4", x)
    qm.eval()
    qm.set_rounding(False, False)
    torch.testing.assert_close(qm(x), model(x), rtol=1e-4, atol=1e-5)


# -- gradients ------------------------------------------------------------------------------------
def reached(qm: QuantModule, x: torch.Tensor) -> dict[str, bool]:
    """Whether each parameter has a gradient that is not zero."""
    qm.train()
    qm.zero_grad()
    qm(x).square().sum().backward()
    return {
        name: p.grad is not None and bool((p.grad != 0).any()) for name, p in qm.named_parameters()
    }


@pytest.mark.parametrize("options", [{}, {"weights": "learned", "activations": "learned"}])
@pytest.mark.parametrize("policy", FORMATS)
@pytest.mark.parametrize("name", MODELS)
def test_gradients_reach_everything_that_is_trained(
    name: str, policy: str, options: dict[str, str]
) -> None:
    qm, x = prepared(name, policy, **options)
    found = reached(qm, x)
    count = sum(isinstance(layer, L.Conv | L.Linear) for layer in qm.layers)
    assert sum(key.endswith(":weights") for key in found) == count
    # An output's own scale only has a gradient where rounding leaves an error.
    cut = [key for key, there in found.items() if not there]
    assert cut == [], cut


def test_gradients_reach_every_activation() -> None:
    qm, x = prepared("Convolutions", "fp4")
    qm.train()
    seen: dict[str, torch.Tensor] = {}
    written = qm._written

    def watched(name: str, values: torch.Tensor, *rest: object) -> torch.Tensor:
        values.requires_grad_() if values.is_leaf else values.retain_grad()
        seen[name] = values
        return written(name, values, *rest)

    qm._written = watched  # type: ignore[method-assign]
    qm(x.clone()).square().sum().backward()
    assert len(seen) == 1 + len(qm.layers)
    for name, values in seen.items():
        assert values.grad is not None and (values.grad != 0).any(), name


def test_a_cut_graph_is_noticed() -> None:
    qm, x = prepared("Convolutions", "fp4")
    written = qm._written

    def cut(name: str, values: torch.Tensor, *rest: object) -> torch.Tensor:
        result = written(name, values, *rest)
        return result.detach() if name == qm.layers[2].output else result

    qm._written = cut  # type: ignore[method-assign]
    assert not all(reached(qm, x).values())


def test_gradients_agree_with_finite_differences_where_nothing_is_rounded() -> None:
    qm, x = prepared("Sequence", "posit8")
    qm.set_rounding(False, False)
    qm.eval()
    weight = torch.randn(6, generator=torch.Generator().manual_seed(5))
    x = x[:4]

    def loss() -> torch.Tensor:
        return (qm(x).double() * weight).sum()

    loss().backward()
    rng = np.random.default_rng(3)
    for name, parameter in qm.named_parameters():
        # Along a random direction, so that float32's noise is small beside the difference.
        way = torch.from_numpy(rng.normal(size=tuple(parameter.shape))).float()
        step, held = 2e-3 / float(way.norm()), parameter.data.clone()
        with torch.no_grad():
            parameter.data = held + step * way
            above = loss().item()
            parameter.data = held - step * way
            below = loss().item()
            parameter.data = held
        want = float((parameter.grad * way).sum())
        assert want == pytest.approx((above - below) / (2 * step), rel=0.02, abs=0.02), name


def test_the_exact_mode_has_gradients_too() -> None:
    qm, x = prepared("Convolutions", "fp4")
    qm.train()
    qm(x).square().sum().backward()
    ordinary = {name: p.grad.clone() for name, p in qm.named_parameters()}
    qm.zero_grad()
    with qm.exact():
        qm(x).square().sum().backward()
    for name, p in qm.named_parameters():
        # Hard-swish has kinks, on whose sides float32 and float64 may lie differently.
        assert (p.grad - ordinary[name]).norm() <= 0.05 * ordinary[name].norm(), name


# -- options --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "options",
    [{"activations": "ema"}, {"activations": "learned"}, {"weights": "learned"},
     {"gradient": "straight"}, {"stochastic": True}, {"method": "percentile"}],
    ids=str,
)  # fmt: skip
def test_training_makes_the_loss_smaller(options: dict[str, object]) -> None:
    qm, x = prepared("Convolutions", "posit4", **options)
    torch.manual_seed(1)
    targets = torch.arange(len(x)) % 5
    for i, target in enumerate(targets.tolist()):
        x[i, :, 2 * target : 2 * target + 3] += 1.5
    optimiser = torch.optim.Adam(qm.parameters(), 0.02)
    qm.train()
    losses = []
    for _ in range(90):
        loss = nn.functional.cross_entropy(qm(x), targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert min(losses) < 0.7 * losses[0]
    qm.eval()
    with torch.no_grad(), qm.exact():
        got = qm(x).numpy()
    np.testing.assert_array_equal(got, codes(convert(qm), x))


def test_masked_weights_stay_zero_in_the_network() -> None:
    qm, _ = prepared("Convolutions", "posit8")
    mask = torch.zeros_like(qm.weights["residual"])
    mask[:, ::2] = 1
    qm.set_mask("residual", mask)
    layer = next(item for item in convert(qm).layers if item.name == "residual")
    assert not layer.weights[:, 1::2].any() and layer.weights[:, ::2].any()
    with pytest.raises(NetworkError, match="'nobody' has no weights to mask"):
        qm.set_mask("nobody", mask)
    with pytest.raises(NetworkError, match="layer 'fc': a mask of shape"):
        qm.set_mask("fc", mask)


def test_another_policy_keeps_the_weights_and_an_unknown_layer_changes_nothing() -> None:
    qm, x = prepared("Convolutions", "fp4")
    before = qm.weights["fc"].clone()
    qm.set_policy("posit8", x)
    assert {t.format for t in qm.tensors.values()} == {"posit8"}
    torch.testing.assert_close(qm.weights["fc"], before, rtol=0, atol=0)
    wrong = Policy.parse(
        'version = 1\n[default]\nformat = "fp4"\n[[layer]]\nmatch = "head"\nformat = "posit8"'
    )
    with pytest.raises(PolicyError, match="'head' matches no layer"):
        qm.set_policy(wrong, x)
    assert {t.format for t in qm.tensors.values()} == {"posit8"}


def test_a_state_goes_into_another_module() -> None:
    qm, x = prepared("Convolutions", "fp4", activations="ema")
    qm.train()
    optimiser = torch.optim.SGD(qm.parameters(), 0.1)
    for _ in range(3):
        optimiser.zero_grad()
        qm(x).square().sum().backward()
        optimiser.step()
    qm.set_mask("residual", torch.ones_like(qm.weights["residual"]).triu())
    other, _ = prepared("Convolutions", "fp4", activations="ema")
    assert (other.eval()(x) != qm.eval()(x)).any()
    other.load_state_dict(qm.state_dict())
    qm.eval()
    other.eval()
    torch.testing.assert_close(other(x), qm(x), rtol=0, atol=0)


@pytest.mark.parametrize("policy", ["fp4", "posit8", MIXED], ids=["fp4", "posit8", "mixed"])
def test_an_exported_file_reads_back_as_the_same_network(
    policy: Policy | str, tmp_path: Path
) -> None:
    qm, x = prepared("Convolutions", policy, activations="ema")
    qm.train()
    optimiser = torch.optim.SGD(qm.parameters(), 0.01)
    qm(x).square().sum().backward()
    optimiser.step()
    qm.eval()
    export_onnx(qm, tmp_path / "net.onnx")
    again = calibrate(load_onnx(tmp_path / "net.onnx"), x.numpy(), "model")
    np.testing.assert_array_equal(codes(again, x), codes(convert(qm), x))


def test_torch_compile_takes_it() -> None:
    qm, x = prepared("Convolutions", "posit8")
    qm.eval()
    compiled = torch.compile(qm, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), qm(x), rtol=0, atol=0)


def test_what_does_not_fit_is_refused_in_a_line() -> None:
    model, x = made("Convolutions")
    with pytest.raises(PolicyError, match="gradient is 'none': expected clipped, straight"):
        Options(gradient="none")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="2 arrays of samples, the network takes 1 inputs"):
        prepare(model, x[:1], "fp4", (x, x))
    qm = prepare(model, x[:1], "fp4", x)
    with pytest.raises(NetworkError, match=r"input 'x' has shape \(24, 1, 10, 12\), expected"):
        qm(x[:, :, :10])
    with pytest.raises(NetworkError, match="takes 1 inputs"):
        qm(x, x)

    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.fft.fft(x).real

    with pytest.raises(ModelError):
        prepare(Odd(), x[:1], "fp4", x)
