"""``--check``: sampled tiles of a run, bit for bit through the Verilated RTL."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opennpe.cli import tiles
from opennpe.cli.errors import CheckFailed
from opennpe.cli.results import Checked
from opennpe.cli.tiles import Case
from opennpe.golden import formats, mac
from opennpe.golden.errors import DataError
from opennpe.golden.network import Network
from opennpe.golden.spec import CoprocessorSpec

__all__ = ["check", "clipped", "golden_codes", "verify"]

Codes = NDArray[Any]
Engine = Callable[[Sequence[Case]], tuple[list[Codes], int]]
"""Cases to result codes a lane, before clipping, and the clock cycles they took."""


def check(
    spec: CoprocessorSpec,
    network: Network,
    tensors: Mapping[str, Codes],
    count: int,
    rng: np.random.Generator,
    engine: Engine,
) -> Checked:
    """Replay ``count`` tiles of each layer that multiplies.

    Args:
        tensors: codes of every tensor of one batch of the run.
        engine: what replays them.

    Raises:
        CheckFailed: at the first code that differs.
        DataError: nothing could be replayed.
    """
    replayed: dict[str, int] = {}
    skipped: Counter[str] = Counter()
    outputs = cycles = 0
    for layer in network.layers:
        view = tiles.product(network, layer, tensors)
        if view is None or not _in_engine(spec, view):
            skipped[type(layer).__name__] += 1
            continue
        drawn = list(tiles.sample(spec, view, np.asarray(tensors[layer.output]), count, rng))
        cases = [case for tile in drawn for case in tile]
        results, spent = engine(cases)
        verify(spec, cases, results)
        replayed[layer.name] = len(drawn)
        outputs += sum(len(case.outputs) for case in cases)
        cycles += spent
    if not outputs:
        raise DataError(
            "no layer of this run can be replayed on the RTL: check needs a convolution or "
            f"product in the engine's formats, {', '.join(spec.mac.formats)}"
        )
    return Checked(replayed, outputs, cycles, dict(skipped))


def _in_engine(spec: CoprocessorSpec, view: tiles.Product) -> bool:
    return {*view.modes(), view.out.format} <= set(spec.mac.formats)


def verify(spec: CoprocessorSpec, cases: Sequence[Case], results: Sequence[Codes]) -> None:
    """Compare the engine's codes with the simulator's.

    Raises:
        CheckFailed: at the first code that differs, with operands, expected and got in hex.
    """
    if len(results) != len(cases):
        raise CheckFailed(f"the engine answered {len(results)} of {len(cases)} cases")
    for case, result in zip(cases, results, strict=True):
        got = clipped(spec, case, np.asarray(result)[: len(case.outputs)])
        wrong = np.flatnonzero(got != case.expected)
        if wrong.size:
            raise CheckFailed(_describe(spec, case, int(wrong[0]), got))


def _describe(spec: CoprocessorSpec, case: Case, lane: int, got: Codes) -> str:
    digits = -(-formats.get(case.out.format).bits // 4)
    golden = clipped(spec, case, golden_codes(spec, case))[lane]
    words = [" ".join(f"{int(w):04x}" for w in side[:8]) for side in case.words]
    more = " ..." if len(case.words[0]) > 8 else ""
    return (
        f"layer '{case.layer}' output {case.outputs[lane]} (lane {lane}): RTL "
        f"{int(got[lane]):0{digits}x}, simulator {int(case.expected[lane]):0{digits}x}, golden "
        f"{int(golden):0{digits}x}; {case.modes[0]} words {words[0]}{more}, {case.modes[1]} words "
        f"{words[1]}{more}, bias {case.bias[lane]}, shift {case.shifts[lane]}"
    )


def golden_codes(spec: CoprocessorSpec, case: Case) -> Codes:
    """What golden gives for a case, a code a lane in use, before clipping."""
    grid = mac.grid_exponent(*case.modes)
    out = formats.get(case.out.format)
    codes = []
    for lane in range(len(case.outputs)):
        a, b = (side[:, lane][None] for side in case.codes)
        sums, nan = mac.exact_sums(*case.modes, a, b.T)
        total = int(sums[0, 0]) + case.bias[lane]
        exponent = grid + case.shifts[lane]
        codes.append(mac.round_sum(out, total, exponent, bool(nan[0, 0]), spec.underflow))
    return np.array(codes, dtype=out.dtype)


def clipped(spec: CoprocessorSpec, case: Case, codes: Codes) -> Codes:
    """The layer's clip on rounded codes: rounding is monotone, so it may come after."""
    if case.clip is None:
        return codes
    fmt = formats.get(case.out.format)
    keys = fmt.order_key(codes)
    result = np.array(codes)
    for bound, beyond in zip(case.clip, (np.less, np.greater), strict=True):
        if math.isfinite(bound):
            limit = case.out.encode(bound, spec.underflow)
            result = np.where(beyond(keys, fmt.order_key(limit)), limit, result)
    return np.where(fmt.is_nan(codes), codes, result).astype(fmt.dtype)
