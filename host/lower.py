"""Layers to jobs: which engine format, which weights, which shift; or why not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import codec, formats, lanes, mac, pooling, reference, rounding
from opennpe.golden import layers as L
from opennpe.golden.errors import AccumulatorError, CompileError
from opennpe.golden.network import Network, Tensor
from opennpe.golden.program import HostLayer, Output
from opennpe.golden.spec import CoprocessorSpec
from opennpe.host.jobs import Job, Stored

__all__ = ["Lowered", "lower"]

Pair = tuple[int, int]
Codes = NDArray[Any]


@dataclass
class Lowered:
    """A network as jobs over stored tensors.

    Attributes:
        stored: tensors that take room, by name.
        root: the stored tensor that holds a network tensor's codes.
        jobs: in order.
        outputs: what the network gives; ``symbol`` names a stored tensor.
        spread: codes of constants that were spread to a layer's shape, by stored tensor.
        whole: stored tensors that are written by several jobs.
    """

    spec: CoprocessorSpec
    network: Network
    stored: dict[str, Stored] = field(default_factory=dict)
    root: dict[str, str] = field(default_factory=dict)
    jobs: list[Job] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    spread: dict[str, Codes] = field(default_factory=dict)
    whole: set[str] = field(default_factory=set)

    def tensor(self, name: str) -> Tensor:
        """The network's tensor."""
        return self.network.tensors[name]

    def new(self, tensor: Tensor, shape: tuple[int, int, int], positive: bool = False) -> Stored:
        """Room for a network tensor, stored as (channels, height, width)."""
        stored = Stored(tensor.name, *shape, tensor.format, tensor.scale, positive=positive)
        self.stored[tensor.name] = stored
        self.root[tensor.name] = tensor.name
        return stored

    def held(self, name: str) -> Stored:
        """The stored tensor behind a network tensor."""
        return self.stored[self.root[name]]


def refuse(layer: L.LayerBase, why: str) -> CompileError:
    """The error of a layer the co-processor does not do."""
    return CompileError(f"layer '{layer.name}' ({type(layer).__name__}): {why}")


