"""Visual-inertial odometry as a workload: two frames and the samples between to a relative pose.

The network's six outputs are standardised (mean 0, deviation 1 over the training split), because a
yaw of hundredths of a radian beside a metre of translation would leave nothing of the yaw in a
format of 8 bits with one scale a tensor. :class:`Units` turns them into radians and metres. The
inertial samples are standardised too, pixels are between -0.5 and 0.5.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from opennpe.golden.errors import DataError
from opennpe.quant.workloads import kitti, poses, synthetic_vio, trajectory, ulvio
from opennpe.quant.workloads.base import Batch, Predict, Split
from opennpe.quant.workloads.recording import Recording

__all__ = ["SHORT_LENGTHS", "Units", "Vio"]

Reals = NDArray[np.float64]
ROTATION_WEIGHT = 100.0
"""A squared radian against a squared metre in the loss, as in UL-VIO's line of work."""
SHORT_LENGTHS = tuple(length / 10 for length in trajectory.KITTI_LENGTHS)
"""A tenth of KITTI's, for drives of some hundred metres."""
MIRRORED_MOTION = np.array([1.0, -1, -1, -1, 1, 1])
MIRRORED_INERTIAL = np.array([1.0, -1, 1, -1, 1, -1])
"""What seeing the world in a mirror does to rx, ry, rz, tx, ty, tz and to the inertial channels."""
CALIBRATION = 256
CHUNK = 128
"""Pairs that are predicted at once."""


@dataclass(frozen=True, eq=False)
class Units:
    """What a network's numbers mean: real = number x scale + offset, channel by channel.

    Attributes:
        motion_scale, motion_offset: (6,) of relative poses, radians and metres.
        inertial_scale, inertial_offset: (6,) of inertial samples, m/s2 and rad/s.
    """

    motion_scale: Reals
    motion_offset: Reals
    inertial_scale: Reals
    inertial_offset: Reals

    @classmethod
    def real(cls) -> Units:
        """Radians, metres, m/s2 and rad/s themselves: UL-VIO's own weights."""
        return cls(np.ones(6), np.zeros(6), np.ones(6), np.zeros(6))

    @classmethod
    def of(cls, recordings: Sequence[Recording]) -> Units:
        """Mean 0 and deviation 1 over recordings and their mirror images."""
        motions = np.concatenate([r.motions for r in recordings])
        inertial = np.concatenate([r.inertial for r in recordings])
        return cls(*_spread(motions, MIRRORED_MOTION), *_spread(inertial, MIRRORED_INERTIAL))


def _spread(values: Reals, mirrored: Reals) -> tuple[Reals, Reals]:
    """Deviation and mean of values (n, 6) and of their mirror images together."""
    mean = np.where(mirrored > 0, values.mean(axis=0), 0.0)
    deviation = np.sqrt(((values - mean) ** 2).mean(axis=0))
    return np.maximum(deviation, 1e-6), mean


