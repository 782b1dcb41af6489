"""Numbers of each condition, against plain counts and scikit-learn."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from anomaly_ft.data.records import Record
from anomaly_ft.evaluation.conditions import Judged, as_columns, by_condition


def records(kinds: list[str]) -> list[Record]:
    return [Record(Path(), f"{i}.png", "test", kind) for i, kind in enumerate(kinds)]


@pytest.fixture
def rows() -> list[dict]:
    rng = np.random.default_rng(0)
    kinds = ["good", "good", "crack", "good", "crack"] * 8
    cameras = (["right"] * 5 + ["left"] * 5) * 4
    scores = rng.normal(size=40) + np.array([kind != "good" for kind in kinds])
    frozen = rng.normal(size=40)
    return by_condition(records(kinds), cameras, Judged(scores, scores > 1), Judged(frozen, frozen > 2))


def test_each_condition_has_its_own_counts_shares_and_auroc(rows) -> None:
    rng = np.random.default_rng(0)
    anomalous = np.array([False, False, True, False, True] * 8)
    scores, left = rng.normal(size=40) + anomalous, np.array(([False] * 5 + [True] * 5) * 4)
    assert [row["condition"] for row in rows] == ["left", "right"]
    for row, members in zip(rows, (left, ~left), strict=True):
        assert (row["normal"], row["anomalous"]) == (12, 8)
        for key, kind in (("false_alarms", ~anomalous), ("found", anomalous)):
            hits, count = int((scores[members & kind] > 1).sum()), int((members & kind).sum())
            ends = binomtest(hits, count).proportion_ci(method="wilson")
            assert row[key] == {
                "rejected": hits, "images": count, "rate": hits / count,
                "low": pytest.approx(ends.low), "high": pytest.approx(ends.high),
            }  # fmt: skip
        assert row["image_auroc"] == pytest.approx(roc_auc_score(anomalous[members], scores[members]))
        low, high = row["image_auroc_interval"]
        assert low <= row["image_auroc"] <= high


def test_the_frozen_detector_decides_by_a_threshold_of_its_own(rows) -> None:
    rng = np.random.default_rng(0)
    rng.normal(size=40)
    frozen = rng.normal(size=40)
    assert (
        sum(row["frozen"]["false_alarms"]["rejected"] + row["frozen"]["found"]["rejected"] for row in rows)
        == (frozen > 2).sum()
    )


def test_what_a_condition_lacks_is_not_measured() -> None:
    scores = np.array([0.0, 2.0, 3.0])
    good, bad = by_condition(records(["good", "good", "crack"]), ["a", "a", "b"], Judged(scores, scores > 1))
    assert good["found"] is None
    assert good["image_auroc"] is None
    assert good["false_alarms"]["rejected"] == 1
    assert bad["false_alarms"] is None
    assert bad["frozen"] is None


def test_a_row_lies_flat_in_a_table(rows) -> None:
    flat = as_columns(rows[0])
    assert flat["condition"] == "left"
    assert flat["false_alarms"] == rows[0]["false_alarms"]["rejected"]
    assert flat["found_high"] == rows[0]["found"]["high"]
    assert flat["frozen_image_auroc_low"] == rows[0]["frozen"]["image_auroc_interval"][0]
    empty = as_columns(rows[0] | {"frozen": None, "found": None})
    assert list(empty) == list(flat)
    assert empty["frozen_found_rate"] is None
    assert empty["found"] is None
