"""What translators write into: layers, shapes and constants of the graph under construction."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from opennpe.golden import layers as L
from opennpe.golden import shapes
from opennpe.golden.errors import ModelError, NetworkError
from opennpe.quant.graph import Affine, Array, Hint, Shape, Unsupported, conv, linear
from opennpe.quant.onnx_reader import Node, check_elements

__all__ = ["Builder"]

MOVES = (L.Reshape, L.Transpose, L.Slice, L.Concat, L.Resize)
"""Layers that move indices as they move numbers."""


class Builder:
    """Collects layers; names are ONNX's, extra tensors are ``<output>:<n>``.

    Attributes:
        opset: the model's opset, for operators whose attributes moved.
        shapes: of every tensor that depends on an input.
        constants: folded values by ONNX name, any dtype.
        layers: in execution order.
        hints, weight_hints: see :class:`opennpe.quant.graph.Graph`.
        quantised: scale and zero point of values that ONNX holds as integer codes.
        indices: tensors that hold row numbers or masks.
        flags: values of two numbers that a mask chooses from (:mod:`opennpe.quant.masks`).
        masked: logits with a mask added, which only a softmax may read.
        nan_tests: what an IsNaN was asked of, by the answer's name.
    """

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.shapes: dict[str, Shape] = {}
        self.constants: dict[str, Array] = {}
        self.operands: dict[str, Array] = {}
        self.layers: list[Any] = []
        self.hints: dict[str, Hint] = {}
        self.weight_hints: dict[str, Hint] = {}
        self.constant_hints: dict[str, Hint] = {}
        self.quantised: dict[str, tuple[float, float]] = {}
        self.indices: set[str] = set()
        self.flags: dict[str, Any] = {}
        self.masked: dict[str, Any] = {}
        self.nan_tests: dict[str, str] = {}
        self.alias: dict[str, str] = {}
        self._layer_names: set[str] = set()
        self._count = 0

    # -- reading -----------------------------------------------------------------------------
    def tensor(self, name: str) -> str:
        """The tensor that an ONNX value stands for (identities removed)."""
        return self.alias.get(name, name)

    def is_constant(self, name: str) -> bool:
        """Whether a value is known at import."""
        return name in self.constants

    def shape(self, name: str) -> Shape:
        """A value's shape, constant or not."""
        if name in self.constants:
            return tuple(self.constants[name].shape)
        if name in self.flags:
            return tuple(self.flags[name].shape)
        return self.shapes[self.tensor(name)]

    def constant(self, node: Node, index: int, what: str, default: Any = None) -> Array | Any:
        """The constant in input ``index``; ``default`` where it is absent.

        Raises:
            Unsupported: the input is computed at run time.
        """
        name = node.inputs[index] if index < len(node.inputs) else ""
        if not name:
            return default
        if name not in self.constants:
            raise Unsupported(f"{what} ('{name}') is computed at run time: it must be constant")
        return self.constants[name]

    def operand(self, name: str) -> str:
        """A layer's input: a tensor, or a float constant made one."""
        if name not in self.constants:
            return self.tensor(name)
        values = self.finite(self.constants[name], f"constant '{name}'")
        self.operands[name] = values
        self.shapes[name] = values.shape
        hint = self.constant_hint(name)
        if hint is not None:
            self.hints[name] = hint
        return name

    def constant_hint(self, name: str) -> Hint | None:
        """What the model says of a constant that is in one format at one scale, or None."""
        hint = self.constant_hints.get(name)
        if hint is None or np.size(hint.scale) != 1:
            return None
        return dataclasses.replace(hint, scale=int(np.ravel(hint.scale)[0]))

    def new_operand(self, base: str, values: Array) -> str:
        """A constant tensor of our own."""
        name = self.fresh(base)
        self.operands[name] = self.finite(values, f"constant '{name}'")
        self.shapes[name] = values.shape
        return name

    def new_mask(self, base: str, keep: Array) -> str:
        """A constant mask of our own: 1 where kept."""
        name = self.new_operand(base, keep.astype(np.float64))
        self.indices.add(name)
        return name

    @staticmethod
    def finite(values: Array, what: str) -> Array:
        """The values as float64.

        Raises:
            ModelError: some are NaN or infinite.
        """
        array = np.asarray(values).astype(np.float64)
        bad = array.size - int(np.isfinite(array).sum())
        if bad:
            raise ModelError(
                f"{what} holds {bad} NaN or infinite values of {array.size}: repair the weights"
            )
        return array

    # -- writing -----------------------------------------------------------------------------
    def fresh(self, base: str) -> str:
        """A tensor name that nothing uses."""
        self._count += 1
        return f"{base}:{self._count}"

    def layer_name(self, wanted: str) -> str:
        """A layer name that nothing uses."""
        name, count = wanted, 2
        while name in self._layer_names:
            name, count = f"{wanted}/{count}", count + 1
        self._layer_names.add(name)
        return name

    def emit(self, layer: Any) -> str:
        """Append a layer; its output's name.

        Raises:
            ModelError: shapes that do not fit, too many elements, or weights that are not finite.
        """
        layer = dataclasses.replace(layer, name=self.layer_name(layer.name))
        given = [self.shapes[n] for n in layer.inputs]
        for field in ("weights", "bias", "slope", "scale", "offset", "gamma", "beta"):
            values = getattr(layer, field, None)
            if isinstance(values, np.ndarray) and not isinstance(layer, L.Resize):
                self.finite(values, f"layer '{layer.name}': its {field}")
        try:
            shape = given[0] if isinstance(layer, Affine) else shapes.output_shape(layer, given)
        except NetworkError as error:
            raise ModelError(str(error)) from error
        except (ValueError, IndexError, TypeError, ZeroDivisionError) as error:
            raise ModelError(
                f"layer '{layer.name}' cannot read the shapes {', '.join(map(str, given))}"
            ) from error
        self.shapes[layer.output] = check_elements(shape, f"the output of layer '{layer.name}'")
        if isinstance(layer, MOVES) and all(n in self.indices for n in layer.inputs):
            self.indices.add(layer.output)
        self.layers.append(layer)
        return str(layer.output)

    def put(
        self,
        layer_type: Any,
        node: Node,
        inputs: Sequence[str],
        out: str | None = None,
        **fields: Any,
    ) -> str:
        """Emit a layer of a node; without ``out`` the result is an intermediate tensor."""
        output = self.fresh(node.outputs[0]) if out is None else out
        return self.emit(layer_type(name=node.name, inputs=tuple(inputs), output=output, **fields))

    def same(self, out: str, source: str) -> None:
        """``out`` is another name of a tensor."""
        self.alias[out] = self.tensor(source)

    # -- the layers translators use most -----------------------------------------------------
    def reshape(self, node: Node, x: str, shape: Sequence[int], out: str | None = None) -> str:
        return self.put(L.Reshape, node, [x], out, shape=tuple(int(n) for n in shape))

    def transpose(self, node: Node, x: str, axes: Sequence[int], out: str | None = None) -> str:
        return self.put(L.Transpose, node, [x], out, permutation=tuple(int(a) for a in axes))

    def activate(
        self, node: Node, x: str, kind: str, out: str | None = None, **params: float
    ) -> str:
        pairs = tuple((key, float(value)) for key, value in params.items())
        return self.put(L.Activate, node, [x], out, kind=kind, params=pairs)

    def affine(
        self,
        node: Node,
        x: str,
        scale: Any,
        offset: Any,
        out: str | None = None,
        hint: Hint | None = None,
    ) -> str:
        return self.put(
            Affine,
            node,
            [x],
            out,
            scale=np.asarray(scale, dtype=np.float64),
            offset=np.asarray(offset, dtype=np.float64),
            hint=hint,
        )

    def add(self, node: Node, a: str, b: str, signs: Any = (1, 1), out: str | None = None) -> str:
        return self.put(L.Add, node, [a, b], out, signs=signs)

    def mul(self, node: Node, a: str, b: str, out: str | None = None) -> str:
        return self.put(L.Mul, node, [a, b], out)

    def linear(
        self, node: Node, x: str, weights: Array, bias: Array | None = None, out: str | None = None
    ) -> str:
        output = self.fresh(node.outputs[0]) if out is None else out
        return self.emit(linear(node.name, x, output, weights, bias))

    def conv(self, node: Node, x: str, out: str | None = None, **fields: Any) -> str:
        output = self.fresh(node.outputs[0]) if out is None else out
        return self.emit(conv(node.name, x, output, **fields))
