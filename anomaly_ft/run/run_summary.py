"""The schema of `summary.json`, of a finished run and of an evaluation of one.

The models say what each key means, and docs/files.md is made from them. Unknown keys, numbers that are not
finite and texts in place of numbers are refused. Metrics stand under their names, see
`evaluation.metric_names`: which scores there are is the detector's affair.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from anomaly_ft.data.checks.audit import ShortcutAudit
from anomaly_ft.run.summary_parts import (
    Appearance,
    AttentionRow,
    Baseline,
    ChiSquare,
    ConditionRow,
    Count,
    Ends,
    KindRow,
    Masks,
    MeasuredData,
    MeasuredThreshold,
    Number,
    Numbers,
    Part,
    Rejected,
    RunData,
    Speed,
    StopReason,
    SuspiciousImage,
    Thresholds,
    UnderVariation,
)


class Tested(Part):
    """What a detector is worth on labelled test images."""

    name: str
    """Of the recipe."""
    seed: int
    """Of the recipe."""
    encoder: str
    """The timm model."""
    score: str
    """The score that decides; for `model.kind: gaussian` it is `expert.gaussian.score`."""
    folder_name: str
    """The name of the run folder; an evaluation has that of the run it measures."""
    thresholds: Thresholds
    """The decision threshold."""
    test: Numbers | None = None
    """[Metrics](metrics.md) on the test images, by name; `null` where there are none."""
    test_intervals: dict[str, Ends] = Field(default_factory=dict)
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
    tile: int | None = None
    """Longer side in pixels of the tiles that images were seen in; `null`: they were seen whole."""
    by: str = ""
    """What the conditions are, as `--by` said."""
    conditions: tuple[ConditionRow, ...] = ()
    """A row for each condition: camera, shift, month, lamp."""
    appearance: Appearance | None = None
    """Whether the images as a whole look like those the detector knows; `null` where the run does not tell."""
    notices: tuple[str, ...] = ()
    """What a person must know: false alarms beside the guarantee, images that differ, what is not at hand."""


class PositionSummary(Part):
    """What a position on the grid means to dense score and map; the numbers are of the pretrained encoder and
    `null` where the recipe says what it means."""

    asked: Literal["auto", "fixed", "free"]
    """`gaussian.position`."""
    chosen: Literal["fixed", "free"]
    """What it came to. `fixed`: a Gaussian at each position; `free`: one of all positions."""
    fixed_vicinal_auroc: Number | None
    """Vicinal AUROC of the dense score with a Gaussian at each position."""
    free_vicinal_auroc: Number | None
    """The same with one Gaussian of all positions."""
    standard_error: Number | None
    """Of the difference of the two, on the same images."""


class TeacherSummary(Part):
    """The encoder that taught in training; nothing else of it is kept."""

    name: str
    """`objective.teacher`."""
    weights: str
    """`expert.objective.teacher_weights`."""
    sha256: str
    """Of its weights."""
    levels: tuple[str, ...] = Field(min_length=1)
    """Its levels that taught."""


class UpdateSummary(Part):
    """What `anomaly-ft update` changed beside the run that it was given."""

    of: str
    """The name of that run's folder."""
    added: dict[str, Count]
    """New images that entered the statistics (`train`), the scores' scale (`val`) and the threshold
    (`calibration`)."""
    threshold_before: Number
    """The threshold of that run."""
    false_alarms_before: Rejected
    """Its calibration images above that threshold."""
    false_alarms: Rejected
    """The same images above the new one."""
    score_shift: Number
    """How far the mean of their scores moved, in their standard deviations before."""
    distance: Number
    """How far the median score of the new images lay above that mean before the update, in the same unit."""


class KnownKinds(Part):
    """Some kinds of test images against the good ones."""

    kinds: tuple[str, ...]
    """Which."""
    images: Count
    """Test images of these kinds."""
    image_auroc: Number
    """Of the kept detector, by the score that decides."""
    frozen_image_auroc: Number | None
    """The same of the pretrained encoder's; `null` without one."""


class KnownDefectsSummary(Part):
    """Known defects that were in the objective, and what they did for their kinds and for others."""

    images: Count
    """Of them in `data.known_defects`."""
    kinds: tuple[str, ...]
    """Their kinds, after their folders."""
    not_tested: tuple[str, ...]
    """Those kinds of which no test image is known to be."""
    seen: KnownKinds | None
    """The other kinds among them; `null` where there is no such test image, or no good one."""
    unseen: KnownKinds | None
    """Kinds of test images that were not in the objective. Images of which nobody knows the kind are in
    neither."""


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
    stop_why: str = ""
    """The same in words; empty in runs that are older than this."""
    epochs: Count
    """Epochs trained."""
    frozen_test: Numbers | None = None
    """Metrics of the pretrained encoder's detector on the same images, by name; `null` also without one."""
    frozen_test_intervals: dict[str, Ends] = Field(default_factory=dict)
    """Bootstrap intervals of them, by name."""
    gain_intervals: dict[str, Ends] = Field(default_factory=dict)
    """Bootstrap intervals of `test` less `frozen_test`, on the same images, by name."""
    test_by_statistics: dict[str, Numbers | None]
    """Metrics with statistics of the pretrained encoder (`pretrained`) and of the kept one (`refit`); a filter
    has the latter alone."""
    statistics: str
    """Which of them the detector has."""
    position: PositionSummary | None = None
    """Whether positions mean anything, and how that was found out; `null` in runs that are older than this."""
    teacher: TeacherSummary | None = None
    """Which larger encoder taught; `null` where none did."""
    known_defects: KnownDefectsSummary | None = None
    """What known defects did; `null` where there were none: only then are the numbers one-class."""
    level_weights: tuple[Number, ...]
    """What each level counts in the mean over levels; empty where no score is such a mean."""
    mixed: dict[float, Number]
    """Vicinal AUROC of each share of fine-tuned weights that `expert.schedule.interpolate` tried, the one kept
    last; empty where none was tried."""
    seconds: dict[str, Number]
    """Of each phase, by name; `expert.validation.max_share` is what `validate` may be of `train` and `validate`
    together."""
    variation: UnderVariation | None = None
    """What growing changes of light, focus, noise, compression and place do to both detectors."""
    images_per_second: Speed
    """How fast it was."""
    shortcuts: ShortcutAudit | None = None
    """What a light meter tells apart, see [Is my number worth anything?](worth.md): `verdict`, `says`, images
    in each group (`counts`), `rows`, questions `missing`, `examples`; `null` without test images."""
    suspicious: tuple[SuspiciousImage, ...] = ()
    """The training images to look at first, see [Is my number worth anything?](worth.md)."""
    left_out: tuple[str, ...] = ()
    """Training images that `expert.gaussian.robust` left out of every part of the split, by name."""
    update: UpdateSummary | None = None
    """What new good images changed; `null` in a run that was trained."""
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

    @property
    def kept_share(self) -> float:
        """Share of the best epoch's weights in the encoder that was kept; the others are pretrained ones."""
        return next(reversed(self.mixed), 1.0)

    @property
    def kept_vicinal_auroc(self) -> float | None:
        """Vicinal AUROC of the encoder that was kept, mixed or the best epoch's."""
        return self.mixed[self.kept_share] if self.mixed else self.vicinal_auroc[self.best_epoch]


@dataclass(frozen=True)
class FinishedRun:
    """A run folder with its summary, and the MLflow store it was logged to while it trained."""

    folder: Path
    summary: RunSummary
    mlflow_uri: str | None = None
