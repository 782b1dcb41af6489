"""Finish a run: thresholds from calibration images, numbers of the test split, files of the run folder."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anomaly_ft.data.images import Decoder
from anomaly_ft.data.loaded import Images
from anomaly_ft.data.pixels import Pixels
from anomaly_ft.data.records import Record
from anomaly_ft.evaluation.appearance_shift import learn_appearance
from anomaly_ft.evaluation.assess import Assessment, assess
from anomaly_ft.evaluation.localisation import localise
from anomaly_ft.evaluation.measure import (
    frozen_columns,
    gain_intervals,
    intervals,
    measure,
    prediction_table,
    threshold_numbers,
)
from anomaly_ft.evaluation.plots import forgetting_figure, score_figure
from anomaly_ft.evaluation.report import ReportData, score_kinds, write_report
from anomaly_ft.evaluation.what_if import Row, beside, few_of_each, what_if, what_if_figure
from anomaly_ft.evaluation.working_points import by_group, conformal_varied
from anomaly_ft.finetune.method import Method
from anomaly_ft.finetune.records import EpochRecord
from anomaly_ft.metrics import Floats
from anomaly_ft.model.encoder.adapters import digest
from anomaly_ft.model.gaussian.detector import GaussianDetector
from anomaly_ft.model.gaussian.fitting import sums_of_all
from anomaly_ft.model.gaussian.sums import save_sums
from anomaly_ft.model.inference import predict, score_images
from anomaly_ft.model.interface import Detector
from anomaly_ft.model.outputs import Predictions
from anomaly_ft.model.threshold import WorkingPoint
from anomaly_ft.recipe.variation import PRESETS, stronger
from anomaly_ft.run.calibration import Calibrated, calibrate_on
from anomaly_ft.run.folder import finished_name
from anomaly_ft.run.known_defects import summarise_known
from anomaly_ft.run.known_text import known_sentences
from anomaly_ft.run.run_summary import RunSummary
from anomaly_ft.run.setup import Setup
from anomaly_ft.system.files import write_json


@dataclass(frozen=True)
class Baseline:
    """Numbers of the pretrained encoder's detector, taken before the encoder changes.

    Attributes:
        detector: it itself, measured once where it is also what is kept; None where it knows nothing yet.
        tested: what it says about the test images; None where there are none, or where it knows nothing yet.
        point: its threshold, set on the same calibration images as that of the fine-tuned encoder; or None.
        what_if: the rows of `evaluation.what_if`; empty where it knows nothing yet.
    """

    detector: Detector | None
    tested: Predictions | None
    point: WorkingPoint | None
    what_if: list[Row]


def finish(
    setup: Setup,
    partial: Path,
    method: Method,
    before: tuple[dict[str, Any], list[EpochRecord], Baseline],
) -> RunSummary:
    """Set thresholds, measure on the test split, and write every file of the run folder; returns the summary.

    Args:
        setup: the run; its encoder holds the weights that are kept.
        partial: the folder.
        method: makes the detector.
        before: the summary so far, the records of all epochs, and what the pretrained encoder's detector is
            worth.
    """
    summary, records, baseline = before
    kind = method.keeps
    detector = method.refit(kind, watching=False).detector
    unchanged = detector is baseline.detector
    kept = calibrate(setup, detector)
    setup.terminal.say(kept.sentence)
    tested, rows = (baseline.tested, baseline.what_if) if unchanged else look(setup, kept.detector, kept.point)
    assessment = assess_test(setup, kept, tested) if tested else None
    save(setup, partial, kept, kind, refitted=kind != method.kinds[0])
    if assessment:
        _write_predictions(partial, assessment, baseline)
    known = summarise_known(setup.known, setup.data.test.records, baseline.tested, tested)
    varied = beside(baseline.what_if, rows)
    sealed = {
        "folder_name": finished_name(partial),
        **_compare(setup.data.test.records, baseline, assessment),
        "test_by_statistics": by_statistics(setup, method, assessment, unchanged=unchanged),
        "thresholds": {**threshold_numbers(kept.point), "decided_by": kept.decided_by},
        "chi_square": [asdict(level) for level in kept.parametric],
        "statistics": kind,
        "level_weights": kept.detector.distance_mean.weights,
        "variation": variation_summary(setup, varied),
        "known_defects": known,
    }
    material = ReportData(
        recipe=setup.recipe.to_yaml(),
        assessment=assessment,
        threshold=kept.point.threshold,
        missing=kept.point.missing,
        held_out=kept.calibration.score,
        labels=kept.detector.labels,
        frozen=baseline.tested.score if baseline.tested else None,
        validations=[record.validation for record in records if record.validation],
        verdict=records[-1].verdict,
        what_if=varied,
        root=setup.data.undivided.records[0].root,
        decoder=decoder_of(setup),
        chance=kept.chance,
        known=tuple(known_sentences(known)),
    )
    _draw(partial, material)
    whole = RunSummary.model_validate({**summary, **sealed})
    write_report(partial / "report.html", whole.plain(), material)
    write_json(partial / "summary.json", whole.plain())
    return whole


def calibrate(setup: Setup, detector: Detector) -> Calibrated:
    """Set a detector's thresholds on the calibration images and their varied copies."""
    return calibrate_on(
        setup.varied("calibration").pixels,
        setup.data.normals("calibration").records,
        detector,
        setup.compute,
        setup.recipe.evaluation,
    )


