"""Which directions of the features tell defects: those in which normal images vary most, or least?

After Rippel et al. (IEEE TIM 70, 2021), who found the components of low variance to tell most. Principal
components of the normal training images are kept from the front (PCA) or from the back (NPCA, negated PCA),
and a random subspace of each size stands beside them: what it reaches, any directions do.

Each fold leaves out a fifth of the training images and scores another fifth of the good test images, which
no encoder was trained on, and all defective ones; so frozen and fine-tuned encoders are measured alike. The
defective images are the same in all folds: the standard error is that of the normal images alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import sem

from anomaly_ft.metrics import Floats, image_auroc
from anomaly_ft.model.gaussian.statistics import fit, moments, squared_distance

FOLDS = 5
ALL = "all"
LEADING = (0.95, 0.99)  # shares of the variance that the kept components explain
TRAILING = (0.99, 0.999, 0.9999)  # shares that the dropped components explain
BANDS = (0.95, 0.99, 0.999, 0.9999)
SUM = "sum"  # of the levels' distances
NOTHING = 1e-12  # variance of a subspace, as a share of that of all features, below which it does not vary

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Fold:
    """Which images `(n,)` a fold estimates from, and which it scores."""

    fit: Flags
    test: Flags


@dataclass(frozen=True)
class SubspaceRow:
    """What one subspace of one level is worth in one fold.

    Attributes:
        level: its name, or `sum` for the sum of the distances of all levels.
        subspace: `all`, `PCA 0.95`, `NPCA 0.99`, `random as PCA 0.95`, …
        fold: its number, from 0.
        dimensions: of the subspace; of the sum those of all levels together.
        auroc: of the distance within the subspace; none where it has no dimension left that varies.
        shrinkage: intensity of Ledoit and Wolf within the subspace; none for the sum.
    """

    level: str
    subspace: str
    fold: int
    dimensions: int
    auroc: float | None
    shrinkage: float | None


@dataclass(frozen=True)
class BandRow:
    """How far fine-tuning moved the features of a level along the frozen components of one band.

    Attributes:
        level: its name.
        band: shares of the variance that the components explain, `0.95 to 0.99`.
        dimensions: components in the band.
        variance: its share of the variance of normal training images, frozen encoder.
        moved: its share of the mean squared change of the good test images' features.
        moved_defective: the same of the defective images.
        ratio: variance of normal training images after fine-tuning, as a multiple of that before.
    """

    level: str
    band: str
    dimensions: int
    variance: float
    moved: float
    moved_defective: float
    ratio: float


def folds_of(train: Flags, anomalous: Flags, *, seed: int = 0) -> list[Fold]:
    """Split into five folds: each leaves out another fifth of the training images `(n,)` and scores another
    fifth of the good test images, and all defective ones.

    Raises:
        ValueError: fewer than five training or good test images, or no defective one.
    """
    good, defective = ~train & ~anomalous, ~train & anomalous
    if min(train.sum(), good.sum()) < FOLDS or not defective.any():
        raise ValueError(
            f"{FOLDS} folds need at least {FOLDS} training and {FOLDS} good test images and a defective one, "
            f"got {train.sum()}, {good.sum()} and {defective.sum()}"
        )
    rng = np.random.default_rng(seed)
    number = np.full(len(train), -1)
    for members in (train, good):
        places = rng.permutation(np.flatnonzero(members))
        number[places] = np.arange(len(places)) % FOLDS
    return [Fold(train & (number != k), defective | (good & (number == k))) for k in range(FOLDS)]


def components(features: Floats) -> tuple[Floats, Floats]:
    """Compute the principal components of features `(n, d)`: variance `(d,)`, falling, and directions `(d,
    d)`, one a column; with fewer images than dimensions the last ones do not vary at all."""
    centred = features - features.mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(features))
    return np.clip(values[::-1], 0, None), vectors[:, ::-1]


def leading(variances: Floats, share: float) -> int:
    """Count the components that explain more than a share of the variance, as scikit-learn's PCA counts."""
    explained = np.cumsum(variances) / variances.sum()
    return min(int(np.searchsorted(explained, share, side="right")) + 1, len(variances))


def subspaces(features: Floats, rng: np.random.Generator) -> Iterator[tuple[str, Floats]]:
    """Name the subspaces of features `(n, d)` and give their orthonormal bases `(d, k)`; k may be 0."""
    variances, directions = components(features)
    d = len(variances)
    yield ALL, directions
    kept = {f"PCA {share:g}": directions[:, : leading(variances, share)] for share in LEADING}
    kept |= {f"NPCA {share:g}": directions[:, leading(variances, share) :] for share in TRAILING}
    for name, basis in kept.items():
        yield name, basis
        yield f"random as {name}", np.linalg.qr(rng.normal(size=(d, basis.shape[1])))[0]


