"""Whether a trained module, the simulator and the RTL give the same codes.

For a finished stage of ``opennpe train``: the module in parity mode against the simulator on test
images, every logit's code; the ordinary mode's difference; and a few images through the RTL.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from opennpe import sim
from opennpe.cli.run import run
from opennpe.golden import catalog, storage
from opennpe.golden.network import Network
from opennpe.quant.qat.recipe import Recipe
from opennpe.quant.qat.run_folder import Folder
from opennpe.quant.qat.stages import restored
from opennpe.quant.workloads import registry

SPEC = "EDGE_2X2"


def main() -> int:
    """Status 1 where a code differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", help="as it was run")
    parser.add_argument("folder", type=Path, help="of the run")
    parser.add_argument("--stage", default="", help="the last one unless given")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rtl", type=int, default=2, help="images through the RTL")
    options = parser.parse_args()
    folder = Folder(options.folder, Recipe.load(options.recipe))
    stage = options.stage or folder.recipe.stages[-1].name
    workload = registry.get(folder.recipe.workload, **folder.recipe.options)
    module = restored(folder, stage, workload).eval()
    network = module.network()
    rng = torch.Generator().manual_seed(0)
    batch = next(iter(workload.batches("test", options.images, rng)))
    arrays = {n: x.numpy() for n, x in zip(network.inputs, batch.inputs, strict=True)}
    out = network.tensors[network.outputs[0]]
    codes = sim.run(catalog.get(SPEC), network, arrays)[0][out.name]
    with torch.no_grad():
        ordinary = module(*batch.inputs).numpy()
        with module.exact():
            parity = module(*batch.inputs).numpy()
    differ = int((out.encode(parity, "zero") != codes).sum())
    aside = float((out.encode(ordinary, "zero") != codes).mean())
    print(f"{stage}: {codes.size} logit codes of {len(codes)} images, parity mode: {differ} differ")
    print(f"ordinary mode: {100 * aside:.3f} % of the codes differ")
    if options.rtl:
        by_rtl = _by_rtl(network, arrays, options.rtl)
        unlike = int((by_rtl != codes[: options.rtl].reshape(-1)).sum())
        print(f"RTL of {SPEC}: {by_rtl.size} logit codes of {options.rtl} images, {unlike} differ")
        differ += unlike
    return int(differ > 0)


def _by_rtl(network: Network, arrays: dict[str, NDArray[Any]], images: int) -> NDArray[Any]:
    """Codes of the first images by the Verilated co-processor."""
    with tempfile.TemporaryDirectory(prefix="opennpe-parity-") as name:
        source, data = Path(name, "network.npz"), Path(name, "data.npz")
        storage.save(network, source)
        np.savez(data, **{key: values[:images] for key, values in arrays.items()})
        report = run(source, data, backend="rtl", spec=SPEC, samples=images)
    return np.ravel(report.outputs[network.outputs[0]])


if __name__ == "__main__":
    sys.exit(main())