def by_statistics(
    setup: Setup, method: Method, assessment: Assessment | None, *, unchanged: bool
) -> dict[str, dict[str, float | None] | None]:
    """Give the test numbers with each kind of statistics; of an encoder that is as it was they are the same."""
    kept = assessment.numbers() if assessment else None
    numbers: dict[str, dict[str, float | None] | None] = dict.fromkeys(method.kinds, kept)
    if not unchanged:
        numbers |= {name: measure_kind(setup, method, name) for name in method.kinds if name != method.keeps}
    return numbers


def measure_kind(setup: Setup, method: Method, kind: str) -> dict[str, float | None] | None:
    """Test numbers of the encoder with other statistics than those that are kept; None without a test split."""
    if not len(setup.data.test):
        return None  # before anything is fitted for nothing
    detector = method.refit(kind, watching=False).detector
    point = working_point(setup, detector)
    tested = predict_test(setup, detector)
    return measure(setup.data.test.records, tested.scores, tested.decides, point) if tested else None


def measure_baseline(setup: Setup, method: Method, detector: Detector) -> Baseline:
    """Measure the detector of before training on test images, as they are and varied; nothing where that knows
    nothing yet."""
    if not method.has_baseline:
        return Baseline(None, None, None, [])
    point = working_point(setup, detector)
    tested, rows = look(setup, detector, point)
    return Baseline(detector, tested, point, rows)


def look(setup: Setup, detector: Detector, point: WorkingPoint) -> tuple[Predictions | None, list[Row]]:
    """Score the test images, as they are and varied."""
    return predict_test(setup, detector), vary_test(setup, detector, point)


def working_point(setup: Setup, detector: Detector) -> WorkingPoint:
    """Set the threshold of a detector on the calibration images and their varied copies."""
    scores = score_images(detector, setup.varied("calibration").pixels, setup.compute)[detector.decides]
    records, asked = setup.data.normals("calibration").records, setup.recipe.evaluation
    copies = by_group(scores.reshape(-1, len(records)), [record.group for record in records])
    return conformal_varied(copies, asked.false_positive_rate, asked.guarantee)


def predict_test(setup: Setup, detector: Detector) -> Predictions | None:
    """Predict the test images; None where there are none."""
    test = setup.data.test
    if not len(test):
        return None
    return predict(detector, test.pixels, setup.compute)


def assess_test(setup: Setup, kept: Calibrated, tested: Predictions) -> Assessment:
    """Measure predictions of the test images against labels and masks."""
    limit = kept.detector.map_threshold()
    return assess(setup.data.test.records, tested, kept.point, decoder_of(setup), limit)


