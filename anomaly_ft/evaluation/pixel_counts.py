"""Pixels counted by score as images pass by: memory does not grow with their number or the images' size.

A bin is a float32's sign, exponent and leading mantissa bits: any range of scores fits, and thresholds lie
0.05 % apart. Each table of bins takes 8 MiB: a map that is measured in full has four of them, others three.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from anomaly_ft.metrics import Curve, Floats, finite

PRO_LIMIT = 0.3  # false positive rate up to which Bergmann et al. integrate the region overlap
STRICT_PRO_LIMIT = 0.05  # the same in MVTec AD 2 (Heckler-Kram et al., 2025)
PIMO_LIMITS = 1e-5, 1e-4  # shared false positive rates between which Bertoldo et al. integrate
BIN_BITS = 12  # of a float32's 23 mantissa bits dropped by a bin: thresholds 0.05 % apart
BINS = 2 ** (32 - BIN_BITS)
Mask = NDArray[np.bool_]


def _no_counts() -> Floats:
    return np.zeros(BINS)


@dataclass
class PixelCounts:
    """Pixels of all images together, for pixel AUROC, AP, F1 and AUPRO; those of one bin count as ties."""

    regions: int = 0
    _anomalous: Floats = field(default_factory=_no_counts)
    _normal: Floats = field(default_factory=_no_counts)
    _region_share: Floats = field(default_factory=_no_counts)

    def add(self, scores: ArrayLike, mask: Mask | None) -> None:
        """Count one image's map `(h, w)`; `mask (h, w)` says where it is anomalous, None: nowhere.

        Raises:
            DivergedError: scores that are not finite.
            ValueError: map and mask of different sizes.
        """
        bins = _bins(finite(scores))
        if mask is None:
            self._normal += np.bincount(bins.ravel(), minlength=BINS)
            return
        if mask.shape != bins.shape:
            raise ValueError(f"the map has {bins.shape} pixels, the mask {mask.shape}")
        self._normal += np.bincount(bins[~mask], minlength=BINS)
        self._anomalous += np.bincount(bins[mask], minlength=BINS)
        labels, regions = ndimage.label(mask, structure=np.ones((3, 3)))  # pixels that touch at a corner too
        inside = labels[mask]
        sizes = np.bincount(inside, minlength=regions + 1)
        self._region_share += np.bincount(bins[mask], weights=1 / sizes[inside], minlength=BINS)
        self.regions += regions

    def numbers(self) -> dict[str, float | None]:
        """Give `pixel_auroc`, `pixel_ap`, `pixel_aupro`, `pixel_aupro_5pct` and `pixel_f1_max`; None where a
        kind of pixel was never seen.

        AUPRO: the overlap of anomalous regions (connected with 8 neighbours), each counting the same whatever
        its size, over the false positive rate up to 0.3 (Bergmann et al., CVPR 2019) or 0.05.
        """
        names = ("pixel_auroc", "pixel_ap", "pixel_aupro", "pixel_aupro_5pct", "pixel_f1_max")
        if not self._anomalous.any() or not self._normal.any():
            return dict.fromkeys(names)
        pixels = Curve(_above(self._anomalous), _above(self._normal))
        overlap = Curve(_above(self._region_share), _above(self._normal))
        values = (
            pixels.auroc(),
            pixels.average_precision(),
            overlap.area_up_to(PRO_LIMIT),
            overlap.area_up_to(STRICT_PRO_LIMIT),
            pixels.f1_max(),
        )
        return dict(zip(names, map(float, values), strict=True))


@dataclass
class NormalImages:
    """Pixels of normal images, each image counting the same, for the overlap of single anomalous ones with
    their masks (AUPIMO; Bertoldo et al., BMVC 2024)."""

    images: int = 0
    _share: Floats = field(default_factory=_no_counts)

    def add(self, scores: ArrayLike) -> None:
        """Count the map `(h, w)` of a normal image.

        Raises:
            DivergedError: scores that are not finite.
        """
        bins = _bins(finite(scores)).ravel()
        self._share += np.bincount(bins, minlength=BINS) / len(bins)
        self.images += 1

    def overlaps(self, scores: ArrayLike, mask: Mask) -> float | None:
        """Average the share of the mask that lies above a threshold over the logarithm of the share of normal
        pixels that does, from 1e-5 to 1e-4; in [0, 1]. None where no normal image was counted.

        At each rate the threshold is the lowest that does not exceed it, nothing is interpolated. All normal
        images are to be counted before the first overlap.
        """
        if not self.images:
            return None
        low, high = PIMO_LIMITS
        rates = np.clip(np.append(_above(self._share) / self.images, high), low, high)
        widths = np.diff(np.log(rates)) / np.log(high / low)
        steps = np.flatnonzero(widths)  # of the thresholds, falling: from BINS, above all scores, to 0
        inside = np.sort(_bins(finite(scores))[mask])
        shares = 1 - np.searchsorted(inside, BINS - steps) / len(inside)
        return float(shares @ widths[steps])


@dataclass
class CalledPixels:
    """Pixels above one limit against masks, for the F1 of what is outlined."""

    limit: float
    _hits: int = 0
    _called: int = 0
    _anomalous: int = 0

    def add(self, scores: NDArray[np.floating], mask: Mask | None) -> None:
        """Count one image's map `(h, w)` and its mask; None: nothing is anomalous."""
        called = scores > self.limit
        self._called += int(called.sum())
        if mask is not None:
            self._anomalous += int(mask.sum())
            self._hits += int((called & mask).sum())

    def f1(self) -> float | None:
        """Compute the harmonic mean of precision and recall over all pixels; None where none is anomalous."""
        return 2 * self._hits / (self._called + self._anomalous) if self._anomalous else None


def _above(counts: Floats) -> Floats:
    """Accumulate counts of bins, lowest score first, to counts at or above each threshold, falling."""
    return np.append(0.0, np.cumsum(counts[::-1]))


def _bins(scores: Floats) -> NDArray[np.int64]:
    """Bin of each score, in [0, BINS), rising with it: the bits of a float order as the floats do once
    those of negative ones are inverted and the others' sign bit is set."""
    bits = np.ascontiguousarray(scores + 0.0, dtype=np.float32).view(np.uint32)
    ordered = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    return (ordered >> BIN_BITS).astype(np.int64)
