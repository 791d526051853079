"""Block-scaled formats: elements that share a scale along one axis (OCP MX v1.0; NVFP4).

A block format converts arrays to ``(codes, scales)`` and back. MX shares a power of two (E8M0)
among 32 elements; NVFP4 shares an E4M3 value among 16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from opennpe.golden import formats
from opennpe.golden.errors import FormatError

__all__ = ["CATALOG", "BlockFormat"]

E8M0_BIAS = 127
E8M0_NAN = 255


@dataclass(frozen=True)
class BlockFormat:
    """``size`` elements of format ``element`` along the last axis share one scale.

    ``scale``: "e8m0" (a power of two, code 255 is NaN) or "fp8_e4m3". The scale policy is the
    one of MX v1.0 section 6.3: the largest power of two at or below the block's maximum, divided
    by that of the element's largest value; E4M3 scales are max/largest rounded to nearest.
    """

    name: str
    element_name: str
    size: int
    scale: Literal["e8m0", "fp8_e4m3"]
    kind: ClassVar[str] = "block"

    @property
    def element(self) -> Any:
        """The scalar format of the elements."""
        return formats.get(self.element_name)

    @property
    def bits(self) -> int:
        """Bits of one element, without its share of the scale."""
        return int(self.element.bits)

    @property
    def bits_per_element(self) -> float:
        """Bits of one element with its share of the 8-bit scale."""
        return self.bits + 8 / self.size

    def scale_values(self, scales: ArrayLike) -> NDArray[np.float64]:
        """Scale codes (uint8, any shape) to float64."""
        codes = np.asarray(scales, dtype=np.uint8)
        if self.scale == "e8m0":
            value = np.ldexp(1.0, codes.astype(np.int32) - E8M0_BIAS)
            return np.where(codes == E8M0_NAN, np.nan, value)
        return np.asarray(formats.get("fp8_e4m3").decode(codes))

    def decode(self, codes: ArrayLike, scales: ArrayLike) -> NDArray[np.float64]:
        """Element codes (..., K) and scale codes (..., ceil(K/size)) to float64 (..., K).

        Raises:
            FormatError: the scales do not fit the codes.
        """
        values = self.element.decode(codes)
        blocks = -(-values.shape[-1] // self.size)
        factor = self.scale_values(scales)
        if factor.shape != (*values.shape[:-1], blocks):
            raise FormatError(
                f"{self.name} codes of shape {values.shape} need scales of shape "
                f"{(*values.shape[:-1], blocks)}, got {factor.shape}"
            )
        spread = np.repeat(factor, self.size, axis=-1)[..., : values.shape[-1]]
        return np.asarray(values * spread)

    def encode(
        self, values: ArrayLike, underflow: formats.Underflow = "minpos"
    ) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """float64 (..., K) to element codes (..., K) and scale codes (..., ceil(K/size)).

        A NaN or infinity makes the scale NaN where the scale format has one.

        Raises:
            FormatError: NaN or infinity that neither the scale nor the elements can hold.
        """
        x = np.atleast_1d(np.asarray(values, dtype=np.float64))
        count = x.shape[-1]
        blocks = -(-count // self.size)
        padded = np.zeros((*x.shape[:-1], blocks * self.size))
        padded[..., :count] = x
        grouped = padded.reshape(*x.shape[:-1], blocks, self.size)
        bad = np.asarray(~np.isfinite(grouped).all(axis=-1))
        clean = np.where(bad[..., None], 0.0, grouped)
        scales = np.where(bad, E8M0_NAN if self.scale == "e8m0" else 0x7F, self._scales(clean))
        factor = self.scale_values(np.where(bad, 127 if self.scale == "e8m0" else 0x38, scales))
        safe = np.where(factor == 0, 1.0, factor)
        ratio = np.where(factor[..., None] == 0, 0.0, clean / safe[..., None])
        codes = self.element.encode(ratio, underflow).reshape(padded.shape)[..., :count]
        return codes, scales.astype(np.uint8)

    def _scales(self, grouped: NDArray[np.float64]) -> NDArray[np.int64]:
        largest = np.abs(grouped).max(axis=-1)
        if self.scale == "fp8_e4m3":
            codes = formats.get("fp8_e4m3").encode(largest / self.element.maxpos)
            return np.asarray(codes, dtype=np.int64)
        # frexp is exact: largest = m * 2**e with 0.5 <= m < 1, so floor(log2) is e - 1.
        exponent = np.frexp(largest)[1] - 1
        top = int(np.frexp(self.element.maxpos)[1]) - 1
        scale = np.where(largest > 0, exponent - top, -E8M0_BIAS)
        return np.clip(scale, -E8M0_BIAS, E8M0_BIAS).astype(np.int64) + E8M0_BIAS


CATALOG: dict[str, BlockFormat] = {
    f.name: f
    for f in (
        BlockFormat("mxfp4", "fp4", 32, "e8m0"),
        BlockFormat("mxfp6_e2m3", "fp6_e2m3", 32, "e8m0"),
        BlockFormat("mxfp6_e3m2", "fp6_e3m2", 32, "e8m0"),
        BlockFormat("mxfp8", "fp8_e4m3", 32, "e8m0"),
        BlockFormat("mxfp8_e5m2", "fp8_e5m2", 32, "e8m0"),
        BlockFormat("mxint8", "int8", 32, "e8m0"),
        BlockFormat("nvfp4", "fp4", 16, "fp8_e4m3"),
    )
}
"""Block formats by name."""
