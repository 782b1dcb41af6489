import pytest

from anomaly_ft.evaluation.metric_names import METRICS, TEST_METRICS, metric, on_test
from anomaly_ft.run.compare import NUMBERS
from anomaly_ft.run.open import open_summary
from anomaly_ft.run.summary import final_metrics


def test_every_number_of_a_run_is_in_the_table(small_run) -> None:
    for name in final_metrics(open_summary(small_run)):
        assert metric(name).label


def test_a_score_or_map_that_nobody_knew_has_its_label() -> None:
    assert on_test("filtering_image_auroc").label == "image AUROC, filtering score"
    assert on_test("error_pixel_aupro").label == "pixel AUPRO (FPR ≤ 0.3), error map"
    assert metric("gain/image_auroc").label == "gain in image AUROC"
    assert (metric("gain/image_ap").form, metric("test/image_ap").form) == ("+.4f", ".4f")
    assert metric("test/false_positive_rate").label == "good images rejected (FPR)"


@pytest.mark.parametrize("name", ["", "image_nonsense", "test/nonsense", "other/image_auroc", "a_image_f1_max"])
def test_a_metric_that_is_not_in_the_table_is_an_error(name: str) -> None:
    with pytest.raises(KeyError):
        metric(name) if "/" in name else on_test(name)


def test_no_two_metrics_have_one_label() -> None:
    labels = [entry.label for entry in (*METRICS.values(), *TEST_METRICS.values())]
    assert len(labels) == len(set(labels))
    assert len({metric(name).label for name in NUMBERS}) == len(NUMBERS)
