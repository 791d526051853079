"""The network that ships with the project: a small classifier of Fashion-MNIST.

``scripts/train_fashion.py`` trained it and cut the data; images are Fashion-MNIST's (MIT licence,
H. Xiao, K. Rasul, R. Vollgraf, arXiv 1708.07747).
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["CALIBRATION", "MIXED", "MODEL", "TEST_DATA", "TRANSFORMER"]

_HERE = Path(__file__).parent
MODEL = _HERE / "fashion.onnx"
"""The trained network."""
TEST_DATA = _HERE / "test.npz"
"""1,000 labelled test images: ``x`` float32 (N, 1, 28, 28), ``y`` int64 (N,)."""
CALIBRATION = _HERE / "calibration.npz"
"""Training images that set the scales."""
MIXED = _HERE / "mixed.toml"
"""A format policy with a format of its own for each layer."""
TRANSFORMER = _HERE / "transformer.toml"
"""A format policy for transformers: products in posit8, the residual stream in posit16."""