def subspace_rows(
    levels: Mapping[str, Floats], anomalous: Flags, fold: Fold, *, number: int, seed: int = 0
) -> list[SubspaceRow]:
    """Measure every subspace of every level `(n, d)`, and of their sum, in one fold.

    Args:
        levels: features by level.
        anomalous: `(n,)`, which images are defective.
        fold: who is estimated from and who is scored.
        number: of the fold.
        seed: of the random subspaces, the same for every encoder.
    """
    rows: list[SubspaceRow] = []
    sums: dict[str, tuple[int, Floats]] = {}
    truth = anomalous[fold.test]
    for level, features in levels.items():
        rng = np.random.default_rng([seed, number])
        total = float(features[fold.fit].var(0).sum())
        for name, basis in subspaces(features[fold.fit].astype(np.float64), rng):
            known, scored = (features[members] @ basis for members in (fold.fit, fold.test))
            if not basis.shape[1] or known.var(0).sum() <= NOTHING * total:
                rows.append(SubspaceRow(level, name, number, 0, None, None))
                continue
            distances, shrinkage = _distances(known, scored)
            rows.append(
                SubspaceRow(level, name, number, basis.shape[1], image_auroc(truth, distances), shrinkage)
            )
            dimensions, before = sums.get(name, (0, np.zeros(len(truth))))
            sums[name] = dimensions + basis.shape[1], before + distances
    rows += [
        SubspaceRow(SUM, name, number, dimensions, image_auroc(truth, distances), None)
        for name, (dimensions, distances) in sums.items()
    ]
    return rows


def _distances(known: Floats, scored: Floats) -> tuple[Floats, float]:
    """Compute the Mahalanobis distance `(m,)` of features to the Gaussian of known ones, and its
    shrinkage."""
    gaussian = fit(moments(torch.from_numpy(known)))
    squared = squared_distance(torch.from_numpy(scored), gaussian.mean, gaussian.whitening)
    return squared.sqrt().numpy(), float(gaussian.shrinkage)


def over_folds(rows: Sequence[SubspaceRow]) -> list[dict[str, str | float | None]]:
    """Average over folds, a row for each level and subspace: dimensions, AUROC and shrinkage, and the AUROC's
    standard error of the mean."""
    groups: dict[tuple[str, str], list[SubspaceRow]] = {}
    for row in rows:
        groups.setdefault((row.level, row.subspace), []).append(row)
    table: list[dict[str, str | float | None]] = []
    for (level, subspace), group in groups.items():
        aurocs = [row.auroc for row in group if row.auroc is not None]
        shrinkages = [row.shrinkage for row in group if row.shrinkage is not None]
        table.append(
            {
                "level": level,
                "subspace": subspace,
                "dimensions": float(np.mean([row.dimensions for row in group])),
                "auroc": float(np.mean(aurocs)) if aurocs else None,
                "sem": float(sem(aurocs)) if len(aurocs) > 1 else None,
                "shrinkage": float(np.mean(shrinkages)) if shrinkages else None,
            }
        )
    return table


def band_rows(level: str, before: Floats, after: Floats, train: Flags, anomalous: Flags) -> list[BandRow]:
    """Split the change of a level's features `(n, d)` by the frozen encoder's principal components.

    Args:
        level: its name.
        before: features by the frozen encoder.
        after: of the same images by the fine-tuned one.
        train: `(n,)`, normal images whose components are taken.
        anomalous: `(n,)`, defective images.
    """
    variances, directions = components(before[train].astype(np.float64))
    change = ((after.astype(np.float64) - before) @ directions) ** 2
    good, defective = (change[~train & members].mean(0) for members in (~anomalous, anomalous))
    then = (after[train] @ directions).var(0)
    ends = [0, *(leading(variances, share) for share in BANDS), len(variances)]
    names = ["0", *(f"{share:g}" for share in BANDS), "1"]
    rows = []
    for i in range(len(ends) - 1):
        part = slice(ends[i], ends[i + 1])
        if ends[i + 1] <= ends[i]:
            continue
        rows.append(
            BandRow(
                level,
                f"{names[i]} to {names[i + 1]}",
                ends[i + 1] - ends[i],
                _share(variances, part),
                _share(good, part),
                _share(defective, part),
                float(then[part].sum() / max(variances[part].sum(), np.finfo(np.float64).tiny)),
            )
        )
    return rows


def _share(values: Floats, part: slice) -> float:
    total = float(values.sum())
    return float(values[part].sum()) / total if total else 0.0