def image(shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    """(channels, height, width) of a tensor of one sample, or None."""
    if len(shape) == 4 and shape[0] == 1:
        return shape[1], shape[2], shape[3]
    if len(shape) == 3 and shape[0] == 1:
        return shape[1], 1, shape[2]
    if len(shape) == 2 and shape[0] == 1:
        return shape[1], 1, 1
    if len(shape) == 1:
        return shape[0], 1, 1
    return None


def lower(spec: CoprocessorSpec, network: Network, whole: Iterable[str] = ()) -> Lowered:
    """Every layer to a job, a view or the host.

    Args:
        whole: tensors that must exist: their activations are not fused into the layer before.

    Raises:
        CompileError: a layer that has no mapping, by name.
    """
    low = Lowered(spec, network)
    for name in (*network.inputs, *network.constants):
        tensor = network.tensors[name]
        shape = image(tensor.shape)
        if shape is None:
            shape = (math.prod(tensor.shape) or 1, 1, 1)
        low.new(tensor, shape)
    readers: dict[str, int] = {}
    for layer in network.layers:
        for name in layer.inputs:
            readers[name] = readers.get(name, 0) + 1
    kept = {*whole, *network.outputs}
    softmax: dict[str, HostLayer] = {}
    for layer in network.layers:
        if isinstance(layer, L.Softmax):
            if layer.output in readers or layer.output not in network.outputs:
                raise refuse(layer, "only a last layer is left to the host")
            ins, out = network.layer_tensors(layer)
            softmax[layer.output] = HostLayer(layer.name, ins[0], out, layer.axis, layer.log)
            continue
        handler = HANDLERS.get(type(layer))
        if handler is None:
            raise refuse(layer, "the co-processor has no mapping for it")
        if isinstance(layer, L.Activate) and _fuse(low, layer, readers, kept):
            continue
        try:
            handler(low, layer)
        except AccumulatorError as error:
            raise CompileError(str(error)) from error
    for name in network.outputs:
        host = softmax.get(name)
        source = host.input.name if host else name
        low.outputs.append(Output(network.tensors[name], low.root[source], host))
    return low


# -- products ----------------------------------------------------------------------------------
def _product(
    low: Lowered,
    layer: L.Conv | L.Linear,
    weights: Codes,
    kind: str,
    geometry: tuple[Pair, Pair, Pair, Pair],
    source: Stored,
) -> None:
    """A job of a layer with constant weights, given as its kind wants them."""
    (x,), out = low.network.layer_tensors(layer)
    strides, pads, dilations, size = geometry
    mode_a, mode_b = mac.compute_formats(x.format, layer.weight_format)
    for name in (mode_a, mode_b, out.format):
        _engine_format(low, layer, name)
    grid = mac.grid_exponent(mode_a, mode_b)
    bias, shift = [], []
    terms = int(np.prod(layer.weights.shape[1:]))
    for scale, value in zip(layer.weight_scale, layer.bias, strict=True):
        exponent = x.scale + int(scale)
        units = mac.to_grid(float(value), grid + exponent)
        rounding.check_terms(low.spec, layer, x.format, layer.weight_format, terms, abs(units))
        bias.append(units)
        shift.append(_shift(low, layer, exponent - out.scale))
    shape = image(out.shape)
    if shape is None:
        raise refuse(layer, f"its output has the shape {out.shape}")
    relu = layer.clip is not None and layer.clip[0] >= 0
    low.new(out, (shape[0], *size), relu)
    low.jobs.append(
        Job(
            layer.name,
            kind,
            (source.name,),
            out.name,
            mode_a,
            mode_b,
            out.format,
            weights,
            layer.weight_format,
            bias,
            shift,
            (int(weights.shape[2]), int(weights.shape[3])),
            strides,
            pads,
            dilations,
            size,
            clamp=_clamp(low, out, layer.clip),
            layers=[layer.name],
        )
    )


def _engine_format(low: Lowered, layer: L.LayerBase, name: str) -> None:
    if name not in low.spec.mac.formats:
        known = ", ".join(low.spec.mac.formats)
        raise refuse(layer, f"the engine has no {name}: expected {known}")


def _shift(low: Lowered, layer: L.LayerBase, shift: int) -> int:
    half = 1 << (low.spec.engine.shift_bits - 1)
    if not -half <= shift < half:
        raise refuse(layer, f"a shift by {shift} bits: the engine shifts by {-half} to {half - 1}")
    return shift


def _clamp(low: Lowered, out: Tensor, clip: L.Clip | None) -> Pair | None:
    """Codes that clipping before the rounding comes to: rounding is monotonic."""
    if clip is None or all(math.isinf(b) for b in clip):
        return None
    fmt = formats.get(out.format)
    ends = [int(c) for c in fmt.encode(np.array([-fmt.maxpos, fmt.maxpos]))]
    codes = []
    for bound, end in zip(clip, ends, strict=True):
        if math.isinf(bound):
            codes.append(end)
        else:
            exact = Fraction(bound)
            codes.append(
                codec.round_exact(
                    fmt, exact.numerator, -out.scale, low.spec.underflow, exact.denominator
                )
            )
    return codes[0], codes[1]


def _two(values: tuple[int, ...], lead: int) -> Pair:
    """The (y, x) of one or two spatial axes."""
    return (lead, int(values[0])) if len(values) == 1 else (int(values[0]), int(values[1]))


def _conv(low: Lowered, layer: L.Conv) -> None:
    kernel = layer.weights.shape[2:]
    (x,), out = low.network.layer_tensors(layer)
    if len(kernel) > 2 or x.shape[0] != 1:
        raise refuse(layer, f"{len(kernel)} spatial axes, {x.shape[0]} samples")
    source = low.held(x.name)
    if (source.channels, source.height, source.width) != image(x.shape):
        raise refuse(layer, f"it reads {x.shape} from a tensor stored in another order")
    groups, total = layer.groups, layer.weights.shape[0]
    weights = layer.weights.reshape(*layer.weights.shape[:2], *_two(kernel, 1))
    geometry = (
        _two(layer.strides, 1),
        _two(layer.pads[: len(kernel)], 0),
        _two(layer.dilations, 1),
        _two(out.shape[2:], 1),
    )
    if groups == total == x.shape[1] and groups > 1:
        _product(low, layer, weights, "depth", geometry, source)
        return
    if groups > 1:
        per_in, per_out = weights.shape[1], total // groups
        dense = np.zeros((total, x.shape[1], *weights.shape[2:]), dtype=weights.dtype)
        for g in range(groups):
            rows = slice(g * per_out, (g + 1) * per_out)
            dense[rows, g * per_in : (g + 1) * per_in] = weights[rows]
        weights = dense
    _product(low, layer, weights, "dense", geometry, source)


def _linear(low: Lowered, layer: L.Linear) -> None:
    (x,), _ = low.network.layer_tensors(layer)
    source = low.held(x.name)
    if math.prod(x.shape[:-1]) != 1:
        raise refuse(layer, f"an input of shape {x.shape}: expected one flat vector")
    weights = layer.weights.reshape(-1, source.channels, source.height, source.width)
    _product(low, layer, weights, "dense", ((1, 1), (0, 0), (1, 1), (1, 1)), source)


# -- element by element ------------------------------------------------------------------------
def _powers(name: str) -> dict[int, int]:
    """Codes of a format's powers of two, by exponent."""
    fmt = formats.get(name)
    found = {}
    for code, value in enumerate(fmt.values):
        if value > 0 and math.isfinite(value) and math.frexp(value)[0] == 0.5:
            found[math.frexp(value)[1] - 1] = code
    return found


def _negated(name: str, code: int) -> int:
    fmt = formats.get(name)
    return int(fmt.encode(np.array(-fmt.values[code])))


def _pointwise(
    low: Lowered,
    layer: L.LayerBase,
    sources: tuple[Stored, ...],
    out: Stored,
    mode: str,
    codes: list[int],
    shift: int,
    **more: Any,
) -> None:
    """A job that weighs its tensors' codes and adds them."""
    channels = more.pop("channels", out.channels)
    weights = np.tile(np.array(codes).reshape(1, -1, 1, 1), (channels, 1, 1, 1))
    low.jobs.append(
        Job(
            layer.name,
            "depth",
            tuple(s.name for s in sources),
            out.name,
            mode,
            mode,
            more.pop("result", out.format),
            weights.astype(formats.get(mode).dtype),
            mode,
            [0] * channels,
            [_shift(low, layer, shift)] * channels,
            (1, 1),
            (1, 1),
            (0, 0),
            (1, 1),
            (out.height, out.width),
            flat=True,
            layers=[layer.name],
            **more,
        )
    )


def _add(low: Lowered, layer: L.Add) -> None:
    ins, out = low.network.layer_tensors(layer)
    if any(t.shape != out.shape and t.name not in low.network.constants for t in ins):
        raise refuse(layer, f"it broadcasts {' and '.join(str(t.shape) for t in ins)}")
    for tensor in (*ins, out):
        _engine_format(low, layer, tensor.format)
    sources = tuple(_operand(low, layer, t, out) for t in ins)
    first = sources[0]
    if any(
        (s.channels, s.height, s.width) != (first.channels, first.height, first.width)
        for s in sources
    ):
        raise refuse(layer, "its operands are stored in different orders")
    lows = [formats.get(t.format).lsb_exponent + t.scale for t in ins]
    grid = mac.grid_exponent(ins[0].format, ins[1].format) + max(t.scale for t in ins)
    if min(lows) < grid:
        raise refuse(
            layer,
            f"scales 2^{ins[0].scale} and 2^{ins[1].scale} are so far apart that an operand is "
            "rounded on entry: choose a wider format for it",
        )
    wanted = [n for n in low.spec.mac.formats if all(_nests(t.format, n) for t in ins)]
    for mode in wanted:
        powers = _powers(mode)
        base = [
            e for e in powers if all(t.scale - max(x.scale for x in ins) + e in powers for t in ins)
        ]
        if not base:
            continue
        top = max(t.scale for t in ins)
        best = min(base, key=abs)
        codes = [powers[t.scale - top + best] for t in ins]
        codes = [c if s > 0 else _negated(mode, c) for c, s in zip(codes, layer.signs, strict=True)]
        relu = layer.clip is not None and layer.clip[0] >= 0
        stored = low.new(out, (first.channels, first.height, first.width), relu)
        _pointwise(
            low,
            layer,
            sources,
            stored,
            mode,
            codes,
            top - best - out.scale,
            clamp=_clamp(low, out, layer.clip),
        )
        return
    raise refuse(layer, f"no format has powers of two for scales {[t.scale for t in ins]}")


def _nests(name: str, mode: str) -> bool:
    """Whether a fill brings codes of a format to a mode."""
    if name == mode:
        return True
    return bool(formats.get(name).bits < formats.get(mode).bits)


def _operand(low: Lowered, layer: L.LayerBase, tensor: Tensor, out: Tensor) -> Stored:
    """An operand of an elementwise layer; a constant is spread to the output's shape."""
    if tensor.name not in low.network.constants or tensor.shape == out.shape:
        return low.held(tensor.name)
    name = f"{layer.name}:{tensor.name}"
    codes = np.broadcast_to(low.network.constants[tensor.name], out.shape)
    shape = image(out.shape)
    if shape is None:
        raise refuse(layer, f"its output has the shape {out.shape}")
    low.spread[name] = codes.reshape(shape)
    return low.new(Tensor(name, out.shape, tensor.format, tensor.scale), shape)


def _copy(
    low: Lowered,
    layer: L.LayerBase,
    source: Stored,
    out: Stored,
    **more: Any,
) -> None:
    """The same values in the output's format and scale, one rounding where they differ."""
    same = (source.format, source.scale) == (out.format, out.scale)
    if same:
        mode = "posit4" if source.format == "fp4" else source.format
        # A posit's code times one is itself, whatever the bits stand for.
        code = _powers(mode)[0]
        _pointwise(low, layer, (source,), out, mode, [code], 0, result=mode, **more)
        return
    if out.format == "fp4" and source.format == "fp4" and not source.signless:
        raise refuse(layer, "-0 would lose its sign: clip the tensor before or keep its scale")
    mode = source.format
    _pointwise(
        low, layer, (source,), out, mode, [_powers(mode)[0]], source.scale - out.scale, **more
    )


def _convert(low: Lowered, layer: L.Convert | L.Reshape | L.Transpose) -> None:
    """A view where codes stay as they are, else a copy in the same order."""
    (x,), out = low.network.layer_tensors(layer)
    source = low.held(x.name)
    if isinstance(layer, L.Transpose):
        moving = [a for a in layer.permutation if x.shape[a] > 1]
        if moving != sorted(moving):
            raise refuse(layer, f"it moves axes {moving} of {x.shape}")
    for tensor in (x, out):
        _engine_format(low, layer, tensor.format)
    if (x.format, x.scale) == (out.format, out.scale) and x.name not in low.network.constants:
        low.root[out.name] = source.name
        return
    stored = low.new(out, (source.channels, source.height, source.width), source.positive)
    _copy(low, layer, source, stored)


def _concat(low: Lowered, layer: L.Concat) -> None:
    ins, out = low.network.layer_tensors(layer)
    if layer.axis % len(out.shape) != 1:
        raise refuse(layer, f"axis {layer.axis}: only channels are joined")
    sources = [low.held(t.name) for t in ins]
    shape = image(out.shape)
    if shape is None or any(
        (s.channels, s.height, s.width) != image(t.shape) for s, t in zip(sources, ins, strict=True)
    ):
        raise refuse(layer, "it reads a tensor stored in another order")
    stored = low.new(out, shape, all(s.positive for s in sources))
    block = low.spec.line_words * lanes.lanes(out.format)
    at = 0
    for source in sources:
        if at % block:
            raise refuse(
                layer, f"channel {at} of the output begins inside a block of {block} channels"
            )
        _copy(low, layer, source, stored, channels=source.channels, channel=at)
        at += source.channels
    low.whole.add(stored.name)


def _activation_table(low: Lowered, layer: L.Activate) -> Codes:
    """Output code for each input code, by golden's own evaluation."""
    (x,), out = low.network.layer_tensors(layer)
    if formats.get(x.format).bits > 8:
        raise refuse(layer, f"a table of {x.format} codes does not fit: use a format of 8 bits")
    if formats.get(out.format).bits != formats.get(x.format).bits:
        raise refuse(layer, f"a table from {x.format} to {out.format}: expected one width")
    if layer.slope is not None and np.asarray(layer.slope).size != 1:
        raise refuse(layer, "a slope a channel")
    codes = np.arange(1 << formats.get(x.format).bits, dtype=formats.get(x.format).dtype)
    shaped = codes.reshape(-1, *[1] * (len(x.shape) - 1))
    found = reference.evaluate_layer(low.spec, layer, [x], [shaped], out)
    return np.asarray(found).reshape(-1)


def _positive(name: str, codes: Codes) -> bool:
    """Whether no code stands for a negative value or for -0."""
    return not np.signbit(formats.get(name).values[codes]).any()


def _wide(x: Tensor, out: Tensor) -> bool:
    """Whether a table cannot lead from one tensor's codes to another's."""
    bits = [formats.get(t.format).bits for t in (x, out)]
    return bool(max(bits) > 8 or bits[0] != bits[1])


def _fuse(low: Lowered, layer: L.Activate, readers: dict[str, int], kept: set[str]) -> bool:
    """Look the activation up on the way out of the layer before, if nothing else needs that."""
    name = layer.inputs[0]
    if _wide(*(low.tensor(n) for n in (name, layer.output))) and _bounds(layer) is not None:
        return False
    if readers[name] > 1 or name in kept or low.root.get(name) != name or not low.jobs:
        return False
    job = low.jobs[-1]
    if job.output != name or job.table is not None or name in low.whole:
        return False
    table = _activation_table(low, layer)
    _, out = low.network.layer_tensors(layer)
    old = low.stored.pop(name)
    low.new(out, (old.channels, old.height, old.width), _positive(out.format, table))
    job.table, job.output = table, out.name
    job.layers.append(layer.name)
    return True


def _bounds(layer: L.Activate) -> L.Clip | None:
    """The real bounds of an activation that only clips."""
    params = dict(layer.params)
    clips = {
        "relu": (0.0, math.inf),
        "relu6": (0.0, 6.0),
        "clip": (params.get("min", -math.inf), params.get("max", math.inf)),
    }
    return clips.get(layer.kind)


def _activate(low: Lowered, layer: L.Activate) -> None:
    (x,), out = low.network.layer_tensors(layer)
    source = low.held(x.name)
    for tensor in (x, out):
        _engine_format(low, layer, tensor.format)
    bounds = _bounds(layer)
    if _wide(x, out) and bounds is not None:
        shape = (source.channels, source.height, source.width)
        stored = low.new(out, shape, bounds[0] >= 0)
        _copy(low, layer, source, stored, clamp=_clamp(low, out, bounds))
        return
    table = _activation_table(low, layer)
    stored = low.new(out, (source.channels, source.height, source.width), not (table == 8).any())
    mode = "posit4" if x.format == "fp4" else x.format
    _pointwise(low, layer, (source,), stored, mode, [_powers(mode)[0]], 0, result=mode, table=table)


# -- pooling -----------------------------------------------------------------------------------
def _pool(low: Lowered, layer: L.Pool) -> None:
    (x,), out = low.network.layer_tensors(layer)
    if len(layer.kernel) > 2 or x.shape[0] != 1:
        raise refuse(layer, f"{len(layer.kernel)} spatial axes, {x.shape[0]} samples")
    source = low.held(x.name)
    if (source.channels, source.height, source.width) != image(x.shape):
        raise refuse(layer, "it reads a tensor stored in another order")
    for tensor in (x, out):
        _engine_format(low, layer, tensor.format)
    inside = pooling.patches(np.ones((1, 1, *x.shape[2:]), dtype=np.int64), layer.kernel, layer, 0)
    if layer.kind == "max":
        if not (inside > 0).any(axis=-1).all():
            raise refuse(layer, "a window lies in the padding alone")
        if x.format == out.format == "fp4" and not source.signless:
            raise refuse(layer, "a maximum of -0 would lose its sign: put a relu before it")
        mode, codes, shift = x.format, [_powers(x.format)[0]], x.scale - out.scale
    else:
        mode, codes, shift = _average(low, layer, x, out, inside)
    kernel = _two(layer.kernel, 1)
    weights = np.tile(np.array(codes).reshape(1, -1, 1, 1), (x.shape[1], 1, kernel[0], kernel[1]))
    size = _two(out.shape[2:], 1)
    rounding.check_terms(low.spec, layer, mode, mode, int(np.prod(weights.shape[1:])))
    low.new(out, (out.shape[1], *size), source.positive)
    low.jobs.append(
        Job(
            layer.name,
            "max" if layer.kind == "max" else "depth",
            (source.name,),
            out.name,
            mode,
            mode,
            out.format,
            weights.astype(formats.get(mode).dtype),
            mode,
            [0] * x.shape[1],
            [_shift(low, layer, shift)] * x.shape[1],
            kernel,
            _two(layer.strides, 1),
            _two(layer.pads[: len(layer.kernel)], 0),
            _two(layer.dilations, 1),
            size,
            layers=[layer.name],
        )
    )


def _average(
    low: Lowered, layer: L.Pool, x: Tensor, out: Tensor, inside: Codes
) -> tuple[str, list[int], int]:
    """Mode, weight codes and shift of the rule m 2^-q (:func:`golden.rounding.reciprocal`)."""
    counts = pooling.average_counts(layer, x.shape[2:], inside)
    if counts.min() != counts.max():
        raise refuse(layer, f"windows of {counts.min()} to {counts.max()} elements")
    m, q = rounding.reciprocal(int(counts.min()))
    while m % 2 == 0:
        m, q = m // 2, q - 1
    for mode in low.spec.mac.formats:
        if not _nests(x.format, mode):
            continue
        found = _split(mode, m)
        if found is not None:
            codes, exponent = found
            return mode, codes, x.scale - out.scale - q - exponent
    raise refuse(layer, f"no format holds 1/{int(counts.min())} in two codes")


def _split(mode: str, m: int) -> tuple[list[int], int] | None:
    """One or two codes of a format whose values add up to ``m 2^exponent``."""
    fmt = formats.get(mode)
    values = fmt.values
    known = {float(v): c for c, v in enumerate(values) if math.isfinite(v)}
    for exponent in range(-m.bit_length(), 1):
        if math.ldexp(m, exponent) in known:
            return [known[math.ldexp(m, exponent)]], exponent
    for exponent in range(-m.bit_length(), 1):
        for cut in range(1, m.bit_length()):
            rest = m & ((1 << cut) - 1)
            pair = [math.ldexp(m - rest, exponent), math.ldexp(rest, exponent)]
            if all(v in known for v in pair):
                return [known[v] for v in pair], exponent
    return None


HANDLERS: dict[type, Callable[[Lowered, Any], None]] = {
    L.Conv: _conv,
    L.Linear: _linear,
    L.Add: _add,
    L.Pool: _pool,
    L.Activate: _activate,
    L.Convert: _convert,
    L.Reshape: _convert,
    L.Transpose: _convert,
    L.Concat: _concat,
}
