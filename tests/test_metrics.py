import numpy as np
import pytest

from anomaly_ft.errors import DivergedError
from anomaly_ft.metrics import image_ap, image_auroc, placements


def scores(ties: bool, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    normal, anomalous = rng.normal(0, 1, 30), rng.normal(0.7, 1, 17)
    return (np.round(normal), np.round(anomalous)) if ties else (normal, anomalous)


def compare(low: float, high: float) -> float:
    """1 when the anomalous score is above the normal one, half for a tie."""
    return 1.0 if high > low else 0.5 if high == low else 0.0


@pytest.mark.parametrize("ties", [False, True])
def test_placements_are_the_shares_found_by_comparing_all_pairs(ties: bool) -> None:
    normal, anomalous = scores(ties)
    of_normal, of_anomalous = placements(normal, anomalous)
    np.testing.assert_allclose(of_normal, [np.mean([compare(x, y) for y in anomalous]) for x in normal])
    np.testing.assert_allclose(of_anomalous, [np.mean([compare(x, y) for x in normal]) for y in anomalous])


@pytest.mark.parametrize("ties", [False, True])
def test_auroc_is_the_mean_of_either_side_of_the_placements(ties: bool) -> None:
    normal, anomalous = scores(ties)
    labels = np.r_[np.zeros(30), np.ones(17)]
    auroc = image_auroc(labels, np.r_[normal, anomalous])
    assert auroc == pytest.approx(np.mean([compare(x, y) for x in normal for y in anomalous]))
    for side in placements(normal, anomalous):
        assert side.mean() == pytest.approx(auroc)


def test_average_precision_is_the_mean_precision_at_each_anomalous_image() -> None:
    normal, anomalous = scores(ties=False)
    everything = np.r_[normal, anomalous]
    precisions = [(anomalous >= y).sum() / (everything >= y).sum() for y in anomalous]
    labels = np.r_[np.zeros(30), np.ones(17)]
    assert image_ap(labels, everything) == pytest.approx(np.mean(precisions))


def test_higher_scores_mean_more_anomalous() -> None:
    assert image_auroc([False, True], [0.0, 1.0]) == 1.0
    assert image_auroc([False, True], [1.0, 0.0]) == 0.0


@pytest.mark.parametrize("measure", [image_auroc, image_ap])
@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1]])
def test_one_kind_of_image_cannot_be_told_apart(measure: object, labels: list[int]) -> None:
    with pytest.raises(ValueError, match="normal and anomalous images are both needed"):
        measure(labels, [1.0, 2.0, 3.0])  # type: ignore[operator]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_have_diverged(bad: float) -> None:
    for measure in (image_auroc, image_ap, placements):
        with pytest.raises(DivergedError, match="1 of 2 scores are not finite"):
            measure([0, 1], [1.0, bad])
