"""Subspaces of features: against scikit-learn's PCA and Ledoit-Wolf, and where a defect was put by hand."""

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis
from scipy.stats import sem
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

from anomaly_ft.analysis.subspaces import (
    FOLDS,
    Fold,
    SubspaceRow,
    band_rows,
    components,
    folds_of,
    leading,
    over_folds,
    subspace_rows,
)

TRAIN = np.arange(120) < 60
ANOMALOUS = np.arange(120) >= 95
FOLD = Fold(TRAIN, ~TRAIN)


def made(seed: int, d: int = 12, n: int = 120) -> np.ndarray:
    """Features whose variances fall by powers of ten, in directions turned at random."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return (rng.normal(size=(n, d)) * 10.0 ** -(np.arange(d) ** 0.5)) @ turn + rng.normal(size=d)


def rows_of(features: np.ndarray) -> dict[str, SubspaceRow]:
    """The rows of a single level by subspace, in one fold."""
    rows = subspace_rows({"one": features}, ANOMALOUS, FOLD, number=0)
    return {row.subspace: row for row in rows if row.level == "one"}


def by_sklearn(features: np.ndarray, basis: np.ndarray) -> tuple[float, float]:
    """AUROC and shrinkage within a subspace, one image at a time."""
    projected = features @ basis
    model = LedoitWolf().fit(projected[TRAIN])
    inverse = np.linalg.inv(model.covariance_)
    distances = [mahalanobis(row, model.location_, inverse) for row in projected[~TRAIN]]
    return float(roc_auc_score(ANOMALOUS[~TRAIN], distances)), float(model.shrinkage_)


@pytest.mark.parametrize("share", [0.95, 0.99])
def test_pca_is_that_of_scikit_learn_with_its_ledoit_wolf_after_the_projection(share: float) -> None:
    features = made(0)
    features[ANOMALOUS] += 0.1
    pca = PCA(share).fit(features[TRAIN])
    auroc, shrinkage = by_sklearn(features, pca.components_.T)
    row = rows_of(features)[f"PCA {share:g}"]
    assert row.dimensions == pca.n_components_
    assert row.auroc == pytest.approx(auroc, abs=1e-12)
    assert row.shrinkage == pytest.approx(shrinkage, rel=1e-8)


@pytest.mark.parametrize("share", [0.99, 0.999, 0.9999])
def test_npca_is_what_scikit_learns_pca_of_that_share_leaves_over(share: float) -> None:
    features = made(1)
    features[ANOMALOUS] += 0.05
    dropped = PCA(share).fit(features[TRAIN]).n_components_
    rest = PCA().fit(features[TRAIN]).components_[dropped:].T
    auroc, shrinkage = by_sklearn(features, rest)
    rows = rows_of(features)
    row = rows[f"NPCA {share:g}"]
    assert row.dimensions == features.shape[1] - dropped
    assert row.auroc == pytest.approx(auroc, abs=1e-12)
    assert row.shrinkage == pytest.approx(shrinkage, rel=1e-7)


def test_all_is_the_gaussian_of_the_features_as_they_are_and_the_sum_adds_distances() -> None:
    first, second = made(2), made(3, d=5)
    first[ANOMALOUS, 0] += 1
    rows = subspace_rows({"a": first, "b": second}, ANOMALOUS, FOLD, number=4)
    own = {row.level: row for row in rows if row.subspace == "all"}
    assert own["a"].auroc == pytest.approx(by_sklearn(first, np.eye(12))[0], abs=1e-12)
    assert own["sum"].dimensions == 17
    assert {row.fold for row in rows} == {4}
    total = np.zeros(60)
    for features in (first, second):
        model = LedoitWolf().fit(features[TRAIN])
        total += np.sqrt(model.mahalanobis(features[~TRAIN]))
    assert own["sum"].auroc == pytest.approx(roc_auc_score(ANOMALOUS[~TRAIN], total), abs=1e-12)


def test_a_defect_in_a_direction_that_hardly_varies_is_found_by_the_last_components_and_not_the_first() -> None:
    features = made(5)
    weakest = PCA().fit(features[TRAIN]).components_[-1]
    features[ANOMALOUS] += 0.01 * weakest
    rows = {name: row.auroc for name, row in rows_of(features).items()}
    assert rows["NPCA 0.99"] is not None
    assert rows["PCA 0.95"] is not None
    assert rows["NPCA 0.99"] > 0.95
    assert rows["PCA 0.95"] < 0.7


def test_with_fewer_images_than_dimensions_the_last_components_hold_what_no_image_showed() -> None:
    features = np.random.default_rng(0).normal(size=(120, 200))
    unseen = np.linalg.svd(features[TRAIN] - features[TRAIN].mean(0))[2][-1]
    features[ANOMALOUS] += 30 * unseen
    rows = rows_of(features)
    assert rows["NPCA 0.99"].dimensions > 100
    assert rows["NPCA 0.99"].auroc == 1.0


def test_a_random_subspace_has_the_size_of_the_one_it_stands_beside_and_is_the_same_for_each_encoder() -> None:
    rows = rows_of(made(1))
    for name in ("PCA 0.95", "NPCA 0.999"):
        assert rows[f"random as {name}"].dimensions == rows[name].dimensions
    assert rows_of(made(1)) == rows


def test_a_subspace_without_dimensions_has_no_number() -> None:
    flat = np.random.default_rng(0).normal(size=(120, 2))  # two directions alike: none are left after 0.9999
    rows = rows_of(flat)
    assert rows["NPCA 0.9999"] == SubspaceRow("one", "NPCA 0.9999", 0, 0, None, None)
    (mean,) = over_folds([rows["NPCA 0.9999"]])
    assert mean["auroc"] is None
    assert mean["sem"] is None


def test_folds_share_no_good_image_and_leave_out_a_fifth_of_the_training_images_each() -> None:
    folds = folds_of(TRAIN, ANOMALOUS, seed=3)
    assert len(folds) == FOLDS
    assert all((fold.test & ANOMALOUS).sum() == ANOMALOUS.sum() for fold in folds)
    good = np.sum([fold.test & ~ANOMALOUS for fold in folds], axis=0)
    assert (good[~TRAIN & ~ANOMALOUS] == 1).all()
    assert all(not (fold.fit & fold.test).any() and fold.fit.sum() == 48 for fold in folds)
    assert np.sum([fold.fit for fold in folds], axis=0)[TRAIN].tolist() == [4] * 60


@pytest.mark.parametrize("wrong", ["training", "good", "defective"])
def test_folds_of_too_few_images_are_refused(wrong: str) -> None:
    train, anomalous = TRAIN.copy(), ANOMALOUS.copy()
    if wrong == "training":
        train[4:60], anomalous[4:60] = False, True
    if wrong == "good":
        anomalous[64:] = True
    if wrong == "defective":
        anomalous[:] = False
    with pytest.raises(ValueError, match="5 folds need at least 5 training and 5 good test images"):
        folds_of(train, anomalous)


def test_means_over_folds_come_with_their_standard_error() -> None:
    rows = [SubspaceRow("a", "all", k, 7, auroc, 0.1 * k) for k, auroc in enumerate((0.8, 0.9, 0.7))]
    (mean,) = over_folds(rows)
    assert mean["auroc"] == pytest.approx(0.8)
    assert mean["sem"] == pytest.approx(sem([0.8, 0.9, 0.7]))
    assert mean["shrinkage"] == pytest.approx(0.1)


def test_a_change_along_one_component_stands_in_its_band_and_in_no_other() -> None:
    before = made(6)
    directions = PCA().fit(before[TRAIN]).components_
    for k, band in ((0, "0 to 0.95"), (11, "0.9999 to 1")):
        after = before + 3 * directions[k]
        rows = {row.band: row for row in band_rows("one", before, after, TRAIN, ANOMALOUS)}
        assert rows[band].moved == pytest.approx(1.0)
        assert rows[band].moved_defective == pytest.approx(1.0)
        assert rows[band].ratio == pytest.approx(1.0), "a shift changes no variance"
    assert sum(row.dimensions for row in rows.values()) == 12
    assert sum(row.variance for row in rows.values()) == pytest.approx(1.0)


def test_a_change_that_halves_the_features_quarters_every_variance() -> None:
    before = made(7)
    rows = band_rows("one", before, before / 2, TRAIN, ANOMALOUS)
    assert [row.ratio for row in rows] == pytest.approx([0.25] * len(rows))


def test_components_explain_as_much_as_those_of_scikit_learn() -> None:
    features = made(8)
    variances, directions = components(features)
    pca = PCA().fit(features)
    assert variances * 120 / 119 == pytest.approx(pca.explained_variance_)
    assert np.abs(np.diag(directions.T @ pca.components_.T)) == pytest.approx(np.ones(12))
    assert leading(variances, 0.5) == PCA(0.5).fit(features).n_components_
