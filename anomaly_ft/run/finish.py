"""Finish a run: thresholds from calibration images, numbers of the test split, files of the run folder."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anomaly_ft.data.images import Decoder
from anomaly_ft.data.records import Record
from anomaly_ft.evaluation.assess import Assessment, assess
from anomaly_ft.evaluation.localisation import localise
from anomaly_ft.evaluation.measure import (
    gain_intervals,
    intervals,
    measure,
    prediction_table,
    threshold_numbers,
)
from anomaly_ft.evaluation.plots import forgetting_figure, score_figure
from anomaly_ft.evaluation.report import ReportData, score_kinds, write_report
from anomaly_ft.evaluation.working_points import ChiSquarePoint, chi_square, conformal
from anomaly_ft.finetune.method import Method
from anomaly_ft.finetune.records import EpochRecord
from anomaly_ft.metrics import Floats
from anomaly_ft.model.inference import predict
from anomaly_ft.model.interface import Detector
from anomaly_ft.model.outputs import Predictions
from anomaly_ft.model.threshold import Thresholds, WorkingPoint
from anomaly_ft.run.folder import finished_name
from anomaly_ft.run.run_summary import RunSummary
from anomaly_ft.run.setup import Setup
from anomaly_ft.system.files import write_json


@dataclass(frozen=True)
class Calibrated:
    """A detector with thresholds, and its predictions of the calibration images that set them."""

    detector: Detector
    point: WorkingPoint
    parametric: Sequence[ChiSquarePoint]
    calibration: Predictions


def finish(
    setup: Setup,
    partial: Path,
    method: Method,
    before: tuple[dict[str, Any], list[EpochRecord], Predictions | None],
) -> RunSummary:
    """Set thresholds, measure on the test split, and write every file of the run folder.

    Args:
        setup: the run; its encoder holds the weights that are kept.
        partial: the folder.
        method: makes the detector.
        before: the summary so far, the records of all epochs, and what the pretrained encoder's detector
            says about the test images.

    Returns:
        The summary, as it was written.
    """
    summary, records, frozen = before
    kind = setup.recipe.gaussian.statistics
    kept = calibrate(setup, method.refit(kind, watching=False).detector)
    setup.terminal.say(str(kept.point))
    tested = predict_test(setup, kept.detector)
    assessment = assess(setup.data.test.records, tested, kept.point, decoder_of(setup)) if tested else None
    save(setup, partial, kept, kind)
    if assessment:
        table = prediction_table(
            assessment.records, assessment.outputs.scores, assessment.outputs.decides, kept.point
        )
        table.to_csv(partial / "predictions.csv", index=False)
    others = {name: measure_kind(setup, method, name) for name in method.kinds if name != kind}
    numbers = {**others, kind: assessment.numbers() if assessment else None}
    sealed = {
        "folder_name": finished_name(partial),
        **_compare(setup.data.test.records, frozen, assessment),
        "test_by_statistics": {name: numbers[name] for name in method.kinds},
        "thresholds": threshold_numbers(kept.point),
        "chi_square": [asdict(level) for level in kept.parametric],
        "statistics": kind,
        "level_weights": kept.detector.level_weights.tolist(),
    }
    material = ReportData(
        recipe=setup.recipe.to_yaml(),
        assessment=assessment,
        threshold=kept.point.threshold,
        held_out=kept.calibration.score,
        labels=kept.detector.labels,
        frozen=frozen.score if frozen else None,
        validations=[record.validation for record in records if record.validation],
        verdict=records[-1].verdict,
    )
    _draw(partial, material)
    whole = RunSummary.model_validate({**summary, **sealed})
    write_report(partial / "report.html", whole.plain(), material)
    write_json(partial / "summary.json", whole.plain())
    return whole


def calibrate(setup: Setup, detector: Detector) -> Calibrated:
    """Set a detector's thresholds on the calibration images."""
    rate = setup.recipe.evaluation.false_positive_rate
    outputs = predict(detector, setup.data.normals("calibration").pixels, setup.compute)
    point = conformal(outputs.score, rate)
    parametric = chi_square(
        detector.encoder.levels,
        detector.encoder.widths,
        rate,
        outputs.distances,
        weights=detector.level_weights.cpu().numpy(),
        total=detector.level_mean,
    )
    limit = conformal(outputs.localises.max((1, 2)), rate).threshold
    thresholds = Thresholds(point, tuple(level.threshold for level in parametric), limit)
    return Calibrated(detector.with_thresholds(thresholds), point, parametric, outputs)


def measure_kind(setup: Setup, method: Method, kind: str) -> dict[str, float | None] | None:
    """Test numbers of the encoder with other statistics than those that are kept; None without a test split."""
    if not len(setup.data.test):
        return None  # before anything is fitted for nothing
    detector = method.refit(kind, watching=False).detector
    held_out = predict(detector, setup.data.normals("calibration").pixels, setup.compute)
    point = conformal(held_out.score, setup.recipe.evaluation.false_positive_rate)
    tested = predict(detector, setup.data.test.pixels, setup.compute)
    return measure(setup.data.test.records, tested.scores, tested.decides, point)


def predict_test(setup: Setup, detector: Detector) -> Predictions | None:
    """Predict the test images; None where there are none."""
    test = setup.data.test
    return predict(detector, test.pixels, setup.compute) if len(test) else None


def decoder_of(setup: Setup) -> Decoder:
    """Make the decoder by which the run reads its images."""
    data = setup.recipe.data
    return Decoder(data.image_size, data.resize, data.range)


def save(setup: Setup, partial: Path, kept: Calibrated, kind: str) -> None:
    """Write encoder and detector into the run folder."""
    data = setup.recipe.data
    preprocessing = {"resize": data.resize, "range": data.range}
    kept.detector.save(partial, about={"statistics": kind, "preprocessing": preprocessing})


def _compare(
    records: Sequence[Record], frozen: Predictions | None, assessment: Assessment | None
) -> dict[str, Any]:
    """Test numbers of the final and of the pretrained encoder's detector, and of the change between them."""
    if frozen is None or assessment is None:
        return {"frozen_test": None, "test": None}
    before = measure(records, frozen.scores, frozen.decides)
    return {
        "frozen_test": before | localise(records, frozen.maps, assessment.decoder).numbers,
        "frozen_test_intervals": intervals(records, frozen.score),
        "gain_intervals": gain_intervals(records, frozen.score, assessment.scores),
        **assessment.summary(),
    }


def _draw(partial: Path, material: ReportData) -> None:
    """Draw the figures as files of their own, for those who write about a run."""
    kinds: Mapping[str, Floats] = score_kinds(material.held_out, material.assessment)
    score_figure(kinds, material.threshold, list(kinds)[:2]).savefig(partial / "scores.png", dpi=110)
    if material.verdict:
        figure = forgetting_figure(material.validations, material.verdict)
        figure.savefig(partial / "forgetting.png", dpi=110)
