"""What `witnesses.py` watches where a score has parts."""

import runpy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from anomaly_ft.finetune.records import PseudoSet, Validation
from anomaly_ft.finetune.validation import validate


@pytest.fixture(scope="module")
def mean_validation() -> Callable[..., Validation]:
    folder = Path(__file__).parents[2] / "benchmarks"
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(folder))
        found: Callable[..., Validation] = runpy.run_path(str(folder / "witnesses.py"))["mean_validation"]
    return found


def test_of_a_score_in_parts_every_auroc_is_the_mean_over_parts_of_scikit_learns(
    mean_validation: Callable[..., Validation],
) -> None:
    rng = np.random.default_rng(0)
    normal = rng.normal(0, 1, (50, 2))
    shifted = {
        "a": 0.7 * normal + 0.5 + rng.normal(0, 0.7, (50, 2)),
        "b": 0.7 * normal + rng.normal(1, 0.7, (50, 2)),
    }
    sets = {name: PseudoSet(scores, 0.5, 0.8, True) for name, scores in shifted.items()}
    validation = mean_validation(lambda scores: scores, normal, sets)
    labels = np.r_[np.zeros(50), np.ones(50)]
    for name, scores in shifted.items():
        parts = [roc_auc_score(labels, np.r_[normal[:, i], scores[:, i]]) for i in (0, 1)]
        assert validation.by_augmentation[name] == pytest.approx(np.mean(parts))
    alone = [validate(lambda scores, i=i: scores[:, i], normal[:, i], sets).influence for i in (0, 1)]
    assert validation.influence == pytest.approx(np.mean(alone, axis=0))
