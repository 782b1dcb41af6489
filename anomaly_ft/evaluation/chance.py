"""What chance does in maps of good images: how often regions come up that are as significant as one. Pure.

Were positions independent, good maps would have less than

    NFA0(R) = N^2 a(|R|) P(d^2 >= s)^|R|

regions like R on average (number of false alarms; Desolneux, Moisan and Morel, 2000; on maps of distances
Tailanian, Muse and Pardo, 2021). s is the least squared distance in R, N the number of positions, and of sizes,
and a(n) = 0.317 * 4.06^n / n that of shapes of n connected positions (polyominoes; Jensen, 2003): every size
has the same share of the alarms.

Squared distances of features are not chi-square and positions not independent, so held-out good images say:

* P, empirical, and beyond the highest 2 % a generalised Pareto tail (Hosking and Wallis, 1987);
* the *area* that rises together by chance: mean size of regions above that level. N and |R| are counted in it;
* how much an image is off as a whole: squared distances are divided by how far their median exceeds that of
  held-out images, for a region is what stands out from its image;
* the *rate*: how many regions with so low an NFA0 a held-out image really has. That is the NFA.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from anomaly_ft.evaluation.region_tree import Ints, region_tree
from anomaly_ft.metrics import Floats, finite

SHAPES, GROWTH = 0.316915, 4.062570  # a(n) = SHAPES * GROWTH^n / n
TAIL = 0.02  # share of held-out positions that the Pareto tail is fitted to
TAIL_OF_REGIONS = 0.1  # the same of their regions
LEAST = 10  # of which a tail is fitted, if there are twice as many
KNOTS = 24  # points that are kept of a curve
ENOUGH = 400  # images; each with its copies takes some 10 ms
BESIDE = np.array([np.zeros((3, 3)), [[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.zeros((3, 3))])  # in the same map


@dataclass(frozen=True)
class Positions:
    """Squared distances at single positions of good maps.

    Attributes:
        usual: their median.
        levels: of them, rising.
        shares: of positions at or above each level, falling.
        scale: of the generalised Pareto tail beyond the last level.
        shape: of the same, not below 0: no distance is impossible.
        area: positions that rise together by chance.
        count: positions of a map.
    """

    usual: float
    levels: tuple[float, ...]
    shares: tuple[float, ...]
    scale: float
    shape: float
    area: float
    count: int

    def compensated(self, maps: NDArray[Any]) -> Floats:
        """Square distances `(..., rows, columns)` and divide out how far each map is above usual as a whole."""
        squared = np.square(np.asarray(maps, dtype=np.float64))
        median = np.median(squared, axis=(-2, -1), keepdims=True)
        return np.asarray(squared / np.maximum(median / self.usual, 1))

    def log_share(self, squared: Floats) -> Floats:
        """Compute the logarithm of the share of good positions at or above squared distances."""
        beyond = np.maximum(squared - self.levels[-1], 0) / self.scale
        tail = np.log1p(self.shape * beyond) / self.shape if self.shape else beyond
        return np.asarray(np.interp(squared, self.levels, np.log(self.shares)) - tail)

    def lowest(self) -> float:
        """Give the level below which a larger region is never more significant: 1 in 4.06 exceeds it."""
        return float(np.interp(math.log(GROWTH), -np.log(self.shares), self.levels))

    def significance(self, least: Floats, sizes: Ints) -> Floats:
        """Compute `-ln NFA0` of regions by their least squared distance and their size, `(n,)`."""
        cells, everywhere = np.maximum(sizes / self.area, 1), max(self.count / self.area, 1)
        log_shapes = math.log(SHAPES) + cells * math.log(GROWTH) - np.log(cells)
        return np.asarray(-2 * math.log(everywhere) - log_shapes - cells * self.log_share(least))

    def regions(self, squared: Floats) -> Iterator[tuple[Ints, float]]:
        """Give disjoint regions of a compensated map `(rows, columns)`, indices of its positions and
        significance, the most significant one first."""
        tree = region_tree(squared, self.lowest())
        significance = self.significance(squared.ravel()[tree.order], tree.sizes)
        for region in tree.disjoint(significance):
            yield tree.members(region), float(significance[region])


@dataclass(frozen=True)
class Chance:
    """What chance does in the maps of good images, from held-out ones.

    Attributes:
        positions: how single ones are distributed.
        significances: `-ln NFA0` of regions of held-out images, rising.
        rates: so many regions at or above each a good image has, falling.
        excess: mean by which the most significant ones exceed the others; beyond the last of all rates fall by
            e over as much.
        images: held-out images; those of one group count once, copies not at all.
    """

    positions: Positions
    significances: tuple[float, ...]
    rates: tuple[float, ...]
    excess: float
    images: int

    @property
    def least_observed(self) -> float:
        """The lowest number of false alarms an image that so many held-out images can show."""
        return 1 / (self.images + 1)

    def nfa(self, significance: float, positions: int) -> float:
        """Compute the number of false alarms: regions so significant, or more, that a good map of so many
        positions has on average; of a larger map than the held-out ones as many more as it is larger."""
        beyond = max(significance - self.significances[-1], 0) / self.excess
        rate = math.exp(float(np.interp(significance, self.significances, np.log(self.rates))) - beyond)
        return rate * max(positions / self.positions.count, 1)

    def plain(self) -> dict[str, Any]:
        """Plain values, as `detector.json` keeps them."""
        return asdict(self)

    @classmethod
    def restored(cls, plain: Any) -> "Chance":
        """Restore what `plain` gave.

        Raises:
            ValueError, TypeError, KeyError: values that are not what it gives.
        """
        known = plain["positions"]
        usual, scale, area = (_above(0, known[name]) for name in ("usual", "scale", "area"))
        levels, shares = _curve(known["levels"], known["shares"])
        shape, count = _above(-1e-12, known["shape"]), int(_above(0, known["count"]))
        positions = Positions(usual, levels, shares, scale, shape, area, count)
        significances, rates = _curve(plain["significances"], plain["rates"])
        excess, images = _above(0, plain["excess"]), int(_above(0, plain["images"]))
        return cls(positions, significances, rates, excess, images)


def learn_chance(maps: NDArray[Any], images: int | None = None) -> Chance:
    """Learn from maps of held-out good images `(1 + k, n, rows, columns)`: of the images in the first row, and
    of k varied copies of each in the others.

    An image and its copies have the higher of two rates: of the images, and of an image's copies on average.
    The new image is counted with one alarm, as in `working_points.conformal_varied`.

    Args:
        maps: distances, higher = more anomalous.
        images: that do not depend on one another; None: all n.

    Raises:
        DivergedError: maps that are not finite.
    """
    finite(maps)
    independent = maps.shape[1] if images is None else images
    maps = maps[:, :: math.ceil(maps.shape[1] / ENOUGH)]
    copies, n = len(maps) - 1, maps.shape[1]
    independent = min(independent, n)
    positions = learn_positions(maps)
    found = [
        np.array([s for one in row for _, s in positions.regions(one)])
        for row in map(positions.compensated, maps)
    ]
    clean, varied = np.sort(found[0]), np.sort(np.concatenate([*found[1:], found[0][:0]]))
    every = np.sort(np.concatenate([clean, varied]))
    if not len(every):
        return Chance(positions, (0.0,), (1 / (independent + 1),), 1.0, independent)
    knots = np.unique(every[len(every) - _ranks(1, len(every))])
    alarms = np.maximum(_at_or_above(clean, knots), _at_or_above(varied, knots) / max(copies, 1))
    rates = (independent * alarms / n + 1) / (independent + 1)
    tail = every[len(every) - _tail_count(len(every), TAIL_OF_REGIONS) :]
    excess = max(1.0, float(tail.mean() - tail[0]))  # as if positions were independent, at least
    return Chance(positions, _plain(knots), _plain(rates), excess, independent)


def learn_positions(maps: NDArray[Any]) -> Positions:
    """Learn how squared distances at single positions are distributed, from maps of good images `(1 + k, n,
    rows, columns)`."""
    raw = np.square(np.asarray(maps, dtype=np.float64))
    usual = max(float(np.median(raw[0])), 1e-12)
    count = int(np.prod(maps.shape[-2:]))
    squared = Positions(usual, (0.0,), (1.0,), 1.0, 0.0, 1.0, count).compensated(maps)
    values = np.sort(squared.ravel())
    highest = _tail_count(len(values), TAIL)
    start = values[max(len(values) - highest - 1, 0)]
    scale, shape = pareto_tail(values[len(values) - highest :] - start)
    levels = np.unique(values[len(values) - _ranks(min(highest + 1, len(values)), len(values))])
    shares = _at_or_above(values, levels) / len(values)
    above = squared.reshape(-1, *maps.shape[-2:]) > start
    area = max(1.0, float(above.sum()) / max(1, ndimage.label(above, BESIDE)[1]))
    scale = max(scale, 1e-9 * max(float(start), usual))  # of values that do not differ
    return Positions(usual, _plain(levels), _plain(shares), scale, shape, area, count)


def pareto_tail(excesses: Floats) -> tuple[float, float]:
    """Fit scale and shape of a generalised Pareto distribution to rising excesses `(n,)`, by weighted moments
    (Hosking and Wallis, 1987); a tail that would end is an exponential one."""
    n, mean = len(excesses), float(excesses.mean())
    weighted = float((excesses * (1 - (np.arange(n) + 0.65) / n)).mean())
    spread = mean - 2 * weighted
    shape = 2 - mean / spread if spread > 1e-9 * mean else 0.0
    if shape <= 0:
        return mean, 0.0
    return 2 * mean * weighted / spread, shape


def _tail_count(count: int, share: float) -> int:
    """Count the values that a tail is fitted to."""
    return max(1, min(count // 2, max(LEAST, round(share * count))))


def _ranks(first: int, last: int) -> Ints:
    return np.unique(np.geomspace(first, last, KNOTS).round().astype(np.int64))


def _at_or_above(rising: Floats, levels: Floats) -> Floats:
    return np.asarray(len(rising) - np.searchsorted(rising, levels), dtype=np.float64)


def _plain(values: Floats) -> tuple[float, ...]:
    return tuple(values.tolist())


def _curve(rising: Any, falling: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Check a stored curve, from its values on both axes."""
    first = tuple(_above(-math.inf, value) for value in rising)
    second = tuple(_above(0, value) for value in falling)
    if not first or len(first) != len(second) or sorted(first) != [*first] or sorted(second) != [*second[::-1]]:
        raise ValueError("a curve does not rise and fall")
    return first, second


def _above(least: float, value: Any) -> float:
    number = float(value)
    if not (math.isfinite(number) and number > least):
        raise ValueError(f"expected a number above {least:g}, got {number}")
    return number
