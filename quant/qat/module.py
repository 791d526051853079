"""A network to train whose forward values are the engine's: float weights behind, codes in front.

The module runs the float graph layer by layer; every tensor that :class:`golden.Network` holds is
rounded to its format and scale as it is written, every weight as it is read, every bias to the
accumulator's grid. What the engine sums exactly is summed in float32 here, which differs from it
now and then by a rounding; :meth:`QuantModule.exact` sums as the engine does.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from opennpe.golden import formats, mac
from opennpe.golden import layers as L
from opennpe.golden.errors import NetworkError, PolicyError
from opennpe.golden.network import Network
from opennpe.golden.network import Tensor as Described
from opennpe.quant import calibration, lower, scales
from opennpe.quant.graph import Graph
from opennpe.quant.grouping import moves
from opennpe.quant.policy import Policy
from opennpe.quant.qat import exact, functions
from opennpe.quant.qat.fake import fake_quantize, on_grid
from torch import nn

__all__ = ["Options", "QuantModule"]

Tensor: TypeAlias = torch.Tensor
NONE = (-math.inf, math.inf)
EMA = 0.99
"""Of the largest magnitude so far, kept at every step (as XR-NPE's recipe has it)."""
OWN = ("weights", "bias", "slope", "gamma", "beta")
"""Fields of layers that are trained."""


@dataclass(frozen=True)
class Options:
    """How training treats rounding.

    Attributes:
        activations: where scales of tensors come from: "calibrated" once, "ema" of the largest
            magnitude while training, or "learned" by gradients (arXiv 1903.08066).
        weights: "calibrated" anew every ``refresh`` steps, or "learned".
        gradient: "clipped", zero where a format's largest value cut, or "straight".
        stochastic: round by chance while training, weights and tensors.
        refresh: training steps between two choices of the weights' scales.
        method: of calibration: "mse", "maxabs" or "percentile".
    """

    activations: Literal["calibrated", "ema", "learned"] = "calibrated"
    weights: Literal["calibrated", "learned"] = "calibrated"
    gradient: Literal["clipped", "straight"] = "clipped"
    stochastic: bool = False
    refresh: int = 50
    method: Literal["mse", "maxabs", "percentile"] = "mse"

    def __post_init__(self) -> None:
        for field, known in (
            ("activations", ("calibrated", "ema", "learned")),
            ("weights", ("calibrated", "learned")),
            ("gradient", ("clipped", "straight")),
            ("method", ("mse", "maxabs", "percentile")),
        ):
            if getattr(self, field) not in known:
                raise PolicyError(
                    f"{field} is '{getattr(self, field)}': expected {', '.join(known)}"
                )
        if self.refresh < 1:
            raise PolicyError(f"refresh is {self.refresh}: expected 1 step or more")


def _key(name: str) -> str:
    """A layer's name as PyTorch lets parameters be called."""
    return name.replace(".", "/")


class QuantModule(nn.Module):  # type: ignore[misc]
    """See the module's description; made by :func:`opennpe.quant.qat.prepare`.

    Calling it takes the graph's inputs in order (float32, samples along axis 0) and gives its
    outputs' real values: one tensor, or a tuple.

    Attributes:
        graph: the float graph whose structure is trained.
        policy, options: as given.
        layers: golden's layers in order, conversions included.
    """

    def __init__(
        self, graph: Graph, samples: Any, policy: Policy, options: Options | None = None
    ) -> None:
        super().__init__()
        self.graph, self.policy, self.options = graph, policy, options or Options()
        self.own = nn.ParameterDict()
        for layer in graph.layers:
            for field in OWN:
                values = getattr(layer, field, None)
                if isinstance(values, np.ndarray):
                    name = f"{_key(layer.name)}:{field}"
                    self.own[name] = nn.Parameter(torch.tensor(values, dtype=torch.float32))
        self.rounds = {"weights": True, "activations": True}
        self._exact = False
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._choose(graph, samples)

    def _choose(self, graph: Graph, samples: Any) -> None:
        """Formats by the policy and scales by the float graph's tensors."""
        self._adopt(lower.lower(graph, calibration.observe(graph, samples), *self._how()))

    def _how(self) -> tuple[Policy, str]:
        self.policy.check_names(layer.name for layer in self.graph.layers)
        return self.policy, self.policy.calibration or self.options.method

    # -- what it is made of ------------------------------------------------------------------
    def _adopt(self, network: Network) -> None:
        """Take formats and scales of a lowered network."""
        self.skeleton = network
        self.layers: tuple[L.Layer, ...] = network.layers
        source = {t: t for t in network.tensors}
        for layer in network.layers:
            # What only moves values has its input's scale, so nothing is rounded again.
            out = network.tensors[layer.output]
            alike = all(
                (network.tensors[n].format, network.tensors[n].scale) == (out.format, out.scale)
                for n in layer.inputs
            )
            if moves(layer) and alike:
                root = source[layer.inputs[0]]
                if all(source[n] == root for n in layer.inputs):
                    source[layer.output] = root
        self._scaled = source
        self._constants = {
            name: torch.from_numpy(
                codes.astype(np.int64)
                if network.tensors[name].format == formats.INDEX.name
                else network.tensors[name].decode(codes)
            )
            for name, codes in network.constants.items()
        }
        roots = [
            name
            for name in dict.fromkeys(source.values())
            if network.tensors[name].format != formats.INDEX.name and name not in network.constants
        ]
        self._place = {name: i for i, name in enumerate(roots)}
        start = torch.tensor([float(network.tensors[name].scale) for name in roots])
        self._set("exponents", start, self.options.activations == "learned")
        self._set("largest", torch.zeros(len(roots)), False)
        for layer in network.layers:
            if isinstance(layer, L.Conv | L.Linear):
                chosen = torch.tensor(layer.weight_scale, dtype=torch.float32)
                learned = self.options.weights == "learned"
                self._set(f"scale:{_key(layer.name)}", chosen, learned)

    def _set(self, name: str, values: Tensor, learned: bool) -> None:
        if learned and name in self._parameters:
            self._parameters[name].data = values
        elif learned:
            self._parameters[name] = nn.Parameter(values)
        else:
            self.register_buffer(name, values)

    def _of(self, layer: L.Layer, field: str) -> Tensor | None:
        name = f"{_key(layer.name)}:{field}"
        return self.own.get(name)

    def _all(self, field: str) -> dict[str, nn.Parameter]:
        ending = f":{field}"
        return {
            layer.name: self.own[_key(layer.name) + ending]
            for layer in self.graph.layers
            if _key(layer.name) + ending in self.own
        }

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """Float weights of the products by layer name, shaped as golden's."""
        return self._all("weights")

    @property
    def biases(self) -> dict[str, nn.Parameter]:
        """Float biases (O,) of the products by layer name."""
        return self._all("bias")

    @property
    def tensors(self) -> dict[str, Described]:
        """Every tensor with its present format and scale."""
        found = {}
        exponents = self.exponents.detach().round().long().tolist()
        for name, tensor in self.skeleton.tensors.items():
            root = self._scaled[name]
            scale = exponents[self._place[root]] if root in self._place else tensor.scale
            found[name] = replace(tensor, scale=int(scale))
        return found

    def weight_exponents(self, name: str) -> Tensor:
        """Exponents of a product's weights, (O,) float32 of whole numbers (unless learned)."""
        scale: Tensor = getattr(self, f"scale:{_key(name)}")
        return scale

    # -- settings ----------------------------------------------------------------------------
    def set_rounding(self, weights: bool, activations: bool) -> None:
        """Which of them are rounded; neither is the float network."""
        self.rounds = {"weights": weights, "activations": activations}

    def set_mask(self, name: str, mask: Tensor | None) -> None:
        """Multiply a 0/1 tensor into a layer's weights, or take it away.

        Raises:
            NetworkError: no product of this name, or another shape.
        """
        if name not in self.weights:
            raise NetworkError(
                f"'{name}' has no weights to mask: expected one of {', '.join(self.weights)}"
            )
        if mask is None:
            self._buffers.pop(f"mask:{_key(name)}", None)
            return
        if mask.shape != self.weights[name].shape:
            raise NetworkError(
                f"layer '{name}': a mask of shape {tuple(mask.shape)}, its weights have "
                f"{tuple(self.weights[name].shape)}"
            )
        self.register_buffer(f"mask:{_key(name)}", mask.to(torch.float32))

    @property
    def masks(self) -> dict[str, Tensor]:
        """0/1 tensors that are multiplied into weights, by layer name."""
        held = {name: self._buffers.get(f"mask:{_key(name)}") for name in self.weights}
        return {name: mask for name, mask in held.items() if mask is not None}

    @contextlib.contextmanager
    def exact(self) -> Iterator[QuantModule]:
        """Sums as the engine has them: outputs are float64, equal to the simulator's codes."""
        before, self._exact = self._exact, True
        try:
            yield self
        finally:
            self._exact = before

    def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
        """Masks come and go with the state."""
        for name, weight in self.weights.items():
            key = f"{prefix}mask:{_key(name)}"
            given = state.get(key)
            self.set_mask(name, None if given is None else torch.ones_like(weight))
        super()._load_from_state_dict(state, prefix, *rest)

    def float_graph(self) -> Graph:
        """The graph with the weights as they are now, masks applied."""
        layers = []
        for layer in self.graph.layers:
            fields = [field for field in OWN if self._of(layer, field) is not None]
            changed: dict[str, Any] = {field: self._numbers(layer, field) for field in fields}
            layers.append(replace(layer, **changed))
        return replace(self.graph, layers=tuple(layers))

    def _numbers(self, layer: L.Layer, field: str) -> NDArray[np.float64]:
        """A trained field's present values, masked."""
        values = self._of(layer, field)
        assert values is not None
        held = self._masked(layer, values) if field == "weights" else values
        return np.asarray(held.detach().numpy().astype(np.float64))

    def calibrate(self, samples: Any) -> None:
        """Choose all scales anew, from the float network's tensors."""
        self._choose(self.float_graph(), samples)

    def set_policy(self, policy: Policy | str, samples: Any) -> None:
        """Other formats, the same weights; scales are chosen anew.

        Raises:
            PolicyError: it names a layer that does not exist; nothing changes then.
        """
        chosen = Policy.uniform(policy) if isinstance(policy, str) else policy
        chosen.check_names(layer.name for layer in self.graph.layers)
        self.policy = chosen
        self.calibrate(samples)

    def refresh(self) -> None:
        """Choose the weights' scales anew, for their present values."""
        described, method = self.tensors, self._how()[1]
        for layer in self.layers:
            if not isinstance(layer, L.Conv | L.Linear):
                continue
            real = self._real(layer)
            share = self.policy.percentile
            chosen = scales.channels(layer.weight_format, real.weights, method, share)
            source = described[layer.inputs[0]]
            chosen = lower.room_for_bias(real, source, layer.weight_format, chosen)
            with torch.no_grad():
                self.weight_exponents(layer.name).copy_(torch.from_numpy(chosen))

    def _real(self, layer: L.Conv | L.Linear) -> L.Conv | L.Linear:
        """A product with its present float weights."""
        weights, bias = (self._numbers(layer, field) for field in ("weights", "bias"))
        return replace(layer, weights=weights, bias=bias)

    # -- the network as golden has it ----------------------------------------------------------
    def network(self) -> Network:
        """The golden network of the present weights and scales.

        Raises:
            AccumulatorError: a layer sums more than the accumulator holds.
        """
        described = self.tensors
        layers: list[L.Layer] = []
        for layer in self.layers:
            if isinstance(layer, L.Conv | L.Linear):
                chosen = self.weight_exponents(layer.name).detach().round().numpy()
                source = described[layer.inputs[0]]
                layer = lower.weigh(
                    self._real(layer), source, layer.weight_format, chosen.astype(np.int64)
                )
            else:
                layer = self._others(layer)
            layers.append(layer)
        return replace(self.skeleton, tensors=described, layers=tuple(layers))

    def _others(self, layer: L.Layer) -> L.Layer:
        """Slopes, gammas and betas as they are now."""
        changed: dict[str, Any] = {}
        if isinstance(layer, L.Activate) and layer.slope is not None:
            changed["slope"] = self._codes(layer, "slope", lower.SLOPE_FORMAT, 0)
        if isinstance(layer, L.Normalise) and layer.gamma is not None:
            changed["gamma"] = self._codes(layer, "gamma", layer.weight_format, layer.weight_scale)
            if layer.beta is not None:
                changed["beta"] = self._numbers(layer, "beta")
        return replace(layer, **changed) if changed else layer

    def _codes(self, layer: L.Layer, field: str, name: str, scale: int) -> NDArray[Any]:
        numbers = self._numbers(layer, field)
        return np.asarray(formats.get(name).encode(np.ldexp(numbers, -scale), "zero"))

    # -- forward -------------------------------------------------------------------------------
    def forward(self, *inputs: Tensor) -> Any:
        if len(inputs) != len(self.graph.inputs):
            raise NetworkError(
                f"the network takes {len(self.graph.inputs)} inputs "
                f"({', '.join(self.graph.inputs)}), got {len(inputs)}"
            )
        self._check_batch(inputs)
        if self.training and self.options.weights == "calibrated":
            if int(self.steps) % self.options.refresh == 0 and self.rounds["weights"]:
                self.refresh()
            self.steps += 1
        values: dict[str, Tensor] = {}
        for name, given in zip(self.graph.inputs, inputs, strict=True):
            values[name] = self._entered(name, given)
        batch = len(inputs[0]) if self.graph.batch_axis == 0 else None
        golden = self.network() if self._exact else self.skeleton
        for layer in golden.layers:
            given = [values[n] if n in values else self._constant(n) for n in layer.inputs]
            if self._exact:
                values[layer.output] = self._exactly(layer, given, golden.tensors, batch)
            else:
                result = functions.run(layer, given, self._used(layer), batch)
                clip = getattr(layer, "clip", None)
                values[layer.output] = self._written(layer.output, result, clip)
        found = tuple(values[name] for name in self.graph.outputs)
        return found[0] if len(found) == 1 else found

    def _check_batch(self, inputs: tuple[Tensor, ...]) -> None:
        free = self.graph.batch_axis == 0
        for name, given in zip(self.graph.inputs, inputs, strict=True):
            shape = self.graph.shapes[name]
            if tuple(given.shape[free:]) != shape[free:] or given.ndim != len(shape):
                wanted = ", ".join(map(str, ("N", *shape[1:]) if free else shape))
                why = "" if free else ": its samples are not apart along axis 0"
                raise NetworkError(
                    f"input '{name}' has shape {tuple(given.shape)}, expected ({wanted}){why}"
                )

    def _entered(self, name: str, given: Tensor) -> Tensor:
        if name in self.graph.indices:
            return given
        if self._exact:
            return exact.written(given.double(), self.tensors[name], None)
        if given.ndim == 4:
            given = given.contiguous(memory_format=torch.channels_last)
        return self._written(name, given.float(), None)

    def _constant(self, name: str) -> Tensor:
        held = self.skeleton.tensors[name]
        values = self._constants[name]
        wide = self._exact or held.format == formats.INDEX.name
        return values if wide else values.float()

    def _written(self, name: str, values: Tensor, clip: tuple[float, float] | None) -> Tensor:
        """A tensor as it is read: clipped, rounded, unless it holds what was rounded already."""
        root = self._scaled[name]
        if root not in self._place or not self.rounds["activations"]:
            return values if clip is None else values.clamp(*clip)
        if root != name:
            return values
        place = self._place[root]
        if self.training and self.options.activations == "ema":
            self._track(place, values, self.skeleton.tensors[name].format)
        return fake_quantize(
            values,
            self.exponents[place],
            self.skeleton.tensors[name].format,
            clip or NONE,
            clipped=self.options.gradient == "clipped",
            chance=self._chance(values),
        )

    def _chance(self, values: Tensor) -> Tensor | None:
        drawn = self.options.stochastic and self.training
        return torch.rand_like(values) if drawn else None

    def _track(self, place: int, values: Tensor, name: str) -> None:
        """The exponent that a moving average of the largest magnitude asks for."""
        with torch.no_grad():
            top = values.abs().amax()
            before = self.largest[place]
            now = top if before == 0 else EMA * before + (1 - EMA) * top
            self.largest[place] = now
            if now > 0:
                anchor = scales.anchor(formats.get(name))
                self.exponents[place] = torch.ceil(torch.log2(now / anchor))

    def _masked(self, layer: L.Layer, weights: Tensor) -> Tensor:
        mask = self._buffers.get(f"mask:{_key(layer.name)}")
        # Minus zero has a code of its own in fp4, which a sparse packing would store.
        return weights if mask is None else weights * mask + 0.0

    def _used(self, layer: L.Layer) -> Mapping[str, Tensor]:
        """A layer's parameters as it computes with them."""
        own = {f: v for f in OWN if (v := self._of(layer, f)) is not None}
        if not isinstance(layer, L.Conv | L.Linear):
            if self.rounds["weights"] and "slope" in own:
                own["slope"] = self._rounded(own["slope"], torch.zeros(()), lower.SLOPE_FORMAT)
            if self.rounds["weights"] and isinstance(layer, L.Normalise) and "gamma" in own:
                scale = torch.tensor(float(layer.weight_scale))
                own["gamma"] = self._rounded(own["gamma"], scale, layer.weight_format)
            return own
        own["weights"] = self._masked(layer, own["weights"])
        if self.rounds["weights"]:
            scale = self.weight_exponents(layer.name)
            own["weights"] = self._rounded(own["weights"], scale, layer.weight_format)
            if self.rounds["activations"]:
                own["bias"] = on_grid(own["bias"], self._grid(layer))
        if own["weights"].ndim == 4:
            own["weights"] = own["weights"].contiguous(memory_format=torch.channels_last)
        return own

    def _rounded(self, values: Tensor, exponents: Tensor, name: str) -> Tensor:
        return fake_quantize(
            values,
            exponents,
            name,
            clipped=self.options.gradient == "clipped",
            chance=self._chance(values),
        )

    def _grid(self, layer: L.Conv | L.Linear) -> Tensor:
        """Exponent of the accumulator's lowest bit in every channel, in real units."""
        source = self.skeleton.tensors[layer.inputs[0]]
        root = self._scaled[source.name]
        scale = (
            self.exponents[self._place[root]].detach().round()
            if root in self._place
            else float(source.scale)
        )
        weights = self.weight_exponents(layer.name).detach().round()
        return weights + scale + mac.grid_exponent(source.format, layer.weight_format)

    def _exactly(
        self,
        layer: L.Layer,
        given: list[Tensor],
        described: Mapping[str, Described],
        batch: int | None,
    ) -> Tensor:
        before = self.rounds
        self.rounds = {"weights": True, "activations": True}
        own = {name: value.double() for name, value in self._used(layer).items()}
        self.rounds = before
        ins, out = [described[n] for n in layer.inputs], described[layer.output]
        if isinstance(layer, L.Conv | L.Linear):
            own["unit"] = torch.exp2(self._grid(layer).double())
        return exact.run(layer, ins, given, own, out, batch)
