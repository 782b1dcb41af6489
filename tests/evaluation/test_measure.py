from pathlib import Path

import numpy as np
import pytest

from anomaly_ft.data.records import Record
from anomaly_ft.evaluation.measure import measure, prediction_table
from anomaly_ft.model.threshold import WorkingPoint

POINT = WorkingPoint(threshold=2.5, target_fpr=0.1, guaranteed_fpr=0.1, images=9)
SCORES = {"pooled": np.array([1.0, 2.0, 3.0, 2.5, 4.0]), "dense": np.array([5.0, 4.0, 3.0, 2.0, 1.0])}


def records(kinds: str) -> list[Record]:
    names = {"g": "good", "h": "hole"}
    return [Record(Path(), f"test/{i}.png", "test", names[kind]) for i, kind in enumerate(kinds)]


def test_the_chosen_score_is_measured_in_full_and_the_others_by_auroc() -> None:
    numbers = measure(records("gghgh"), SCORES, "pooled", POINT)
    assert numbers == {
        "image_auroc": 1.0,
        "image_ap": 1.0,
        "image_f1_max": 1.0,
        "image_tpr_at_1pct_fpr": 1.0,
        "image_tpr_at_5pct_fpr": 1.0,
        "image_tnr_at_1pct_fnr": 1.0,
        "image_tnr_at_5pct_fnr": 1.0,
        "pooled_image_auroc": 1.0,
        "dense_image_auroc": pytest.approx(1 / 6),
        "false_positive_rate": 0.0,  # a score at the threshold is still normal
        "true_positive_rate": 1.0,
    }
    assert measure(records("gghgh"), SCORES, "dense", POINT)["false_positive_rate"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("kinds", "missing"), [("ggggg", "true_positive_rate"), ("hhhhh", "false_positive_rate")]
)
def test_what_cannot_be_measured_with_one_kind_of_image_is_none(kinds: str, missing: str) -> None:
    numbers = measure(records(kinds), SCORES, "pooled", POINT)
    present = {"true_positive_rate", "false_positive_rate"} - {missing}
    assert {name for name, value in numbers.items() if value is not None} == present


def test_the_table_has_a_row_for_each_image_with_its_decision() -> None:
    table = prediction_table(records("gghgh"), SCORES, "pooled", POINT)
    assert table["path"].tolist() == [f"test/{i}.png" for i in range(5)]
    assert table["label"].tolist() == [0, 0, 1, 0, 1]
    assert table["decision"].tolist() == ["normal", "normal", "anomalous", "normal", "anomalous"]
    assert table["score"].tolist() == table["pooled_score"].tolist() == SCORES["pooled"].tolist()
    assert table["dense_score"].tolist() == SCORES["dense"].tolist()
