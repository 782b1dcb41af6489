"""Which training images do not look like the others? They may be defective ones that nobody noticed.

An image that a Gaussian was fitted to looks nearer to it than it is, the more so the fewer images there are.
So each image is scored by Gaussians that were fitted without it.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from operator import add

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.covariance import MinCovDet

from anomaly_ft.metrics import Floats, image_ap, image_auroc
from anomaly_ft.model.gaussian.statistics import Gaussian, Moments, fit, moments, squared_distance

FOLDS = 5
FEWEST = 2 * FOLDS  # images: each fold then holds out two
CUTOFF = 3.5  # modified z-score of Iglewicz and Hoaglin (1993) from which on they call a value an outlier
NORMAL_MAD = 0.6745  # median absolute deviation of a standard normal distribution
ROUNDS = 3  # of trimming: once some are gone, others may stand out
ROBUST_DIMENSIONS = 48  # at most: MCD's time grows with the cube
IMAGES_A_DIMENSION = 5  # at least, for MCD

Levels = Sequence[NDArray[np.float32]]  # features (n, d) of each level
Batches = Callable[[], Iterable[Levels]]  # those of all images in order, some at a time
Flags = NDArray[np.bool_]


def held(levels: Levels) -> Batches:
    """Give features that are in memory as one batch."""
    return lambda: [levels]


def cross_fitted(batches: Batches, count: int, *, seed: int = 0, kept: Flags | None = None) -> Floats:
    """Compute the mean over levels of the distance of each image `(n,)` to Gaussians of the other four fifths
    of the images; higher = more suspicious. Memory does not grow with the number of images.

    Args:
        batches: features of the images in order; drawn twice.
        count: n.
        seed: of the folds.
        kept: `(n,)`, the images that Gaussians are fitted to; unset: all.

    Raises:
        ValueError: fewer than ten images.
        GaussianError: images that do not vary.
    """
    if count < FEWEST:
        raise ValueError(f"{FOLDS} folds need at least {FEWEST} images, got {count}")
    fold = np.random.default_rng(seed).permutation(count) % FOLDS
    sums = _sums_by_fold(batches, fold, np.ones(count, dtype=bool) if kept is None else kept)
    gaussians = [_fitted([each for i, each in enumerate(sums) if i != k and each]) for k in range(FOLDS)]
    distances = np.empty(count)
    for levels, places in _placed(batches):
        for k in range(FOLDS):
            rows = fold[places] == k
            each = [_distances(g, f[rows]) for g, f in zip(gaussians[k], levels, strict=True)]
            distances[places][rows] = np.mean(each, axis=0)
    return distances


def distances_to(levels: Levels, known: Flags, scored: Flags) -> Floats:
    """Compute the mean over levels of the distance of the scored images `(n,)` to the Gaussians of the known
    ones."""
    each = [_distances(_gaussian(features[known]), features[scored]) for features in levels]
    return np.asarray(np.mean(each, axis=0), dtype=np.float64)


def modified_z(values: Floats) -> Floats:
    """Measure how many robust standard deviations each value `(n,)` lies above the median; 0 for all where
    most are alike."""
    above = values - np.median(values)
    deviation = np.median(np.abs(above))
    return np.asarray(NORMAL_MAD * above / deviation if deviation else np.zeros_like(values))


def usual_by_trimming(batches: Batches, count: int, *, seed: int = 0) -> Flags:
    """Select the images `(n,)` that are left once those that stand out by their cross-fitted distance are
    dropped, and the others are scored again."""
    kept = np.ones(count, dtype=bool)
    for _ in range(ROUNDS):
        distances = cross_fitted(batches, count, seed=seed, kept=kept)
        standing_out = modified_z(distances[kept]) > CUTOFF
        if not standing_out.any() or kept.sum() - standing_out.sum() < FEWEST:
            break
        kept[np.flatnonzero(kept)[standing_out]] = False
    return kept


def usual_by_mcd(levels: Levels, *, seed: int = 0) -> Flags:
    """Select the images `(n,)` that are left once those that stand out by `robust_distances` are dropped."""
    return np.asarray(modified_z(robust_distances(levels, seed=seed)) <= CUTOFF)


def robust_distances(levels: Levels, *, seed: int = 0) -> Floats:
    """Compute the mean over levels of the distance `(n,)` to mean and covariance of the half of the images
    that lie closest together (minimum covariance determinant, Rousseeuw), on features whitened by
    Ledoit-Wolf; of wide levels on their first principal components, for MCD needs several images for each
    dimension."""
    each = []
    for features in levels:
        wanted = min(features.shape[1], len(features) // IMAGES_A_DIMENSION, ROBUST_DIMENSIONS)
        white = _whitened(features, max(1, wanted))
        with warnings.catch_warnings():  # scikit-learn says of each subset of images that it spans too little,
            warnings.simplefilter("ignore", UserWarning)
            warnings.filterwarnings("ignore", "Determinant has increased", RuntimeWarning)  # or rounds
            robust = MinCovDet(random_state=seed).fit(white)
        each.append(np.sqrt(robust.mahalanobis(white)))
    return np.asarray(np.mean(each, axis=0))


def found_again(planted: Flags, suspicion: Floats) -> dict[str, float]:
    """Measure how well suspicion `(n,)` finds planted images: AUROC, average precision, and how many of them
    are among as many of the most suspicious images as were planted.

    Raises:
        ValueError: all images are planted, or none.
    """
    count = int(planted.sum())
    first = np.argsort(-suspicion, kind="stable")[:count]
    return {
        "found_auroc": image_auroc(planted, suspicion),
        "found_ap": image_ap(planted, suspicion),
        "found_first": float(planted[first].mean()) if count else 0.0,
    }


def _placed(batches: Batches) -> Iterator[tuple[Levels, slice]]:
    """Yield each batch with the places of its images among all."""
    start = 0
    for levels in batches():
        yield levels, slice(start, start + len(levels[0]))
        start += len(levels[0])


def _sums_by_fold(batches: Batches, fold: NDArray[np.intp], kept: Flags) -> list[list[Moments]]:
    """Sum what Gaussians are fitted from over the kept images: for each fold, of each level."""
    sums: list[list[Moments]] = [[] for _ in range(FOLDS)]
    for levels, places in _placed(batches):
        for k in range(FOLDS):
            rows = (fold[places] == k) & kept[places]
            if not rows.any():
                continue
            some = [torch.from_numpy(features[rows].astype(np.float64)) for features in levels]
            if sums[k]:
                for total, features in zip(sums[k], some, strict=True):
                    total.absorb(features)
            else:
                sums[k] = [moments(features) for features in some]
    return sums  # of a fold of which nothing is kept there are none


def _fitted(folds: Sequence[Sequence[Moments]]) -> list[Gaussian]:
    """Fit the Gaussian of each level to all of these folds together."""
    return [fit(reduce(add, level)) for level in zip(*folds, strict=True)]


def _gaussian(features: NDArray[np.float32]) -> Gaussian:
    return fit(moments(torch.from_numpy(features.astype(np.float64))))


def _distances(gaussian: Gaussian, features: NDArray[np.float32]) -> Floats:
    new = torch.from_numpy(features.astype(np.float64))
    squared = squared_distance(new, gaussian.mean, gaussian.whitening)
    return np.asarray(squared.sqrt().numpy(), dtype=np.float64)


def _whitened(features: NDArray[np.float32], dimensions: int) -> Floats:
    """Compute the leading principal components of features, each divided by its deviation after shrinkage."""
    gaussian = _gaussian(features)
    centred = features - gaussian.mean.numpy()
    covariance = np.linalg.inv((gaussian.whitening.T @ gaussian.whitening).numpy())
    values, vectors = np.linalg.eigh(covariance)
    first = slice(None, -dimensions - 1, -1)
    return np.asarray(centred @ vectors[:, first] / np.sqrt(values[first]))
