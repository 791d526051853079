"""What a running window loses: its results beside exact ones, on sums as networks make them.

    python scripts/window_error.py

A row a format, kind of sums, length and window: results (rounded to the operands' format) that
differ from the exact ones, and how far, in codes. Kinds, all from one seed:

``layer``: weights normal with deviation 1/sqrt(K), activations ReLU of normal;
``spread``: the same, every activation scaled by 2**(3 * normal), as channels without scales are;
``cancel``: as ``layer``, the second half of the terms takes the first half away again but for the
first eighth of one term: what differences of large sums are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from opennpe.golden import formats, mac, running_window
from opennpe.golden.running_window import RunningWindow

SUMS = 200
LENGTHS = (64, 576, 4608)
WINDOWS = {"posit16": (32, 48), "posit8": (32,)}
KINDS = ("layer", "spread", "cancel")


def operands(
    name: str, kind: str, length: int, rng: np.random.Generator
) -> tuple[NDArray[np.unsignedinteger], NDArray[np.unsignedinteger]]:
    """Codes of activations and of weights, (SUMS, length) each."""
    fmt = formats.get(name)
    shape = (SUMS, length)
    x = np.maximum(rng.normal(size=shape), 0.0)
    w = rng.normal(size=shape) / np.sqrt(length)
    if kind == "spread":
        x *= 2.0 ** (3 * rng.normal(size=shape))
    codes_x, codes_w = fmt.encode(x), fmt.encode(w)
    if kind == "cancel":
        half = length // 2
        codes_x[:, half:] = codes_x[:, :half]
        codes_w[:, half:] = fmt.encode(-fmt.decode(codes_w[:, :half]))
        codes_w[:, -1] = fmt.encode(fmt.decode(codes_w[:, -1]) * 0.875)
    return codes_x, codes_w


def main() -> None:
    """The table, in Markdown."""
    print("| format | sums | K | window | differ | by codes, median | by codes, most |")
    print("|---|---|---|---|---|---|---|")
    for name, windows in WINDOWS.items():
        for kind in KINDS:
            for length in LENGTHS:
                rng = np.random.default_rng([length, KINDS.index(kind)])
                x, w = operands(name, kind, length, rng)
                right = order(name, [mac.dot(name, *row) for row in zip(x, w, strict=True)])
                for bits in windows:
                    window = RunningWindow(name, bits)
                    rows = zip(x, w, strict=True)
                    found = order(name, [running_window.dot(window, *row) for row in rows])
                    off = np.abs(found - right)[found != right]
                    cells = [name, kind, str(length), str(bits), f"{100 * len(off) / SUMS:.1f} %"]
                    cells += [f"{np.median(off):.0f}", str(off.max())] if len(off) else ["-", "-"]
                    print(f"| {' | '.join(cells)} |", flush=True)


def order(name: str, codes: list[int]) -> NDArray[np.int64]:
    """Places of codes among the format's numbers."""
    fmt = formats.get(name)
    return np.asarray(fmt.order_key(np.array(codes, fmt.dtype)), dtype=np.int64)


if __name__ == "__main__":
    main()
