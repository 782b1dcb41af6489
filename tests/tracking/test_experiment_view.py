import json
from pathlib import Path

import pytest
import summaries

from anomaly_ft.evaluation.metric_names import METRICS
from anomaly_ft.evaluation.what_if import SEVERAL
from anomaly_ft.run.run_summary import RunSummary
from anomaly_ft.run.summary import final_metrics
from anomaly_ft.run.summary_parts import StopReason
from anomaly_ft.run.summary_text import run_note, story, story_of, varied_sentence, verdict
from anomaly_ft.tracking.experiment_view import experiment_tags

SUMMARY = RunSummary.model_validate(
    summaries.PLAIN
    | {
        "vicinal_auroc": [0.8, 0.85, 0.82, 0.7],
        "best_epoch": 1,
        "epochs": 3,
        "stop_reason": "forgetting",
        "frozen_test": {"image_auroc": 0.9, "image_ap": None},
        "test": {
            "image_auroc": 0.93,
            "image_ap": None,
            "false_positive_rate": 0.05,
            "true_positive_rate": 0.8,
        },
        "gain_intervals": {"image_auroc": [0.01, 0.05]},
    }
)


@pytest.mark.parametrize(
    ("curve", "best", "reason", "said"),
    [
        ([0.8, 0.85, 0.82, 0.7], 1, "forgetting", "forgot after epoch 1 of 3, kept 1"),
        ([0.8, 0.79, 0.78, 0.7], 0, "forgetting", "forgot after epoch 0 of 3, kept pretrained"),
        ([0.8, 0.82, 0.835, 0.77, 0.76], 0, "forgetting", "forgot after epoch 2 of 4, kept pretrained"),
        ([0.8, 0.85, 0.855, 0.77, 0.76], 1, "forgetting", "forgot after epoch 2 of 4, kept 1"),
        ([0.8, 0.81, 0.82], 2, "diverged", "diverged in epoch 3, kept 2"),
        ([0.8, 0.79, 0.78], 0, "diverged", "diverged in epoch 3, kept pretrained"),
        ([0.8, 0.81, 0.82, 0.83], 3, "max_epochs", "kept epoch 3 of 3"),
        ([0.8, 0.81, 0.8, 0.8], 0, "no_progress", "no gain, kept pretrained"),
    ],
)
def test_the_verdict_says_whether_and_when_it_forgot(
    curve: list[float], best: int, reason: StopReason, said: str
) -> None:
    assert verdict(curve, best, reason) == said


def test_a_run_that_rose_within_noise_before_it_fell_is_not_said_to_have_forgotten_at_once() -> None:
    told = story([0.80, 0.82, 0.835, 0.77, 0.76], 0, "forgetting")
    assert told.startswith("Forgetting set in after epoch 2: the pretrained encoder is kept, fine-tuning did")
    assert "(epoch 2 reached 0.8350, no more above 0.8000 than noise explains)" in told
    later = story([0.80, 0.85, 0.855, 0.77, 0.76], 1, "forgetting")
    assert later.startswith("Forgetting set in after epoch 2: the encoder of epoch 1 is kept, ")
    assert "than noise explains" in later
    at_once = story([0.80, 0.77, 0.76], 0, "forgetting")
    assert at_once.startswith(
        "Forgetting set in after epoch 0: the pretrained encoder is kept, fine-tuning did"
    )
    assert "noise" not in at_once


def test_a_run_without_epochs_is_not_said_to_have_failed() -> None:
    assert verdict([0.8], 0, "max_epochs") == "pretrained, not trained"
    assert "did not help" not in story([0.8], 0, "max_epochs")


def test_the_note_shows_the_gain_with_its_interval_and_how_to_load_the_encoder() -> None:
    note = run_note(SUMMARY, Path("/runs/bottle-001"))
    assert "Forgetting set in after epoch 1" in note
    assert "anomalous test images, fused score | frozen" in note
    assert "| image AUROC | 0.9000 | 0.9300 | +0.0300 (95 %: +0.0100 to +0.0500) |" in note
    assert "average precision" not in note, "what was not measured is left out"
    assert "at most 3.12% of normal images" in note
    assert "On the test split: 5.00% of normal, 80.00% of anomalous images." in note
    assert '"local-dir:/runs/bottle-001/encoder"' in note
    compile(note.split("```python")[1].split("```")[0], "snippet", "exec")


