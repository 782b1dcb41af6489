"""The schema of `summary.json`, of a finished run and of an evaluation of one.

The models say what each key means, and docs/files.md is made from them. Unknown keys, numbers that are not
finite and texts in place of numbers are refused. Metrics stand under their names, see
`evaluation.metric_names`: which scores there are is the detector's affair.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from anomaly_ft.data.checks.audit import ShortcutAudit

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=0)]
Numbers = dict[str, Number | None]  # by metric name; None: not measured
Ends = tuple[Number, Number]  # of an interval
StopReason = Literal["forgetting", "no_progress", "max_epochs", "diverged"]


class Part(BaseModel):
    """A part of a summary: closed, frozen, finite; documented by its attributes' docstrings."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    def plain(self) -> dict[str, Any]:
        """Give plain values as they stand in the file."""
        return self.model_dump(mode="json")


class Skipped(Part):
    """A file that could not be read."""

    path: str
    """The file."""
    why: str
    """What was wrong with it."""


class MeasuredData(Part):
    """The labelled images that were measured on."""

    root: str
    """Where the images lie."""
    layout: str
    """How they are laid out."""
    test_normal: Count
    """Normal test images."""
    test_anomalous: Count
    """Anomalous test images."""
    skipped: tuple[Skipped, ...]
    """Files that could not be read."""


class RunData(MeasuredData):
    """All images of a run."""

    train: Count
    """Normal images that statistics were estimated from and that were trained on."""
    val: Count
    """Normal images held back to see forgetting."""
    calibration: Count
    """Normal images held back to set the threshold."""

    @property
    def normal(self) -> int:
        """How many normal images went into the run."""
        return self.train + self.val + self.calibration


class Baseline(Part):
    """Vicinal validation before training."""

    vicinal_auroc: Number | None
    """Mean over the informative augmentations."""
    severities: dict[str, Number]
    """Of each augmentation, calibrated or as the recipe says."""
    informative: tuple[str, ...]
    """Augmentations that leave room to show forgetting, so that they count for the stop decision."""


class Thresholds(Part):
    """The decision threshold."""

    threshold: Number
    """The score above which an image is called anomalous."""
    target_fpr: Number
    """The false positive rate asked for, `evaluation.false_positive_rate`."""
    guaranteed_fpr: Number
    """The rate that holds at most, averaged over calibration sets of this size."""
    images: Count
    """Held-out normal images that set it."""


class Observed(Part):
    """How many normal images a threshold rejected."""

    rejected: Count
    """Normal images above the threshold."""
    images: Count
    """Normal images."""
    rate: Number
    """The one over the other."""
    low: Number
    """Lower end of its 95 % Wilson interval."""
    high: Number
    """Upper end."""


class MeasuredThreshold(Thresholds):
    """The threshold, and what it did to test images."""

    likely_at_most: Number
    """The rate that this one threshold stays below with 95 % confidence."""
    observed: Observed | None
    """What it did to normal test images; `null` where there are none."""


class ChiSquare(Part):
    """A threshold that would hold if features were Gaussian."""

    level: str
    """The level; last, under a name of the detector's, the mean over all."""
    dimensions: Count
    """Of its features."""
    threshold: Number
    """A distance that a Gaussian exceeds with probability `target_fpr`."""
    target_fpr: Number
    """As above."""
    held_out: Observed | None
    """What that did to the normal images named; `null` where there are none."""