def vary_test(setup: Setup, detector: Detector, point: WorkingPoint) -> list[Row]:
    """Measure what growing variation does to a few test images, or, without a test split, to held-out ones.

    Where the recipe calls nothing benign, the camera's preset is shown: the light changes all the same.
    """
    images: Images = setup.data.test if len(setup.data.test) else setup.data.normals("val")
    strengths = setup.recipe.variation.strengths() or PRESETS["camera"]

    def score(pixels: Pixels) -> Floats:
        return score_images(detector, pixels, setup.compute)[detector.decides]

    return what_if(
        score,
        point.threshold,
        few_of_each(images),
        lambda factor: stronger(strengths, factor),
        seed=setup.recipe.seed,
    )


def variation_summary(setup: Setup, rows: list[Row]) -> dict[str, Any]:
    """Sum up variation for `summary.json`: which changes are benign, and what growing ones do."""
    return {
        "preset": setup.recipe.variation.preset,
        "strengths": setup.recipe.variation.strengths(),
        "on": "test" if len(setup.data.test) else "val",
        "rows": rows,
    }


def decoder_of(setup: Setup) -> Decoder:
    """Make the decoder by which the run reads its images."""
    data = setup.recipe.data
    return Decoder(data.image_size, data.resize, data.range)


def save(setup: Setup, partial: Path, kept: Calibrated, kind: str, *, refitted: bool) -> None:
    """Write encoder and detector into the run folder, and the sums that refitted statistics come from, which
    `update` adds to."""
    data = setup.recipe.data
    preprocessing = {"resize": data.resize, "range": data.range}
    looks = learn_appearance(setup.varied("calibration").pixels, len(setup.data.split.calibration))
    known = {"appearance": looks.plain(), "chance": kept.chance.plain()}
    about = {"statistics": kind, "preprocessing": preprocessing, **known}
    kept.detector.save(partial, about=about)
    if refitted and setup.recipe.gaussian.keep_sums and isinstance(kept.detector, GaussianDetector):
        settings, train = kept.detector.settings, setup.inputs("train")
        sums = sums_of_all(setup.encoder, train, setup.compute, settings, exact=True)
        save_sums(partial, sums, digest(setup.encoder.model))


def _compare(records: Sequence[Record], baseline: Baseline, assessment: Assessment | None) -> dict[str, Any]:
    """Test numbers of the final and of the pretrained encoder's detector, each at its own threshold, and of the
    change between them."""
    frozen = baseline.tested
    if assessment is None:
        return {"frozen_test": None, "test": None}
    if frozen is None:
        return {"frozen_test": None, **assessment.summary()}
    before = measure(records, frozen.scores, frozen.decides, baseline.point)
    return {
        "frozen_test": before | localise(records, frozen.maps, assessment.decoder).numbers,
        "frozen_test_intervals": intervals(records, frozen.score),
        "gain_intervals": gain_intervals(records, frozen.score, assessment.scores),
        **assessment.summary(),
    }


def _write_predictions(partial: Path, assessment: Assessment, baseline: Baseline) -> None:
    """Write a row for each test image, with what the pretrained encoder's detector said of it."""
    outputs, before = assessment.outputs, baseline.tested
    table = prediction_table(assessment.records, outputs.scores, outputs.decides, assessment.point)
    if before and baseline.point:
        table = table.assign(**frozen_columns(before.score, baseline.point))
    table.to_csv(partial / "predictions.csv", index=False)


def _draw(partial: Path, material: ReportData) -> None:
    """Draw the figures as files of their own, for those who write about a run."""
    kinds: Mapping[str, Floats] = score_kinds(material.held_out, material.assessment)
    score_figure(kinds, material.threshold, list(kinds)[:2]).savefig(partial / "scores.png", dpi=110)
    if material.verdict:
        figure = forgetting_figure(material.validations, material.verdict)
        figure.savefig(partial / "forgetting.png", dpi=110)
    what_if_figure(material.what_if).savefig(partial / "variation.png", dpi=110)
