from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from anomaly_ft.data.records import Record
from anomaly_ft.evaluation.measure import (
    describe_point,
    gain_intervals,
    intervals,
    measure,
    measure_kinds,
    prediction_table,
)
from anomaly_ft.metrics import wilson_interval
from anomaly_ft.model.threshold import WorkingPoint

POINT = WorkingPoint(threshold=1.0, target_fpr=0.01, guaranteed_fpr=1 / 32, images=31)


def split(normal: int = 20, holes: int = 12, cracks: int = 8) -> tuple[list[Record], dict[str, np.ndarray]]:
    kinds = ["good"] * normal + ["hole"] * holes + ["crack"] * cracks
    rng = np.random.default_rng(0)
    shift = np.array([{"good": 0.0, "hole": 1.0, "crack": 3.0}[kind] for kind in kinds])
    records = [Record(Path(), f"{i}.png", "test", kind) for i, kind in enumerate(kinds)]
    return records, {"pooled": rng.normal(size=len(kinds)), "fused": rng.normal(size=len(kinds)) + shift}


def test_the_numbers_are_those_of_the_chosen_score() -> None:
    records, scores = split()
    labels = [record.anomalous for record in records]
    numbers = measure(records, scores, "fused", POINT)
    assert numbers["image_auroc"] == pytest.approx(roc_auc_score(labels, scores["fused"]))
    assert numbers["image_ap"] == pytest.approx(average_precision_score(labels, scores["fused"]))
    assert numbers["pooled_image_auroc"] == pytest.approx(roc_auc_score(labels, scores["pooled"]))
    assert numbers["false_positive_rate"] == np.mean(scores["fused"][:20] > 1)
    assert numbers["true_positive_rate"] == np.mean(scores["fused"][20:] > 1)
    for name, (low, high) in intervals(records, scores["fused"]).items():
        assert low <= numbers[name] <= high


def test_each_defect_type_is_measured_against_the_normal_images() -> None:
    records, scores = split()
    good, crack, hole = measure_kinds(records, scores, "fused", POINT)
    assert [row["kind"] for row in (good, crack, hole)] == ["good", "crack", "hole"]
    assert "image_auroc" not in good
    values = scores["fused"]
    expected = roc_auc_score([0] * 20 + [1] * 12, values[:32])
    assert hole["image_auroc"] == pytest.approx(expected)
    low, high = hole["intervals"]["image_auroc"]
    assert low <= expected <= high
    rejected = int((values[:20] > 1).sum())
    assert good["rejected"] == rejected
    assert good["rejected_interval"] == wilson_interval(rejected, 20)


def test_one_kind_of_image_gives_shares_and_no_numbers() -> None:
    records, scores = split(holes=0, cracks=0)
    numbers = measure(records, scores, "fused", POINT)
    assert numbers["image_auroc"] is None
    assert numbers["image_f1_max"] is None
    assert numbers["true_positive_rate"] is None
    assert numbers["false_positive_rate"] is not None
    assert intervals(records, scores["fused"]) == {}
    assert gain_intervals(records, scores["pooled"], scores["fused"]) == {}
    records, scores = split(normal=0)
    assert "image_auroc" not in measure_kinds(records, scores, "fused", POINT)[0]
    assert describe_point(POINT, records, scores["fused"])["observed"] is None


def test_a_gain_compares_the_same_images() -> None:
    records, scores = split()
    assert set(gain_intervals(records, scores["fused"], scores["fused"]).values()) == {(0.0, 0.0)}
    low, high = gain_intervals(records, scores["pooled"], scores["fused"])["image_auroc"]
    assert 0 < low < high
    apart = intervals(records, scores["fused"])["image_auroc"]
    slightly = scores["fused"] + np.random.default_rng(1).normal(0, 0.05, 40)
    low, high = gain_intervals(records, scores["fused"], slightly)["image_auroc"]
    assert high - low < 0.5 * (apart[1] - apart[0])


def test_the_guarantee_stands_beside_what_was_observed() -> None:
    records, scores = split()
    said = describe_point(POINT, records, scores["fused"])
    assert said["threshold"] == 1.0
    assert said["observed"]["images"] == 20
    assert said["guaranteed_fpr"] < said["likely_at_most"] < 0.15


def test_the_table_decides_above_the_threshold_only() -> None:
    records, scores = split(2, 1, 0)
    scores["fused"][:] = [0.5, 1.0, 1.5]
    table = prediction_table(records, scores, "fused", POINT)
    assert list(table["decision"]) == ["normal", "normal", "anomalous"]
    assert list(table["pooled_score"]) == list(scores["pooled"])