class KindRow(Part):
    """One kind of test image; beside the keys below it has metrics of this kind against the normal images."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Number | None]

    kind: str
    """`good`, or the type of defect."""
    images: Count
    """Test images of this kind."""
    rejected: Count
    """Of these above the threshold."""
    rejected_interval: Ends
    """Wilson interval of the share of these."""
    intervals: dict[str, Ends] = {}
    """Bootstrap intervals of the metrics, by name."""


class Masks(Part):
    """What pixel metrics rest on."""

    regions: Count
    """Connected regions in all masks."""
    with_mask: Count
    """Anomalous images whose mask was used."""
    empty_masks: Count
    """Anomalous images whose mask marks nothing."""
    without_mask: Count
    """Anomalous images without one."""
    unreadable_masks: Count
    """Images whose mask could not be read."""


class AttentionRow(Part):
    """Whether the detector looks at one type of defect."""

    kind: str
    """The type of defect."""
    images: Count
    """Images of it with a mask."""
    inside: Number
    """Mean share of the contribution map inside the mask."""
    area: Number
    """Mean share of the image that the mask covers."""
    elsewhere: bool
    """Whether the first is no larger than the second: the detector looks elsewhere."""


class Speed(Part):
    """How fast the run was."""

    train: Number | None
    """While training; `null` where nothing was trained."""


class Tested(Part):
    """What a detector is worth on labelled test images."""

    name: str
    """Of the recipe."""
    seed: int
    """Of the recipe."""
    encoder: str
    """The timm model."""
    score: str
    """The score that decides, `expert.gaussian.score`."""
    folder_name: str
    """The name of the run folder; an evaluation has that of the run it measures."""
    thresholds: Thresholds
    """The decision threshold."""
    test: Numbers | None = None
    """[Metrics](metrics.md) on the test images, by name; `null` where there are none."""
    test_intervals: dict[str, Ends] = {}
    """Bootstrap intervals of them, by name."""
    test_by_kind: tuple[KindRow, ...] = ()
    """A row for each kind of test image, `good` first, with its metrics by name."""
    test_masks: Masks | None = None
    """What the pixel metrics rest on."""
    test_attention: tuple[AttentionRow, ...] = ()
    """Whether the detector looks at the defect: a row for each type with masks."""
    test_threshold: MeasuredThreshold | None = None
    """The threshold with what it did to normal test images."""
    chi_square: tuple[ChiSquare, ...]
    """Thresholds that would hold if features were Gaussian; they decide nothing."""
    versions: dict[str, str]
    """Of this package and of the libraries that decide numbers."""


class EvaluationSummary(Tested):
    """What `anomaly-ft evaluate` writes down."""

    run: str
    """The name of the run folder that was measured."""
    data: MeasuredData
    """What it was measured on."""


class RunSummary(Tested):
    """What a finished run writes down; epoch 0 is the pretrained encoder."""

    data: RunData
    """The images, and what each served."""
    baseline: Baseline
    """Vicinal validation before training."""
    vicinal_auroc: tuple[Number | None, ...] = Field(min_length=1)
    """Of each epoch, 0 first; `null` for an epoch that diverged."""
    best_epoch: Count
    """The epoch whose encoder was kept; 0: the pretrained one."""
    stop_reason: StopReason
    """Why training ended."""
    epochs: Count
    """Epochs trained."""
    frozen_test: Numbers | None = None
    """Metrics of the pretrained encoder's detector on the same images, by name."""
    frozen_test_intervals: dict[str, Ends] = {}
    """Bootstrap intervals of them, by name."""
    gain_intervals: dict[str, Ends] = {}
    """Bootstrap intervals of `test` less `frozen_test`, on the same images, by name."""
    test_by_statistics: dict[str, Numbers | None]
    """Metrics with statistics of the pretrained encoder (`pretrained`) and of the kept one (`refit`)."""
    statistics: str
    """Which of the two the detector has."""
    level_weights: tuple[Number, ...]
    """What each level counts in the mean over levels."""
    mixed: dict[float, Number]
    """Vicinal AUROC of each share of fine-tuned weights that `expert.schedule.interpolate` tried, the one kept
    last; empty where none was tried."""
    seconds: dict[str, Number]
    """Of each phase, by name; `expert.validation.max_share` is what `validate` may be of `train` and `validate`
    together."""
    images_per_second: Speed
    """How fast it was."""
    shortcuts: ShortcutAudit | None = None
    """What a light meter tells apart, see [Is my number worth anything?](worth.md): `verdict`, `says`, images
    in each group (`counts`), `rows`, questions `missing`, `examples`; `null` without test images."""
    git_commit: str
    """Of the folder the command ran in, or `none`."""
    mlflow_run_id: str | None
    """The run in MLflow, or `null`."""

    @model_validator(mode="after")
    def _best_epoch_is_one_of_the_curve(self) -> "RunSummary":
        if self.epochs != len(self.vicinal_auroc) - 1:
            raise ValueError(f"vicinal_auroc has {len(self.vicinal_auroc)} values, expected epochs + 1")
        if self.best_epoch > self.epochs or self.vicinal_auroc[self.best_epoch] is None:
            raise ValueError(f"best_epoch is {self.best_epoch}, which has no vicinal_auroc")
        return self

    @property
    def curve(self) -> list[float]:
        """Vicinal AUROC of the epochs that have one, 0 first."""
        return [value for value in self.vicinal_auroc if value is not None]


@dataclass(frozen=True)
class FinishedRun:
    """A run folder with its summary, and the MLflow store it was logged to while it trained."""

    folder: Path
    summary: RunSummary
    mlflow_uri: str | None = None