class Vio:
    """Visual-inertial odometry: images (n, 2 C, H, W), inertial (n, 6, window) to (n, 6).

    Attributes:
        widths: of the network.
        units: what its numbers mean.
        lengths: metres of the segments that t_rel and r_rel are over.
    """

    name = "vio"
    score = "t_rel_percent"
    higher = False

    def __init__(
        self,
        recordings: Mapping[Split, Sequence[Recording]] | None = None,
        widths: ulvio.Widths = ulvio.SMALL,
        units: Units | None = None,
        lengths: Sequence[float] | None = None,
        data: str | Path | None = None,
    ) -> None:
        """Of recordings by split, or of ``data``, a folder in KITTI's layout with KITTI's splits.

        Without either, of synthetic drives, drawn when first needed. ``lengths`` are
        :data:`SHORT_LENGTHS` unless given, KITTI's for a folder.

        Raises:
            DataError: both are given, or the folder is not as
                :func:`opennpe.quant.workloads.kitti.load` expects.
        """
        if data is not None:
            if recordings is not None:
                raise DataError("vio: give recordings or a folder of data, not both")
            recordings = _read(data, kitti.SPLITS, widths)
            lengths = lengths or trajectory.KITTI_LENGTHS
        self._given = recordings
        self._units = units
        self._tables: dict[Split, _Table] = {}
        self.widths = widths
        self.lengths = tuple(lengths or SHORT_LENGTHS)

    @classmethod
    def synthetic(cls, size: synthetic_vio.Size, noise: synthetic_vio.Noise | None = None) -> Vio:
        """Of synthetic drives of a size, all drawn now; the network takes their frames' size."""
        noise = noise or synthetic_vio.Noise()
        drawn = {s: synthetic_vio.recordings(s, size, noise) for s in synthetic_vio.SEEDS}
        small = ulvio.SMALL
        return cls(drawn, dataclasses.replace(small, height=size.height, width=size.width))

    @classmethod
    def kitti(
        cls,
        root: str | Path,
        sequences: Mapping[Split, Sequence[str]] = kitti.SPLITS,
        widths: ulvio.Widths = ulvio.SMALL,
        units: Units | None = None,
    ) -> Vio:
        """Of sequences in KITTI's layout, with KITTI's segment lengths.

        Raises:
            DataError: see :func:`opennpe.quant.workloads.kitti.load`.
        """
        return cls(_read(root, sequences, widths), widths, units, trajectory.KITTI_LENGTHS)

    @property
    def units(self) -> Units:
        """What the network's numbers mean; of the training split, unless they were given."""
        if self._units is None:
            self._units = Units.of(self.recordings("train"))
        return self._units

    def recordings(self, split: Split) -> Sequence[Recording]:
        """The drives of a split.

        Raises:
            DataError: there are none.
        """
        if self._given is None:
            return synthetic_vio.recordings(split)
        found = self._given.get(split, ())
        if not found:
            raise DataError(f"vio: no drives in the split '{split}': give at least one")
        return found

    def model(self, seed: int = 0) -> ulvio.UlVio:
        """The float network, its weights drawn from a seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return ulvio.UlVio(self.widths)

    def example(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs of one sample, batch 1."""
        return ulvio.example(self.widths)

    def calibration(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Pairs spread evenly over the training split."""
        table = self._table("train")
        count = min(CALIBRATION, len(table))
        return table.inputs(np.linspace(0, len(table) - 1, count).astype(np.int64))

    def batches(self, split: Split, size: int, rng: torch.Generator) -> Iterator[Batch]:
        """One pass: in random order, mirrored and lit at random for "train", else in order.

        The last pairs of "train" that fill no batch are left out, unless there is no other.
        Targets are radians and metres.

        Raises:
            DataError: no drives in this split, or a batch of no pairs.
        """
        if size < 1:
            raise DataError(f"vio: a batch of {size} pairs, expected at least 1")
        table = self._table(split)
        if split != "train":
            for first in range(0, len(table), size):
                rows = np.arange(first, min(first + size, len(table)))
                yield Batch(table.inputs(rows), table.targets[rows])
            return
        order = torch.randperm(len(table), generator=rng).numpy()
        for first in range(0, max(1, len(table) - size + 1), size):
            rows = order[first : first + size]
            yield _augmented(table.inputs(rows), table.targets[rows], rng)

    def loss(self, output: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Mean squared translation in m2 and ROTATION_WEIGHT times the mean squared rotation."""
        off = output * torch.from_numpy(self.units.motion_scale).to(output)
        off = off + torch.from_numpy(self.units.motion_offset).to(output) - batch.targets
        square = off.square().mean(dim=0)
        return ROTATION_WEIGHT * square[:3].sum() + square[3:].sum()

    def metrics(self, predict: Predict, split: Split = "test", limit: int = 0) -> dict[str, float]:
        """t_rel_percent, r_rel_deg_per_100m and ate_m over the trajectories of a split.

        Raises:
            DataError: the drives (cut to ``limit`` pairs) are shorter than the shortest segment, or
                what was predicted is not (n, 6) finite numbers.
        """
        return trajectory.score(self.paths(predict, split, limit), self.lengths)

    def paths(
        self, predict: Predict, split: Split = "test", limit: int = 0
    ) -> list[tuple[Reals, Reals]]:
        """True and estimated poses (N, 4, 4) of every drive, both from the origin."""
        table = self._table(split)
        count = min(limit, len(table)) if limit > 0 else len(table)
        parts: list[Reals] = []
        for first in range(0, count, CHUNK):
            inputs = table.inputs(np.arange(first, min(first + CHUNK, count)))
            part = np.asarray(predict(tuple(x.numpy() for x in inputs)), dtype=np.float64)
            if part.shape != (len(inputs[0]), 6) or not np.isfinite(part).all():
                raise DataError(
                    f"vio: a prediction of shape {part.shape}, or with NaN or infinity: expected "
                    f"({len(inputs[0])}, 6) finite numbers"
                )
            parts.append(part * self.units.motion_scale + self.units.motion_offset)
        guesses = np.concatenate(parts)
        found, first = [], 0
        for drive in table.recordings:
            last = min(first + len(drive), count)
            if last > first:
                true = drive.motions[: last - first]
                found.append((poses.accumulate(true), poses.accumulate(guesses[first:last])))
            first += len(drive)
        return found

    def _table(self, split: Split) -> _Table:
        if split not in self._tables:
            self._tables[split] = _Table(self.recordings(split), self.widths, self.units)
        return self._tables[split]


def _read(
    root: str | Path, sequences: Mapping[Split, Sequence[str]], widths: ulvio.Widths
) -> dict[Split, list[Recording]]:
    shape = (widths.colours, widths.height, widths.width)
    return {
        split: [kitti.load(root, name, shape, widths.window - 1) for name in names]
        for split, names in sequences.items()
    }


class _Table:
    """All pairs of a split by number, as a network takes them."""

    def __init__(self, recordings: Sequence[Recording], widths: ulvio.Widths, units: Units) -> None:
        self.recordings = recordings
        self._drives = np.repeat(np.arange(len(recordings)), [len(r) for r in recordings])
        self._pairs = np.concatenate([np.arange(len(r)) for r in recordings])
        self.targets = torch.from_numpy(
            np.concatenate([r.motions for r in recordings]).astype(np.float32)
        )
        windows = np.concatenate([r.windows(np.arange(len(r))) for r in recordings])
        windows -= units.inertial_offset[:, None]
        windows /= units.inertial_scale[:, None]
        self._windows = torch.from_numpy(windows.astype(np.float32))
        first = recordings[0].images(np.zeros(1, np.int64)).shape[1:]
        given = (*first, windows.shape[2])
        wanted = (2 * widths.colours, widths.height, widths.width, widths.window)
        if given != wanted:
            raise DataError(
                f"vio: pairs of {given[0]} channels, {given[1]} x {given[2]} pixels and {given[3]} "
                f"inertial samples; the network takes {wanted[0]}, {wanted[1]} x {wanted[2]} and "
                f"{wanted[3]}"
            )

    def __len__(self) -> int:
        return len(self._pairs)

    def inputs(self, rows: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and inertial windows of pairs, float32."""
        drives = self._drives[rows]
        images: NDArray[np.uint8] | None = None
        for drive in np.unique(drives):
            here = drives == drive
            part = self.recordings[int(drive)].images(self._pairs[rows[here]])
            if images is None:
                images = np.empty((len(rows), *part.shape[1:]), np.uint8)
            images[here] = part
        if images is None:
            raise DataError("vio: no pairs asked for")
        return torch.from_numpy(images).float().div_(255).sub_(0.5), self._windows[rows]


def _augmented(
    inputs: tuple[torch.Tensor, torch.Tensor], targets: torch.Tensor, rng: torch.Generator
) -> Batch:
    """Half of the pairs mirrored, each with a brightness and a contrast of its own."""
    images, inertial = inputs
    count = len(images)
    mirror = torch.rand(count, generator=rng) < 0.5
    light = torch.rand(count, 2, generator=rng) - 0.5
    images = torch.where(mirror[:, None, None, None], images.flip(3), images)
    contrast, brightness = 1 + 0.4 * light[:, :1], 0.2 * light[:, 1:]
    images = images * contrast[:, :, None, None] + brightness[:, :, None, None]
    signs = torch.from_numpy(MIRRORED_INERTIAL).float()[:, None]
    inertial = torch.where(mirror[:, None, None], inertial * signs, inertial)
    turned = targets * torch.from_numpy(MIRRORED_MOTION).float()
    return Batch((images, inertial), torch.where(mirror[:, None], turned, targets))
