"""What defective images among the training images do: how many, which ones, where they go.

A share is that of the whole training set after planting, `planted / (normal + planted)`; the other custom,
planted for each clean image, is larger by a factor of `1 / (1 - share)`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MOST = 0.75  # of the defective images are planted at most: the others are tested with
SHARES = (0.0, 0.02, 0.05, 0.1, 0.2)


@dataclass(frozen=True)
class Plan:
    """Which defective images, by position among them, are planted at each share, and which are tested with.

    The images of a smaller share are among those of a larger one, and all of them are missing from the test
    at every share, so that shares are measured on the same images.
    """

    planted: dict[float, tuple[int, ...]]
    tested: tuple[int, ...]


def to_plant(normal: int, share: float) -> int:
    """Count the images that make a share in [0, 1) of the whole when they join the normal ones.

    >>> to_plant(90, 0.1), to_plant(249, 0.0)
    (10, 0)
    """
    return round(normal * share / (1 - share))


def possible(normal: int, defective: int, shares: Sequence[float]) -> list[float]:
    """Select the shares for which there are enough defective images."""
    return [share for share in shares if to_plant(normal, share) <= int(MOST * defective)]


def plan(normal: int, defective: int, shares: Sequence[float], *, seed: int) -> Plan:
    """Deal the defective images to training and test, at random.

    Raises:
        ValueError: a share outside of [0, 1), or one that asks for more than 75 % of the defective images.
    """
    wrong = [share for share in shares if not 0 <= share < 1]
    if wrong:
        raise ValueError(f"shares lie from 0 up to but not including 1, got {wrong[0]:g}")
    largest = max(shares)
    if largest not in possible(normal, defective, shares):
        able = possible(normal, defective, shares)
        hint = f"; {', '.join(f'{share:g}' for share in able)} can be had" if able else ""
        raise ValueError(
            f"a share of {largest:g} of the training images needs {to_plant(normal, largest)} defective images "
            f"beside {normal} good ones, and {MOST:.0%} of the {defective} there are make "
            f"{int(MOST * defective)}{hint}"
        )
    order = np.random.default_rng(seed).permutation(defective).tolist()
    counts = {share: to_plant(normal, share) for share in sorted(shares)}
    planted = {share: tuple(sorted(order[:count])) for share, count in counts.items()}
    return Plan(planted, tuple(sorted(order[counts[largest] :])))


def dealt(count: int, sizes: Sequence[int]) -> list[int]:
    """Share out a count in proportion to sizes, the sums of rounding kept: how many go to each.

    >>> dealt(10, [70, 15, 15]), dealt(0, [5, 5])
    ([7, 1, 2], [0, 0])
    """
    ends = [round(count * end / sum(sizes)) for end in np.cumsum(sizes).tolist()]
    return [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]
