"""Networks that grow by random layers, and co-processors too small for them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from opennpe.golden import formats, shapes
from opennpe.golden import layers as L
from opennpe.golden.network import Network, Tensor
from opennpe.golden.spec import ArraySpec, CoprocessorSpec, EngineSpec, MacSpec, MemorySpec

FORMATS = ("fp4", "posit4", "posit8", "posit16")


def spec(rows, columns, underflow="zero", **memory):
    sizes = {"bus_bits": 32, "buffer_lines": 4096, "operand_lines": 512, "weight_lines": 512,
             "parameter_tiles": 32, "command_units": 64} | memory  # fmt: skip
    mac = MacSpec(underflow=underflow)
    return CoprocessorSpec(
        f"{rows}x{columns}", ArraySpec(EngineSpec(mac), rows, columns), MemorySpec(**sizes)
    )


SPECS = {
    "2x2": spec(2, 2),
    "4x4": spec(4, 4, "minpos"),
    "3x4": spec(3, 4, command_units=16),
    "2x8": spec(2, 8),
    "5x16": spec(5, 16),
    "bands": spec(2, 4, operand_lines=32, command_units=16, queue=1),
    "chunks": spec(3, 2, weight_lines=64, parameter_tiles=2, command_units=32),
    "tiny": spec(
        2, 2, buffer_lines=512, operand_lines=8, weight_lines=16, parameter_tiles=2,
        command_units=16,
    ),
    "stream": spec(4, 4, buffer_lines=48, operand_lines=32, weight_lines=64, command_units=16),
}  # fmt: skip


class Builder:
    """A network that grows by random layers."""

    def __init__(self, rng, names):
        self.rng, self.names = rng, names
        self.tensors, self.layers, self.constants = {}, [], {}
        self.signless = set()

    def format(self):
        return str(self.rng.choice(self.names))

    def tensor(self, shape, fmt=None, scale=None):
        name = f"t{len(self.tensors)}"
        scale = int(self.rng.integers(-3, 4)) if scale is None else scale
        self.tensors[name] = Tensor(name, tuple(shape), fmt or self.format(), scale)
        return self.tensors[name]

    def codes(self, fmt, shape):
        f = formats.get(fmt)
        codes = self.rng.integers(0, 1 << f.bits, shape)
        # Small values, or every sum saturates; no NaR, which fp4 has no code for.
        spread = float(self.rng.choice([0.3, 1.0, 4.0]))
        values = self.rng.normal(0, spread, shape)
        mixed = np.where(self.rng.random(shape) < 0.1, codes, f.encode(values, "zero"))
        bad = mixed == f.nan_code if f.nan_code is not None else np.zeros(shape, bool)
        return np.where(bad, 1, mixed).astype(f.dtype)

    def finish(self, layer_of, x, *more, fmt=None, scale=None):
        """Add a layer, whose output's shape follows from it."""
        draft = layer_of(f"layer{len(self.layers)}", "?")
        shape = shapes.output_shape(draft, [t.shape for t in (x, *more)])
        out = self.tensor(shape, fmt, scale)
        self.layers.append(replace(draft, output=out.name))
        return out

    def clip(self):
        pick = self.rng.random()
        if pick < 0.4:
            return None
        return (0.0, math.inf) if pick < 0.7 else (-0.7, float(self.rng.choice([1.3, 6.0])))

    def conv(self, x, groups=1, outputs=None, rank=2):
        r = self.rng
        spatial = x.shape[2:]
        kernel = tuple(int(r.integers(1, min(4, 2 * n) + 1)) for n in spatial)
        dilations = tuple(int(r.integers(1, 3)) if k > 1 else 1 for k in kernel)
        strides = tuple(int(r.integers(1, 4)) for _ in spatial)
        pads = tuple(int(r.integers(0, 3)) for _ in range(2 * len(spatial)))
        for i, n in enumerate(spatial):
            if n + pads[i] + pads[i + len(spatial)] < dilations[i] * (kernel[i] - 1) + 1:
                kernel = tuple(1 if j == i else k for j, k in enumerate(kernel))
        outputs = outputs or int(r.integers(1, 20))
        outputs = -(-outputs // groups) * groups
        fmt = self.format()
        weights = self.codes(fmt, (outputs, x.shape[1] // groups, *kernel))
        scale = r.integers(-6, 1, outputs).astype(np.int64)
        bias = r.normal(0, 1, outputs)
        clip = self.clip()
        out = self.finish(
            lambda name, out: L.Conv(
                name, (x.name,), out, weights, fmt, scale, bias, strides, pads, dilations,
                groups, clip,
            ),
            x,
        )  # fmt: skip
        if clip and clip[0] == 0:
            self.signless.add(out.name)
        return out

    def linear(self, x):
        flat = self.finish(
            lambda name, out: L.Reshape(name, (x.name,), out, (1, math.prod(x.shape))),
            x, fmt=x.format, scale=x.scale,
        )  # fmt: skip
        outputs, fmt = int(self.rng.integers(1, 15)), self.format()
        weights = self.codes(fmt, (outputs, flat.shape[1]))
        scale = self.rng.integers(-5, 1, outputs).astype(np.int64)
        bias, clip = self.rng.normal(0, 1, outputs), self.clip()
        return self.finish(
            lambda name, out: L.Linear(name, (flat.name,), out, weights, fmt, scale, bias, clip),
            flat,
        )

    def add(self, x, y):
        signs = tuple(int(s) for s in self.rng.choice([1, -1], 2))
        clip = self.clip()
        return self.finish(lambda name, out: L.Add(name, (x.name, y.name), out, signs, clip), x, y)

    def pool(self, x, kind):
        r = self.rng
        spatial = x.shape[2:]
        kernel = tuple(int(r.integers(1, min(n, 4) + 1)) for n in spatial)
        strides = tuple(int(r.integers(1, 3)) for _ in spatial)
        pads = (0,) * (2 * len(spatial))
        if kind == "max":
            pads = tuple(int(r.integers(0, (k + 1) // 2)) for k in kernel) * 2
        fmt = x.format if kind == "max" and r.random() < 0.5 else None
        return self.finish(
            lambda name, out: L.Pool(
                name, (x.name,), out, kind, kernel, strides, pads, (1,) * len(spatial),
                True, kind == "max" and bool(r.random() < 0.3),
            ),
            x, fmt=fmt,
        )  # fmt: skip

    def activate(self, x):
        kind = str(self.rng.choice(["sigmoid", "tanh", "relu", "abs", "hard_swish"]))
        width = formats.get(x.format).bits
        fmt = str(self.rng.choice([n for n in FORMATS if formats.get(n).bits == width]))
        return self.finish(lambda name, out: L.Activate(name, (x.name,), out, kind), x, fmt=fmt)

    def network(self, inputs, outputs):
        return Network(
            tuple(inputs), tuple(outputs), self.tensors, tuple(self.layers), self.constants,
            "random",
        )  # fmt: skip
