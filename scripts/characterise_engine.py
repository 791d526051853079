"""Energies of the engine on a library's gates, and how well they foretell layers not fitted.

    python scripts/characterise_engine.py ihp130 asap7

Writes ``tech/measured/<library>.json`` and prints a table in Markdown, a row a layer. Fitted are
random streams and every other layer of a kind of the shipped network; judged are its other layers
and, where OPENNPE_EXTRA names the folder of networks made by others, all layers of ResNet8 and
every third of a kind of two networks that had no part in choosing the classes of events.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import energy_drawn
import energy_streams as streams
import numpy as np
from opennpe import quant, sim
from opennpe.cli import graphs
from opennpe.fpga import characterise, engine_gates
from opennpe.fpga.engine_gates import WordStream
from opennpe.golden import catalog
from opennpe.quant import zoo
from opennpe.quant.policy import Policy
from opennpe.sim.layer_words import Product, layer_product
from opennpe.tech import coefficients
from opennpe.tech.coefficients import MODES, Coefficients

SPEC = catalog.EDGE_4X4
ROOT = Path(__file__).resolve().parents[1]
EXTRA = "data/converted_onnx"
RESNET = "pretrainedResnet.onnx"
UNSEEN = {
    "wake words": ("vww_96_float.onnx", 96, 0.0, 1.0),
    "faces": ("face_detection_front.onnx", 128, -1.0, 1.0),
}
"""File, pixels of a side and range of networks that classes were not chosen by."""
RANDOM_WORDS, LAYER_WORDS, UNSEEN_WORDS = 500, 800, 400
DRAWN, DRAWN_WORDS = 60, 400
SEED = 7
OTHER_SEED, DRAWN_SEED = 8, 11


def layers(model: Path, fmt: str, images: Any) -> Iterator[tuple[str, Product]]:
    """Layers of a network in one format that engines work on."""
    graph = quant.load_onnx(model)
    name = next(iter(graphs.input_shapes(graph)))
    network = quant.calibrate(graph, {name: images}, Policy.uniform(fmt))
    keep = dict.fromkeys(n for x in network.layers for n in x.inputs if n not in network.constants)
    values, _ = sim.run(SPEC, network, {name: images[:4]}, keep=list(keep))
    held = dict(values) | {n: np.asarray(c) for n, c in network.constants.items()}
    index = 0
    for layer in network.layers:
        product = layer_product(SPEC, network, layer, [held[n] for n in layer.inputs])
        if product is not None:
            index += 1
            yield f"{index} {type(layer).__name__}", product


def pictures(count: int, size: int = 32, low: float = 0.0, high: float = 255.0) -> Any:
    """Square colour pictures: clothes, each in three sizes' worth of grey."""
    grey = np.load(zoo.TEST_DATA)["x"][:count, 0]
    grey = np.pad(grey, ((0, 0), (2, 2), (2, 2)))
    grey = (grey - grey.min()) / (grey.max() - grey.min()) * 255
    found = np.stack([grey, 0.8 * grey + 20, 255 - grey], axis=1)
    found = found.repeat(size // 32, axis=2).repeat(size // 32, axis=3)
    return (low + found * ((high - low) / 255)).astype(np.float32)


def sources(fmt: str) -> Iterator[tuple[str, Product]]:
    """Real layers, by network and name."""
    images = np.load(zoo.CALIBRATION)["x"][:16]
    for name, product in layers(zoo.MODEL, fmt, images):
        yield f"fashion {name}", product
    extra = Path(os.environ.get("OPENNPE_EXTRA") or "/nowhere") / EXTRA
    if (extra / RESNET).is_file():
        for name, product in layers(extra / RESNET, fmt, pictures(8)):
            yield f"ResNet8 {name}", product


def unseen(fmt: str) -> Iterator[tuple[str, Product]]:
    """Every third layer of a kind of the networks that classes were not chosen by."""
    extra = Path(os.environ.get("OPENNPE_EXTRA") or "/nowhere") / EXTRA
    for network, (file, *about) in UNSEEN.items():
        if (extra / file).is_file():
            met: Counter[str] = Counter()
            for name, product in layers(extra / file, fmt, pictures(4, *about)):
                kind = name.split()[-1]
                if met[kind] % 3 == 0:
                    yield f"{network} {name}", product
                met[kind] += 1


def main() -> None:
    """Characterise each library named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", nargs="+")
    parser.add_argument("--recipe", default="stock")
    parser.add_argument("--no-write", action="store_true")
    options = parser.parse_args()
    for library in options.library:
        one(library, options.recipe, not options.no_write)


def mode_streams(spec: Any, a: str, b: str) -> Iterator[tuple[str, WordStream]]:
    """What a mode is measured on, by name: random streams, then those that are not all fitted."""
    rng = np.random.default_rng(SEED)
    for i, stream in enumerate(streams.random_streams(spec, a, b, RANDOM_WORDS, rng)):
        yield f"random {i}", stream
    rng = np.random.default_rng(DRAWN_SEED)
    for i, stream in enumerate(energy_drawn.drawn_streams(spec, a, b, DRAWN, DRAWN_WORDS, rng)):
        yield f"drawn {i}", stream
    if a == b:
        rows, columns = SPEC.array.rows, SPEC.array.columns
        for products, words in ((sources(a), LAYER_WORDS), (unseen(a), UNSEEN_WORDS)):
            for name, product in products:
                yield name, streams.of_layer(spec, product, rows, columns, words)
    else:
        rng = np.random.default_rng(OTHER_SEED)
        for i, stream in enumerate(streams.random_streams(spec, a, b, RANDOM_WORDS // 2, rng)):
            yield f"another {i}", stream


def one(library: str, recipe: str, write: bool) -> None:
    """One library: file and table."""
    gates = engine_gates.build(SPEC.engine, library, recipe)
    model = gates.model()
    idle = characterise.idle_fj(SPEC.engine, model)
    energy, worst = {}, {}
    print(f"\n## {gates.netlist.library.name}, {recipe}: {len(gates.netlist.instances)} cells, "
          f"clock {idle:.4g} fJ a cycle\n")  # fmt: skip
    print("| mode | stream | fJ a MAC, gates | model | error | error without clock | s.e. |")
    print("|---|---|---|---|---|---|---|")
    for mode in MODES:
        energy[mode], worst[mode] = fitted(gates, model, idle, mode)
    found = Coefficients(
        library=gates.netlist.library.name,
        node_nm=gates.netlist.library.node_nm,
        voltage_v=gates.netlist.library.voltage_v,
        recipe=recipe,
        engine_hash=gates.engine_hash,
        cells=len(gates.netlist.instances),
        area_um2=gates.netlist.area_um2,
        energy_fj=energy,
        clock_fj=idle,
        clock_held_fj=idle,
        leakage_nw=gates.netlist.leakage_nw,
        worst_error=worst,
        notes=(
            "no clock tree, no wires, one slew an arc",
            "worst_error: of a layer's whole energy, among layers that were not fitted",
        ),
    )
    if write:
        coefficients.save(found, ROOT / "tech" / "measured" / f"{library}.json")


def fitted(gates: Any, model: Any, idle: float, mode: str) -> tuple[Any, float]:
    """Energies of a mode, and the worst error among layers that were not fitted."""
    a, _, b = mode.partition("+")
    b = b or a
    spec = gates.spec
    found = [
        (name, *streams.measured(spec, model, a, b, stream))
        for name, stream in mode_streams(spec, a, b)
    ]
    shipped = [x for x in found if x[0].startswith("fashion")]
    kinds = sorted({x[0].split()[-1] for x in shipped})
    own = [x for kind in kinds for x in [y for y in shipped if y[0].endswith(kind)][::2]]
    learnt = [x for x in found if x[0].startswith(("random", "drawn"))] + own
    events = np.concatenate([x[1] for x in learnt])
    spent = np.concatenate([x[2] - idle * x[3] for x in learnt])
    result = characterise.fit(events, spent)
    names = {x[0] for x in learnt}
    errors = [0.0]
    for name, counted, total, cycles in found:
        if name in names:
            continue
        expected = counted @ result + idle * cycles
        macs = spec.lanes(a) * cycles.sum()
        error = expected.sum() / total.sum() - 1
        events_only = (counted @ result).sum() / (total - idle * cycles).sum() - 1
        spread = (expected - total).std() * len(total) ** 0.5 / total.sum()
        errors.append(abs(error))
        print(
            f"| {mode} | {name} | {total.sum() / macs:.4g} | {expected.sum() / macs:.4g} | "
            f"{error:+.1%} | {events_only:+.1%} | {spread:.1%} |",
            flush=True,
        )
    return result, max(errors)


if __name__ == "__main__":
    main()
