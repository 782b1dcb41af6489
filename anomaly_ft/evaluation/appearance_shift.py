"""Do images as a whole look like those a detector knows? Light, focus and noise of a batch, without labels.

A detector knows its held-out images and their varied copies. Of a few properties of these it keeps where the
mean lies and how widely single images spread. A batch differs when its mean lies two spreads beside that and
further than chance takes the mean of so many images: a multiple of the standard error which resampled halves of
the held-out images exceed in 1 % of cases. Images are taken one by one: a batch of one morning, or of one kind
of part where there are two, may well lie aside. Pure: numbers in, words out.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from anomaly_ft.data.checks.appearance import meter
from anomaly_ft.data.pixels import Pixels
from anomaly_ft.metrics import Floats

FALSE_ALARMS = 0.01  # share of batches of known images that may be said to differ
# Spreads of single images; by less a batch may differ, however many images say so: on two sets and part of a
# third at most 3 % of good images were rejected below it, up to 100 % beyond.
EFFECT = 2.0
RESAMPLES = 400
ENOUGH = 200  # images to resample
SHOWN = 3  # properties named in one sentence
AT_ONCE = 64  # images fetched at a time


@dataclass(frozen=True)
class Property:
    """One property of `meter`: words for more and less of it, what to check, and its name in `variation`."""

    more: str
    less: str
    check: str
    allow: str
    least: float  # a spread below this is taken for this: nobody sees the difference


PROPERTIES: dict[str, Property] = {
    "brightness": Property("brighter", "darker", "lamp and exposure", "brightness", 1.0),
    "contrast": Property("richer in contrast", "flatter", "lamp and exposure", "contrast", 0.5),
    "sharpness": Property("sharper", "blurrier", "focus", "focus", 0.02),
    "noise": Property("noisier", "smoother", "gain and compression of the camera", "noise", 0.1),
    "saturation": Property("more colourful", "paler", "colour of the light", "white_balance", 0.5),
    "red cast": Property("redder", "less red", "colour of the light", "white_balance", 0.5),
    "blue cast": Property("bluer", "less blue", "colour of the light", "white_balance", 0.5),
}
TWINS = (
    "sharpness",
    "noise",
)  # noise sharpens, blur smooths: where both rise it was noise, where both fall blur


def look_at(image: Pixels) -> Floats:
    """Measure the `PROPERTIES` of an image `(h, w, 3)`: `(7,)`."""
    measured = meter(image)
    return np.array([measured[name] for name in PROPERTIES])


def look_at_all(pixels: Pixels) -> Floats:
    """`look_at` for images `(n, h, w, 3)`, a few fetched at a time: `(n, 7)`."""
    blocks = (pixels[start : start + AT_ONCE] for start in range(0, len(pixels), AT_ONCE))
    return np.array([look_at(image) for block in blocks for image in block]).reshape(-1, len(PROPERTIES))


@dataclass(frozen=True)
class KnownAppearance:
    """How the images look that a detector knows; all by the name of the property.

    Attributes:
        low: the lower of two means: of the images as they are, and of these with their varied copies.
        high: the higher one.
        spread: standard deviation of single images, varied ones among them.
        errors: standard errors that the mean of known images stays below, see the top.
        images: held-out images this comes from, copies not counted.
    """

    low: Mapping[str, float]
    high: Mapping[str, float]
    spread: Mapping[str, float]
    errors: float
    images: int

    def plain(self) -> dict[str, Any]:
        """Plain values, as `detector.json` keeps them."""
        return asdict(self)

    @classmethod
    def restored(cls, plain: Any) -> "KnownAppearance":
        """Restore what `plain` gave.

        Raises:
            ValueError, TypeError, KeyError: values that are not what it gives.
        """
        numbers = {
            key: {name: float(plain[key][name]) for name in PROPERTIES} for key in ("low", "high", "spread")
        }
        known = cls(**numbers, errors=float(plain["errors"]), images=int(plain["images"]))
        sound = all(math.isfinite(value) for values in numbers.values() for value in values.values())
        if not (sound and min(known.spread.values()) > 0 and math.isfinite(known.errors) and known.images > 0):
            raise ValueError("numbers that are not finite, or not above zero")
        return known

    def limit(self, count: int) -> float:
        """How many spreads the mean of so many images may lie beside the known means."""
        return max(EFFECT, self.errors * float(np.sqrt(1 / count + 1 / self.images)))


@dataclass
class Seen:
    """Sums over the images that went by; takes no more memory for more of them."""

    count: int = 0
    total: Floats = field(default_factory=lambda: np.zeros(len(PROPERTIES)))

    def add(self, measured: Floats) -> None:
        """Count images, measured by `look_at` or `look_at_all`."""
        rows = measured.reshape(-1, len(PROPERTIES))
        self.count += len(rows)
        self.total = self.total + rows.sum(0)

    def join(self, other: "Seen") -> None:
        """Count images whose sums were taken elsewhere."""
        self.count += other.count
        self.total = self.total + other.total


@dataclass(frozen=True)
class Difference:
    """How far the mean of a batch lies beside what is known, in spreads of single images, by property: above 0
    there is more of it, below 0 less, 0 between the known means."""

    images: int
    limit: float
    spreads: Mapping[str, float]

    @property
    def beyond(self) -> list[str]:
        """The properties beyond the limit, the farthest first."""
        order = sorted(self.spreads, key=lambda name: -abs(self.spreads[name]))
        found = [name for name in order if abs(self.spreads[name]) > self.limit]
        first, second = (self.spreads[name] for name in TWINS)
        if set(TWINS) <= set(found) and first * second > 0:
            found.remove("sharpness" if first > 0 else "noise")
        return found


def known_appearance(measured: Floats, seed: int = 0) -> KnownAppearance:
    """Learn how images look from held-out ones and their varied copies.

    Args:
        measured: `(1 + k, n, 7)`, of the n images first, then of k varied copies of each.
        seed: of the resampling.
    """
    low, high, spread = _centre(measured)
    images = measured.shape[1]
    # few images tell little of how widely others spread; 7 properties in two directions may be beyond
    chance = float(student.ppf(1 - FALSE_ALARMS / 2 / len(PROPERTIES), max(1, images - 1)))
    errors = max([chance, *_resampled(measured, np.random.default_rng(seed))])
    return KnownAppearance(_named(low), _named(high), _named(spread), errors, images)


def learn_appearance(pixels: Pixels, count: int) -> KnownAppearance:
    """Learn how images look from pixels `((1 + k) count, h, w, 3)`: of held-out images, then k varied copies of
    each."""
    return known_appearance(look_at_all(pixels).reshape(-1, count, len(PROPERTIES)))


def compare(known: KnownAppearance, seen: Seen) -> Difference:
    """Compare the mean of the images that went by, at least one, with what a detector knows."""
    low, high, spread = (
        np.array([values[name] for name in PROPERTIES]) for values in (known.low, known.high, known.spread)
    )
    away = _beside(seen.total / seen.count, low, high, spread)
    return Difference(seen.count, known.limit(seen.count), _named(away))


def say(found: Difference, what: str = "images") -> str:
    """Say in which way images differ from those the detector knows and what to do; nothing where they do not.

    >>> away = {name: 0.0 for name in PROPERTIES} | {"brightness": 2.1, "sharpness": -1.4}
    >>> print(say(Difference(200, 1.0, away)))
    these 200 images are brighter (by 2.1 spreads) and blurrier (by 1.4) than those the detector knows: the \