def test_the_note_of_a_run_that_forgot_says_what_was_seen_and_that_of_an_older_run_leaves_it_out() -> None:
    seen = "vicinal AUROC is 0.150 ± 0.020 below epoch 1's, and below it since epoch 2; line fell most"
    told = SUMMARY.model_copy(update={"stop_why": seen})
    assert f"Seen: {seen}." in run_note(told, Path("/runs/bottle-001"))
    assert "Seen:" not in run_note(SUMMARY, Path("/runs/bottle-001"))
    ended = told.model_copy(update={"stop_reason": "max_epochs"})
    assert "Seen:" not in run_note(ended, Path("/runs/bottle-001"))


@pytest.mark.parametrize(
    ("strengths", "said"),
    [
        (
            {"shift": 4.0, "focus": 1.0},
            "If images vary as the recipe calls benign, one to three changes at once as in training",
        ),
        ({}, "If light, focus, noise, compression and shift vary, one to three changes at once"),
    ],
)
def test_a_few_varied_images_are_said_to_vary_as_they_did(strengths: dict[str, float], said: str) -> None:
    numbers = {"auroc": 0.9, "rejected": 0.25, "frozen_auroc": 0.8, "frozen_rejected": 0.5}
    row = {"change": SEVERAL, "factor": 1, "strength": None, **numbers}
    alone = row | {"change": "focus", "rejected": 0.75}
    variation = {"preset": "camera", "strengths": strengths, "on": "test", "rows": [alone, row]}
    summary = RunSummary.model_validate(SUMMARY.plain() | {"variation": variation})
    assert varied_sentence(summary) == (
        f"{said} (a few images): image AUROC 0.900 (frozen 0.800), 25% of the good ones rejected (frozen 50%)."
    )
    assert final_metrics(summary)["varied/image_auroc"] == 0.9
    without = RunSummary.model_validate(SUMMARY.plain() | {"variation": variation | {"rows": [alone]}})
    assert varied_sentence(without) == "", "other rows say nothing of it"


def test_a_note_without_a_test_split_invents_no_number() -> None:
    note = run_note(SUMMARY.model_copy(update={"test": None, "frozen_test": None}), Path("/runs/bottle-001"))
    assert "there is no test number" in note
    assert "On the test split" not in note


def test_the_last_word_on_every_metric_is_of_the_encoder_that_was_kept() -> None:
    metrics = final_metrics(SUMMARY)
    assert metrics["best/epoch"] == 1
    assert metrics["best/vicinal_auroc"] == 0.85
    assert metrics["gain/vicinal_auroc"] == pytest.approx(0.05)
    assert metrics["test/image_auroc"] == 0.93
    assert metrics["gain/image_auroc"] == pytest.approx(0.03)
    assert metrics["gain/image_ap"] is None
    assert "gain/false_positive_rate" not in metrics, "the frozen encoder has no threshold"


def test_the_last_word_on_mixed_weights_is_of_the_mixture_that_was_kept() -> None:
    mixed = SUMMARY.model_copy(update={"mixed": {0.0: 0.8, 1.0: 0.85, 0.25: 0.83}})
    metrics = final_metrics(mixed)
    assert metrics["best/vicinal_auroc"] == 0.83
    assert metrics["gain/vicinal_auroc"] == pytest.approx(0.03)
    note = run_note(mixed, Path("/runs/bottle-001"))
    assert "a mixture of 25% of the weights of epoch 1 and 75% of the pretrained ones is kept" in note
    assert "its vicinal AUROC is 0.8300 (pretrained 0.8000)" in note


def test_weights_of_which_all_are_kept_are_no_mixture() -> None:
    whole = SUMMARY.model_copy(update={"mixed": {0.0: 0.8, 0.25: 0.83, 1.0: 0.85}})
    assert whole.kept_vicinal_auroc == SUMMARY.kept_vicinal_auroc == 0.85
    assert story_of(whole) == story_of(SUMMARY)


def test_the_view_shows_columns_and_charts_that_a_run_has() -> None:
    tags = experiment_tags()
    view = json.loads(tags["mlflow.sharedViewState.anomaly-ft"])
    shown = [column.split("`")[1] for column in view["selectedColumns"] if column.startswith("metrics.")]
    shown += [chart["metricKey"] for chart in view["compareRunCharts"]]
    for name in shown:
        assert name in METRICS or f"{name.split('/')[0]}/<metric>" in METRICS
    sections = {section["uuid"] for section in view["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in view["compareRunCharts"]} == sections
    assert max(map(len, tags.values())) < 5000, "MLflow's limit for a tag"


def test_one_epoch_is_not_many() -> None:
    told = story([0.8, 0.82], 1, "max_epochs")
    assert told.startswith("The one epoch was trained: the encoder of epoch 1 is kept")
    many = story([0.8, 0.82, 0.83], 2, "max_epochs")
    assert many.startswith("All 2 epochs were trained: the encoder of epoch 2 is kept")