threshold may not hold; check lamp and exposure, focus, or train again with such images, or allow more in \
`variation` (brightness, focus)
    """
    names = found.beyond[:SHOWN]
    if not names:
        return ""
    ways = [f"{_way(name, found.spreads[name])} (by {abs(found.spreads[name]):.1f})" for name in names]
    ways[0] = ways[0].replace(")", " spreads)")
    these = f"these {found.images} {what} are" if found.images > 1 else f"this {what.removesuffix('s')} is"
    checks, allows = (_once(getattr(PROPERTIES[name], key) for name in names) for key in ("check", "allow"))
    return (
        f"{these} {_together(ways)} than those the detector knows: the threshold may not hold; check {checks}, "
        f"or train again with such images, or allow more in `variation` ({allows})"
    )


def _way(name: str, spreads: float) -> str:
    return PROPERTIES[name].more if spreads > 0 else PROPERTIES[name].less


def _together(ways: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(ways[:-1]), ways[-1]) if part)


def _once(words: Iterator[str]) -> str:
    return ", ".join(dict.fromkeys(words))


def _named(values: Floats) -> dict[str, float]:
    return dict(zip(PROPERTIES, values.tolist(), strict=True))


def _centre(measured: Floats) -> tuple[Floats, Floats, Floats]:
    """The lower and the higher known mean, and the spread, each `(7,)`."""
    everything = measured.reshape(-1, measured.shape[-1])
    means = np.stack([measured[0].mean(0), everything.mean(0)])
    least = [known.least for known in PROPERTIES.values()]
    return means.min(0), means.max(0), np.maximum(everything.std(0), least)


def _beside(mean: Floats, low: Floats, high: Floats, spread: Floats) -> Floats:
    """Spreads by which a mean lies above the higher or, negative, below the lower known mean."""
    away: NDArray[np.float64] = (np.maximum(mean - high, 0) - np.maximum(low - mean, 0)) / spread
    return away


def _resampled(measured: Floats, rng: np.random.Generator) -> Iterator[float]:
    """Standard errors that batches of one, a few and many images exceed in 1 % of cases: drawn from one half of
    the images, as they are or varied, and compared with the other half."""
    measured = measured[:, rng.permutation(measured.shape[1])[:ENOUGH]]
    blocks, images = measured.shape[:2]
    half = images // 2
    for size in sorted({1, min(5, images - half), images - half}):
        for varied in (False, True):
            found = np.empty(RESAMPLES)
            for k in range(RESAMPLES):
                order = rng.permutation(images)
                batch, rest = order[:size], order[images - half :]
                block = rng.integers(blocks, size=size) if varied else np.zeros(size, int)
                away = _beside(measured[block, batch].mean(0), *_centre(measured[:, rest]))
                found[k] = np.abs(away).max() / np.sqrt(1 / size + 1 / half)
            yield float(np.quantile(found, 1 - FALSE_ALARMS))
